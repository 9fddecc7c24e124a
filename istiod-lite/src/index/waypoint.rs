//! Waypoints: the Gateways that ask for one, and all that configures them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_api::experimental::grpcroutes::GrpcRoute;
use gateway_api::experimental::httproutes::HttpRoute;
use gateway_api::experimental::tcproutes::TcpRoute;
use gateway_api::experimental::tlsroutes::TlsRoute;
use gateway_api::gateways::Gateway;
use k8s_openapi::api::core::v1::Service;

use super::binding::{Binding, Requester, Unavailability};
use super::links::label_key;
use super::objects::{Store, in_namespace};
use super::route::RouteKey;
use super::{Index, label, selects};
use crate::source::crd::AuthorizationPolicy;
use crate::source::crd::networking::ServiceEntry;
use crate::source::{Kind, NamespacedName, Pod};

/// What traffic a waypoint serves (`istio.io/waypoint-for`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaypointFor {
    /// Traffic to services; the default.
    Service,
    /// Traffic to pods by their address.
    Workload,
    /// Both.
    All,
    /// Neither.
    None,
}

impl WaypointFor {
    /// What a Gateway says; a word that is none of ours is taken for the default.
    #[must_use]
    pub fn of(gateway: &Gateway) -> Self {
        let labels = gateway.metadata.labels.as_ref();
        match labels.and_then(|labels| labels.get(label::WAYPOINT_FOR)).map(String::as_str) {
            Some("workload") => Self::Workload,
            Some("all") => Self::All,
            Some("none") => Self::None,
            _ => Self::Service,
        }
    }

    /// Whether services go through it.
    #[must_use]
    pub fn serves_services(self) -> bool {
        matches!(self, Self::Service | Self::All)
    }

    /// Whether pods dialled by their address go through it.
    #[must_use]
    pub fn serves_workloads(self) -> bool {
        matches!(self, Self::Workload | Self::All)
    }
}

/// A waypoint and what goes through it.
#[derive(Debug, Clone)]
pub struct Waypoint {
    /// Namespace and name of its Gateway.
    pub name: NamespacedName,
    /// The Gateway.
    pub gateway: Arc<Gateway>,
    /// The services bound to it, in the order of their names. A service whose waypoint has no address yet is bound
    /// already, so that the waypoint is configured by the time traffic comes.
    pub services: Vec<Arc<Service>>,
    /// The hosts of ServiceEntries bound to it, with the entry that says what each is.
    pub hosts: BTreeMap<NamespacedName, Arc<ServiceEntry>>,
    /// The pods bound to it by their own address.
    pub pods: Vec<Arc<Pod>>,
}

impl Index {
    /// The Gateways that ask for a waypoint.
    pub fn waypoints(&self) -> impl Iterator<Item = &NamespacedName> {
        self.objects().gateways.iter().filter(|(_, gateway)| self.is_waypoint(gateway)).map(|(name, _)| name)
    }

    /// The waypoint a Gateway asks for; `None` when there is no such Gateway or it is of another class.
    #[must_use]
    pub fn waypoint(&self, name: &NamespacedName) -> Option<Waypoint> {
        let gateway = self.objects().gateways.get(name).filter(|gateway| self.is_waypoint(gateway))?;
        let (mut services, mut pods, mut entries) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for requester in self.links.requesters.get(name) {
            match requester {
                Requester::Service(service) => _ = services.insert(service),
                Requester::Pod(pod) => _ = pods.insert(pod),
                Requester::Entry(entry) => _ = entries.insert(entry),
                Requester::Namespace(namespace) => {
                    services.extend(in_namespace(&self.objects().services, namespace).map(|(name, _)| name));
                    pods.extend(in_namespace(&self.objects().pods, namespace).map(|(name, _)| name));
                    entries.extend(in_namespace(&self.objects().service_entries, namespace).map(|(name, _)| name));
                }
            }
        }
        let services = services.into_iter().filter_map(|service| self.objects().services.get(service));
        let entries = entries.into_iter().filter_map(|entry| self.objects().service_entries.get(entry));
        let entries = entries.filter(|entry| serves(self.entry_binding(entry), name));
        let pods = pods.into_iter().filter_map(|pod| self.objects().pods.get(pod));
        Some(Waypoint {
            name: name.clone(),
            gateway: gateway.clone(),
            services: services.filter(|service| serves(self.service_binding(service), name)).cloned().collect(),
            hosts: entries.flat_map(|entry| self.hosts_of_entry(entry).into_iter().map(|host| (host, entry.clone()))).collect(),
            pods: pods.filter(|pod| serves(self.pod_binding(pod), name)).cloned().collect(),
        })
    }

    /// The HTTPRoutes attached to a service (`parentRefs` of kind Service), producer and consumer routes alike.
    #[must_use]
    pub fn http_routes_of_service(&self, service: &NamespacedName) -> Vec<&Arc<HttpRoute>> {
        of_kind(Kind::HttpRoute, self.links.routes_by_service.get(service), &self.objects().http_routes)
    }

    /// The HTTPRoutes attached to a Gateway.
    #[must_use]
    pub fn http_routes_of_gateway(&self, gateway: &NamespacedName) -> Vec<&Arc<HttpRoute>> {
        of_kind(Kind::HttpRoute, self.links.routes_by_gateway.get(gateway), &self.objects().http_routes)
    }

    /// The GRPCRoutes attached to a Gateway.
    #[must_use]
    pub fn grpc_routes_of_gateway(&self, gateway: &NamespacedName) -> Vec<&Arc<GrpcRoute>> {
        of_kind(Kind::GrpcRoute, self.links.routes_by_gateway.get(gateway), &self.objects().grpc_routes)
    }

    /// The TLSRoutes attached to a Gateway.
    #[must_use]
    pub fn tls_routes_of_gateway(&self, gateway: &NamespacedName) -> Vec<&Arc<TlsRoute>> {
        of_kind(Kind::TlsRoute, self.links.routes_by_gateway.get(gateway), &self.objects().tls_routes)
    }

    /// The TCPRoutes attached to a Gateway.
    #[must_use]
    pub fn tcp_routes_of_gateway(&self, gateway: &NamespacedName) -> Vec<&Arc<TcpRoute>> {
        of_kind(Kind::TcpRoute, self.links.routes_by_gateway.get(gateway), &self.objects().tcp_routes)
    }

    /// The TCPRoutes attached to a service.
    #[must_use]
    pub fn tcp_routes_of_service(&self, service: &NamespacedName) -> Vec<&Arc<TcpRoute>> {
        of_kind(Kind::TcpRoute, self.links.routes_by_service.get(service), &self.objects().tcp_routes)
    }

    /// The TLSRoutes attached to a service.
    #[must_use]
    pub fn tls_routes_of_service(&self, service: &NamespacedName) -> Vec<&Arc<TlsRoute>> {
        of_kind(Kind::TlsRoute, self.links.routes_by_service.get(service), &self.objects().tls_routes)
    }

    /// The GRPCRoutes attached to a service.
    #[must_use]
    pub fn grpc_routes_of_service(&self, service: &NamespacedName) -> Vec<&Arc<GrpcRoute>> {
        of_kind(Kind::GrpcRoute, self.links.routes_by_service.get(service), &self.objects().grpc_routes)
    }

    /// The AuthorizationPolicies that target a service by `targetRefs`; they live in its namespace.
    #[must_use]
    pub fn policies_of_service(&self, service: &NamespacedName) -> Vec<&Arc<AuthorizationPolicy>> {
        self.policies_targeting("Service", service)
    }

    /// The AuthorizationPolicies that hold for all traffic of a waypoint: those that target its Gateway, and those of
    /// the root namespace that target its class.
    #[must_use]
    pub fn policies_of_waypoint(&self, name: &NamespacedName) -> Vec<&Arc<AuthorizationPolicy>> {
        let mut policies = self.policies_targeting("Gateway", name);
        if let Some(gateway) = self.objects().gateways.get(name) {
            let class = gateway.spec.gateway_class_name.as_str();
            let class = NamespacedName::new(self.config().root_namespace.as_str(), class);
            policies.extend(self.policies_targeting("GatewayClass", &class));
        }
        policies
    }

    fn policies_targeting(&self, kind: &str, target: &NamespacedName) -> Vec<&Arc<AuthorizationPolicy>> {
        let names = self.links.policies_by_target.get(&(kind.to_owned(), target.clone()));
        names.filter_map(|name| self.objects().authorization_policies.get(name)).collect()
    }

    /// The AuthorizationPolicies whose selector selects a pod: those of its namespace and of the root namespace, by name.
    #[must_use]
    pub fn selector_policies_of_pod(&self, pod: &Pod) -> Vec<&Arc<AuthorizationPolicy>> {
        let labels = pod.metadata.labels.as_ref();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut namespaces = vec![namespace, self.config().root_namespace.as_str()];
        namespaces.dedup();
        let mut names = BTreeSet::new();
        for namespace in namespaces {
            let scope = NamespacedName::new(namespace, "");
            let pairs = labels.into_iter().flatten();
            names.extend(pairs.flat_map(|pair| self.links.policies_by_selector.get(&label_key(&scope, Some(pair)))));
        }
        let policies = names.into_iter().filter_map(|name| self.objects().authorization_policies.get(name));
        policies
            .filter(|policy| policy.spec.selector.as_ref().is_some_and(|selector| selects(&selector.match_labels, labels)))
            .collect()
    }

    /// Whether a route of the namespace may send to a service: its own namespace always, another with a ReferenceGrant.
    #[must_use]
    pub fn may_refer(&self, from_kind: Kind, from_namespace: &str, to: &NamespacedName) -> bool {
        if *to.namespace == *from_namespace {
            return true;
        }
        in_namespace(&self.objects().reference_grants, &to.namespace).any(|(_, grant)| {
            let from = grant.spec.from.iter().any(|from| {
                from.group == "gateway.networking.k8s.io" && from.kind == from_kind.as_str() && from.namespace == from_namespace
            });
            let to_ok = grant.spec.to.iter().any(|target| {
                target.group.is_empty() && target.kind == "Service" && target.name.as_deref().is_none_or(|name| name == &*to.name)
            });
            from && to_ok
        })
    }
}

/// Those of a kind among routes of all kinds.
fn of_kind<'a, R>(kind: Kind, keys: impl Iterator<Item = &'a RouteKey>, routes: &'a Store<R>) -> Vec<&'a Arc<R>> {
    keys.filter(|key| key.kind == kind).filter_map(|key| routes.get(&key.name)).collect()
}

/// Whether a binding is to this waypoint and only its address may be wanting.
fn serves(binding: Binding, name: &NamespacedName) -> bool {
    match binding {
        Binding::Bound { waypoint, .. } => waypoint == *name,
        Binding::Unavailable { waypoint, reason } => waypoint == *name && reason == Unavailability::NotReady,
        Binding::None | Binding::OtherTraffic(_) => false,
    }
}
