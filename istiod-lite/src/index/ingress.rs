//! Gateways at the edge of the mesh: what their listeners are for, and which routes each takes, for which hosts.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_api::gateways::{Gateway, GatewayListeners};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::binding::Binding;
use super::certificates::unspoken;
use super::listeners::ToListener;
use super::objects::cluster_scoped;
use super::protocols::{TCP, TLS, share_a_port};
use super::route::{RouteKey, parent_refs};
use super::waypoint::Waypoint;
use super::{Index, is_dry_run, label};
use crate::source::crd::AuthorizationPolicy;
use crate::source::{NamespacedName, Object};

/// The class of Gateways at the edge of the mesh.
pub const INGRESS_CLASS: &str = "ambit";
/// The controller of that class, and of others that are to be the same.
pub const INGRESS_CONTROLLER: &str = "ambit.dev/gateway-controller";
/// The protocol of listeners that speak TLS and look at the requests in it.
pub const HTTPS: &str = "HTTPS";
/// What is added to a port below 1024 for the one that it is in the pod, which has not the privilege to open those.
const ABOVE_PRIVILEGED: u16 = 10_000;
/// The ports of the proxy itself.
const OWN_PORTS: [u16; 4] = [15000, 15008, 15020, 15021];

/// Why a listener at the edge of the mesh does not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unserved {
    /// Its protocol is not carried out.
    Protocol,
    /// What it asks of TLS is not carried out, as this says.
    Tls(&'static str),
    /// Its port is none, is the proxy's own, or is in the pod that of another listener.
    Port,
    /// Another listener speaks something else on its port.
    OtherProtocol,
    /// Another listener is for the same hosts on its port.
    SameHostname,
}

/// A route that a listener takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The route.
    pub route: RouteKey,
    /// The hosts that it is for there; never empty, and `*` for any.
    pub hosts: Vec<String>,
}

/// A service that must not be reached past its waypoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The waypoint.
    pub waypoint: NamespacedName,
    /// Its label asks for the waypoint; else policies do that are enforced there.
    pub by_label: bool,
}

/// The port in the pod that connections to a port of the Gateway arrive at.
#[must_use]
pub fn container_port(port: u16) -> u16 {
    if port < 1024 { port + ABOVE_PRIVILEGED } else { port }
}

/// The host that a listener is for, in lower case; `*` for any.
#[must_use]
pub fn listener_host(listener: &GatewayListeners) -> String {
    let host = listener.hostname.as_deref().filter(|host| !host.is_empty());
    host.map_or_else(|| "*".to_owned(), str::to_ascii_lowercase)
}

/// Why a listener of a Gateway at the edge does not serve. Of those that conflict none does, as the specification asks. One whose certificates are
/// missing serves as soon as they are there ([`Index::certificates`]).
#[must_use]
pub fn unserved(gateway: &Gateway, listener: &GatewayListeners) -> Option<Unserved> {
    if !matches!(listener.protocol.as_str(), "HTTP" | HTTPS | TLS | TCP) {
        return Some(Unserved::Protocol);
    }
    if matches!(listener.protocol.as_str(), HTTPS | TLS)
        && let Some(why) = unspoken(gateway, listener)
    {
        return Some(Unserved::Tls(why));
    }
    let others: Vec<&GatewayListeners> = gateway.spec.listeners.iter().filter(|other| other.name != listener.name).collect();
    let port = u16::try_from(listener.port).ok().filter(|port| *port > 0 && !OWN_PORTS.contains(port));
    let Some(port) = port else { return Some(Unserved::Port) };
    let below = port.checked_sub(ABOVE_PRIVILEGED).filter(|below| (1..1024).contains(below));
    if below.is_some_and(|below| others.iter().any(|other| other.port == i32::from(below))) {
        return Some(Unserved::Port);
    }
    let on_port = || others.iter().filter(|other| other.port == listener.port && other.protocol != "UDP");
    if on_port().any(|other| !share_a_port(listener, other)) {
        return Some(Unserved::OtherProtocol);
    }
    let host = listener_host(listener);
    // A connection says no host.
    on_port().any(|other| listener.protocol == TCP || listener_host(other) == host).then_some(Unserved::SameHostname)
}

/// Whether all hosts of `inner` are hosts of `outer`; either may be a wildcard, which stands for one label or more.
#[must_use]
pub fn covers_host(outer: &str, inner: &str) -> bool {
    let wider = |suffix: &str| inner.trim_start_matches('*').len() > suffix.len() && inner.ends_with(suffix);
    outer == "*" || outer == inner || outer.strip_prefix('*').is_some_and(wider)
}

/// The hosts that a listener and a route are both for.
pub(super) fn shared_hosts(listener: &GatewayListeners, hostnames: &[String]) -> Vec<String> {
    let own = listener_host(listener);
    if hostnames.is_empty() {
        return vec![own];
    }
    let mut shared: Vec<String> = Vec::new();
    for host in hostnames.iter().map(|host| host.to_ascii_lowercase()) {
        let host = if covers_host(&own, &host) {
            host
        } else if covers_host(&host, &own) {
            own.clone()
        } else {
            continue;
        };
        if !shared.contains(&host) {
            shared.push(host);
        }
    }
    shared
}

/// The hosts that a route says it is for; none for all, and for those that say none.
#[must_use]
pub fn hostnames(route: &Object) -> &[String] {
    match route {
        Object::HttpRoute(route) => route.spec.hostnames.as_deref().unwrap_or_default(),
        Object::GrpcRoute(route) => route.spec.hostnames.as_deref().unwrap_or_default(),
        Object::TlsRoute(route) => &route.spec.hostnames,
        _ => &[],
    }
}

impl Index {
    /// Whether a Gateway is at the edge of the mesh: its class is of the controller of these, or `ambit` while there is none of that name.
    #[must_use]
    pub fn is_ingress(&self, gateway: &Gateway) -> bool {
        let class = gateway.spec.gateway_class_name.as_str();
        match cluster_scoped(&self.objects().gateway_classes, class) {
            Some(object) => object.spec.controller_name == INGRESS_CONTROLLER && !self.is_waypoint(gateway),
            None => class == INGRESS_CLASS,
        }
    }

    /// The Gateways at the edge of the mesh.
    pub fn ingresses(&self) -> impl Iterator<Item = &NamespacedName> {
        self.objects().gateways.iter().filter(|(_, gateway)| self.is_ingress(gateway)).map(|(name, _)| name)
    }

    /// A Gateway at the edge, as a waypoint that nothing is bound to; `None` when there is no such Gateway or it is of another class.
    #[must_use]
    pub fn ingress(&self, name: &NamespacedName) -> Option<Waypoint> {
        let gateway = self.objects().gateways.get(name).filter(|gateway| self.is_ingress(gateway))?;
        Some(Waypoint {
            name: name.clone(),
            gateway: gateway.clone(),
            services: Vec::new(),
            hosts: BTreeMap::new(),
            pods: Vec::new(),
        })
    }

    /// The routes that a listener at the edge takes, the oldest first. Of an HTTPRoute and a GRPCRoute for the same hosts the older one
    /// holds (specification of GRPCRoute). Of several TCPRoutes the first holds, and all are attached (Gateway API, conflicts).
    #[must_use]
    pub fn routes_on(&self, gateway: &NamespacedName, listener: &GatewayListeners) -> Vec<Taken> {
        let http = self.http_routes_of_gateway(gateway).into_iter().map(|route| Object::HttpRoute(Arc::clone(route)));
        let grpc = self.grpc_routes_of_gateway(gateway).into_iter().map(|route| Object::GrpcRoute(Arc::clone(route)));
        let tls = self.tls_routes_of_gateway(gateway).into_iter().map(|route| Object::TlsRoute(Arc::clone(route)));
        let tcp = self.tcp_routes_of_gateway(gateway).into_iter().map(|route| Object::TcpRoute(Arc::clone(route)));
        let all = http.chain(grpc).chain(tls).chain(tcp);
        let mut routes: Vec<Object> = all.filter(|route| self.names_listener(route, gateway, listener)).collect();
        routes.sort_by_cached_key(|route| {
            let created = route.metadata().creation_timestamp.as_ref().map(|time| time.0);
            (created.is_none(), created, NamespacedName::of(route.metadata()))
        });
        let mut taken: Vec<Taken> = Vec::new();
        for route in routes {
            let key = RouteKey { kind: route.kind(), name: NamespacedName::of(route.metadata()) };
            let hosts = shared_hosts(listener, hostnames(&route));
            let meets = |other: &Taken| {
                other.hosts.iter().any(|one| hosts.iter().any(|two| covers_host(one, two) || covers_host(two, one)))
            };
            if !taken.iter().any(|other| other.route.kind != key.kind && meets(other)) {
                taken.push(Taken { route: key, hosts });
            }
        }
        taken
    }

    /// Whether a route names a listener that takes it.
    fn names_listener(&self, route: &Object, gateway: &NamespacedName, listener: &GatewayListeners) -> bool {
        let own = NamespacedName::of(route.metadata());
        parent_refs(route).iter().any(|parent| {
            let target = NamespacedName::new(parent.namespace.unwrap_or(&own.namespace), parent.name);
            let to = ToListener {
                kind: route.kind(),
                namespace: &own.namespace,
                port: parent.port,
                section_name: parent.section_name,
                hostnames: hostnames(route),
            };
            (parent.group, parent.kind) == ("gateway.networking.k8s.io", "Gateway")
                && target == *gateway
                && self.listener_takes(gateway, listener, to).is_ok()
        })
    }

    /// Whether requests from outside of the mesh must not reach a service past its waypoint. As in Istio they do unless the label
    /// `istio.io/ingress-use-waypoint` of the service, or of its namespace, is `true`; unlike there not where policies would be left out
    /// that are enforced at the waypoint, unless the label says `false`.
    #[must_use]
    pub fn kept_from_ingress(&self, name: &NamespacedName) -> Option<Kept> {
        let service = self.objects().services.get(name)?;
        let (Binding::Bound { waypoint, .. } | Binding::Unavailable { waypoint, .. }) = self.service_binding(service) else {
            return None;
        };
        let said = |metadata: &ObjectMeta| metadata.labels.as_ref()?.get(label::INGRESS_USE_WAYPOINT).cloned();
        let namespace = cluster_scoped(&self.objects().namespaces, &name.namespace);
        let label = said(&service.metadata).or_else(|| said(&namespace?.metadata));
        match label.as_deref() {
            Some("true") => Some(Kept { waypoint, by_label: true }),
            Some("false") => None,
            _ => {
                // What refuses nothing is not left out by going past the waypoint.
                let enforced = |policies: Vec<&Arc<AuthorizationPolicy>>| policies.into_iter().any(|policy| !is_dry_run(policy));
                let policies = enforced(self.policies_of_service(name))
                    || enforced(self.policies_of_waypoint(&waypoint))
                    || !self.token_policies_of_service(name).is_empty()
                    || !self.token_policies_of_waypoint(&waypoint).is_empty();
                policies.then_some(Kept { waypoint, by_label: false })
            }
        }
    }
}
