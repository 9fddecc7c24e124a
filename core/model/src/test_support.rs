//! Small parts for the tests of this crate.

use std::net::IpAddr;

use crate::{
    address::{Network, ServiceKey},
    service::{Port, Service},
    workload::{Kind, Locality, Tunnel, Uid, Workload},
};

/// A healthy HBONE workload of namespace `shop`, whose account is its name.
pub(crate) fn workload(name: &str, address: &str) -> Workload {
    Workload {
        uid: Uid::from(format!("Kubernetes//Pod/shop/{name}").as_str()),
        name: name.into(),
        namespace: "shop".parse().unwrap(),
        addresses: address.split(',').map(|ip| ip.parse::<IpAddr>().unwrap()).collect(),
        hostname: "".into(),
        network: Network::default(),
        tunnel: Tunnel::Hbone,
        native_tunnel: false,
        identity: format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap(),
        waypoint: None,
        network_gateway: None,
        node: "node-1".into(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        kind: Kind::Deployment,
        workload_name: name.into(),
        application_tunnel: None,
        services: Default::default(),
        policies: Vec::new(),
        healthy: true,
        cluster: "Kubernetes".into(),
        locality: Locality::default(),
        host_network: false,
        capacity: 1,
        extensions: Box::default(),
    }
}

/// The key of a service of namespace `shop`.
pub(crate) fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "shop".parse().unwrap(), hostname: format!("{name}.shop.svc.cluster.local").into() }
}

/// A service of namespace `shop` with port 80 before target port 8080.
pub(crate) fn service(name: &str, vips: &[&str]) -> Service {
    Service {
        key: key(name),
        name: name.into(),
        vips: vips.iter().map(|ip| crate::address::NetworkAddress::new(Network::default(), ip.parse().unwrap())).collect(),
        ports: vec![port(80, 8080)],
        subject_alt_names: Vec::new(),
        waypoints: Vec::new(),
        load_balancing: Default::default(),
        canonical: true,
        families: Default::default(),
        private: false,
        extensions: Box::default(),
    }
}

/// A port and the port behind it.
pub(crate) fn port(service_port: u16, target_port: u16) -> Port {
    Port { service_port, target_port, app_protocol: Default::default() }
}

/// The same workload as an endpoint of a service, with no ports of its own.
pub(crate) fn endpoint_of(mut workload: Workload, service: &str) -> Workload {
    workload.services = workload.services.with(key(service), Vec::new());
    workload
}
