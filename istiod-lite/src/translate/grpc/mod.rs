//! Envoy v3 resources for gRPC clients that speak xDS themselves, without a proxy that speaks HTTP between them and a service.
//!
//! A client that dials `xds:///HOST:PORT` asks for the listener `HOST:PORT`. It names the route configuration of the same name, which names
//! clusters by the names that they have in waypoints, and these have the service's endpoints by their own addresses: the node proxies carry
//! and encrypt the connections to them, as any others. What is spoken is the part of xDS that gRPC knows (gRFC A27, A28).
//!
//! A service that goes through a waypoint has one endpoint, its own address: node proxies lead that to the waypoint, where its routes
//! and policies are, and refuse it while there is none. Nobody gets around the waypoint by this.

mod endpoint;
mod route;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ambit_api::envoy::pb::envoy::config::cluster::v3::Cluster;
use ambit_api::envoy::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use ambit_api::envoy::pb::envoy::config::listener::v3::{ApiListener, Listener};
use ambit_api::envoy::pb::envoy::extensions::filters::http::router::v3::Router;
use ambit_api::envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter::ConfigType,
};

use super::waypoint::names::{INVALID_BACKEND, Layer};
use super::waypoint::route::{Attached, Backend};
use super::waypoint::scope::ServedPort;
use super::waypoint::wire::{ads, any, seconds};
use super::waypoint::{Resources, names};
use super::workload::virtual_addresses;
use crate::index::{Binding, Index, ServicePort, ServiceRef};
use crate::source::NamespacedName;

/// What clients may ask for of a Service; nothing when there is none of the name, and of one that is DNS's alone.
#[must_use]
pub fn service(index: &Index, name: &NamespacedName) -> Resources {
    let mut resources = Resources::default();
    let Some(object) = index.objects().services.get(name) else { return resources };
    if object.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        return resources;
    }
    let (service, addresses) = (ServiceRef::Kubernetes(name.clone()), virtual_addresses(object));
    let through = match index.service_binding(object) {
        Binding::None | Binding::OtherTraffic(_) => None,
        // Without an address of its own it is reached by those of its pods, which waypoints for services do not serve.
        Binding::Bound { .. } | Binding::Unavailable { .. } => addresses.first().copied(),
    };
    let mut seen = BTreeSet::new();
    for port in index.service_ports(&service).into_iter().filter(|port| seen.insert(port.port)) {
        let port = served(index, service.clone(), addresses.clone(), port, through.is_none());
        add(&mut resources, index, &port, through);
    }
    resources
}

/// What stands for backends that cannot be resolved: a cluster without endpoints, as a client that is not sent a cluster waits for it.
#[must_use]
pub fn fixed() -> Resources {
    let assignment = any(&endpoint::none(INVALID_BACKEND));
    Resources {
        clusters: vec![(INVALID_BACKEND.into(), any(&cluster(INVALID_BACKEND)))],
        endpoints: vec![(INVALID_BACKEND.into(), assignment)],
        ..Resources::default()
    }
}

/// A port, with the routes that name the service if they are for the client to carry out.
fn served(index: &Index, service: ServiceRef, addresses: Vec<IpAddr>, port: ServicePort, routed: bool) -> ServedPort<'_> {
    let (host, name) = (service.hostname(index.config()), names::of_service(index.config(), &service));
    let mut port =
        ServedPort { service, host, name, addresses, port, attached: Attached::default(), secure: false, outside: false };
    if routed {
        port.attached = Attached::by_service(index, &port);
    }
    port
}

fn add(resources: &mut Resources, index: &Index, port: &ServedPort<'_>, through: Option<IpAddr>) {
    let target = format!("{}:{}", port.host, port.port.port);
    let own = Backend { service: port.service.clone(), port: port.port.port, subset: None };
    let cluster_name = own.cluster(index, Layer::Http);
    let assignment = match through {
        Some(address) => endpoint::one(&cluster_name, address, port.port.port),
        None => endpoint::assignment(index, &cluster_name, &own),
    };
    resources.listeners.push((target.clone(), any(&listener(&target))));
    resources.routes.push((target.clone(), any(&route::configuration(index, port, target))));
    resources.clusters.push((cluster_name.clone(), any(&cluster(&cluster_name))));
    resources.endpoints.push((cluster_name, any(&assignment)));
    for subset in index.subsets_of(&port.service) {
        let part = Backend { subset: Some(subset.name.clone()), ..own.clone() };
        let name = part.cluster(index, Layer::Http);
        let assignment = match through {
            // It is the waypoint that chooses: calls that a route of another service leads to a part of this one fail at once.
            Some(_) => endpoint::none(&name),
            None => endpoint::assignment(index, &name, &part),
        };
        resources.clusters.push((name.clone(), any(&cluster(&name))));
        resources.endpoints.push((name, any(&assignment)));
    }
}

fn listener(target: &str) -> Listener {
    let router = HttpFilter {
        name: "envoy.filters.http.router".into(),
        config_type: Some(ConfigType::TypedConfig(any(&Router::default()))),
        ..Default::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: target.into(),
        route_specifier: Some(RouteSpecifier::Rds(Rds { config_source: ads(), route_config_name: target.into() })),
        http_filters: vec![router],
        ..Default::default()
    };
    Listener { name: target.into(), api_listener: Some(ApiListener { api_listener: Some(any(&manager)) }), ..Default::default() }
}

/// Round robin, which is the default, over endpoints that are discovered.
fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.into(),
        connect_timeout: seconds(5),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: ads(), service_name: String::new() }),
        ..Default::default()
    }
}
