//! All objects the mesh is made of, and what follows from what.
//!
//! [`Index::apply`] takes one event and returns the keys of the resources that it may have changed; it reads no clock
//! and does no I/O. The translations are functions of the index alone, so any order of the same events ends in the
//! same resources. Every object is kept once, behind an `Arc`; the reverse indexes in `links` say which objects an
//! event can reach, so that the cost of an event is that of what it touches.

mod access_logs;
mod administrators;
mod affected;
mod authorizer;
mod backend;
mod binding;
mod certificates;
mod context;
mod endpoint;
mod external;
mod grpc;
mod ingress;
mod keys;
mod links;
mod listeners;
mod member;
mod metrics;
mod objects;
mod places;
mod policy;
mod port;
mod processor;
mod protocols;
mod requests;
mod route;
mod service;
mod subset;
mod telemetry;
mod traffic;
mod virtual_services;
mod waypoint;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ambit_identity::TrustDomain;

pub use access_logs::LogsTo;
pub use authorizer::{Asked, Limited};
pub use backend::is_service as is_backend_service;
pub use binding::{Binding, GatewayEndpoint, Requester, Unavailability, asks_for_waypoint};
pub use certificates::Uncertified;
pub(crate) use certificates::{grants_secret, named_secrets};
pub use context::RouteContext;
pub use endpoint::{
    Endpoint, EndpointHealth, Locality, has_ended, host_network, native_tunnel, pod_addresses, pod_health, selects,
    service_account,
};
pub use external::{External, ExternalKey};
pub use ingress::{
    HTTPS, INGRESS_CLASS, INGRESS_CONTROLLER, Kept, Taken, Unserved, container_port, covers_host, hostnames, listener_host,
    unserved,
};
pub use listeners::{ToListener, Untaken, WAYPOINT_LISTENER, takes_kind};
pub use member::{Members, Ports};
pub use objects::{Objects, Store, cluster_scoped, in_namespace};
pub(crate) use policy::is_service;
pub use port::{ServicePort, TargetPort};
pub use processor::Processes;
pub use protocols::{TCP, TLS, carries_connections, ends_tls, kinds as kinds_of_listener};
pub(crate) use requests::{foremost, route_kind, upgrades_allowed_by, writes_allowed_by};
pub use route::{ParentRef, RouteKey, parent_refs};
pub use service::{ServiceRef, entry_has_addresses};
pub(crate) use service::{entry_hosts, single_address};
pub use telemetry::Traced;
pub(crate) use traffic::covers;
pub(crate) use virtual_services::destinations;
pub use waypoint::{Waypoint, WaypointFor};

use crate::jwks::Learned;
use crate::source::crd::AuthorizationPolicy;
use crate::source::{Event, NamespacedName};
use crate::translate::waypoint::RequestRoute;
use links::Links;

/// Labels and annotations that the mesh gives a meaning to (wire contract, section 7).
pub mod label {
    /// Enrols a namespace or pod: `ambient` or `none`.
    pub const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
    /// Names the waypoint of a namespace, service or pod; `none` opts out.
    pub const USE_WAYPOINT: &str = "istio.io/use-waypoint";
    /// The namespace of that waypoint, when another.
    pub const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
    /// What a waypoint serves: `service`, `workload`, `all` or `none`.
    pub const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
    /// Whether ingress goes through the service's waypoint too.
    pub const INGRESS_USE_WAYPOINT: &str = "istio.io/ingress-use-waypoint";
    /// `http`: the pod speaks HBONE itself.
    pub const TUNNEL: &str = "networking.istio.io/tunnel";
    /// The network of a pod.
    pub const NETWORK: &str = "topology.istio.io/network";
    /// The Gateway that a generated pod or service belongs to.
    pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
    /// Annotation of a captured pod: `enabled`, or `pending` while no node proxy has it.
    pub const REDIRECTION: &str = "ambient.istio.io/redirection";
    /// Annotation: how clients spread over a service's endpoints.
    pub const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";
    /// Annotation: `true` only logs what a policy would do.
    pub const DRY_RUN: &str = "istio.io/dry-run";
}

/// Whether a policy only has told what it would do, and refuses nothing.
#[must_use]
pub fn is_dry_run(policy: &AuthorizationPolicy) -> bool {
    let annotations = policy.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(label::DRY_RUN)).is_some_and(|value| value == "true")
}

/// The namespace whose policies hold for the whole mesh.
pub const ROOT_NAMESPACE: &str = "istio-system";

/// What the index must know of the mesh besides its objects.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    /// Trust domain of all identities.
    pub trust_domain: TrustDomain,
    /// Name of the cluster, the first part of every workload uid.
    pub cluster_id: String,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// Namespace whose policies hold for the whole mesh.
    pub root_namespace: String,
}

impl MeshConfig {
    /// The ecosystem's defaults for a trust domain and cluster: domain `cluster.local`, root namespace `istio-system`.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, cluster_id: impl Into<String>) -> Self {
        Self {
            trust_domain,
            cluster_id: cluster_id.into(),
            cluster_domain: "cluster.local".into(),
            root_namespace: ROOT_NAMESPACE.into(),
        }
    }

    /// DNS name of a service.
    #[must_use]
    pub fn hostname(&self, service: &NamespacedName) -> String {
        format!("{}.{}.svc.{}", service.name, service.namespace, self.cluster_domain)
    }

    /// Key of a service in the address table: `namespace/hostname`.
    #[must_use]
    pub fn service_key(&self, service: &NamespacedName) -> String {
        format!("{}/{}", service.namespace, self.hostname(service))
    }

    /// Key of a pod in the address table: `<cluster>//Pod/<namespace>/<name>`.
    #[must_use]
    pub fn pod_uid(&self, pod: &NamespacedName) -> String {
        format!("{}//Pod/{}/{}", self.cluster_id, pod.namespace, pod.name)
    }
}

/// A resource that may have changed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangedKey {
    /// The workload of a pod.
    Workload(NamespacedName),
    /// A workload that is no pod.
    External(ExternalKey),
    /// A Service, in the address table.
    Service(NamespacedName),
    /// A host of ServiceEntries in the address table: namespace and host name.
    Host(NamespacedName),
    /// An authorization policy for node proxies, by the key it has on the wire.
    Policy(NamespacedName),
    /// The configuration of the waypoint that this Gateway asks for.
    Waypoint(NamespacedName),
    /// The endpoints of one service in the configuration of a waypoint, of which nothing else changed by the event.
    Endpoints {
        /// The Gateway.
        waypoint: NamespacedName,
        /// The service.
        service: ServiceRef,
    },
    /// What gRPC clients that speak xDS themselves have of a Service.
    Clients(NamespacedName),
}

impl fmt::Debug for ChangedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(name) => write!(f, "workload {name}"),
            Self::External(key) => write!(f, "{key:?}"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::Host(host) => write!(f, "host {host}"),
            Self::Policy(name) => write!(f, "policy {name}"),
            Self::Waypoint(name) => write!(f, "waypoint {name}"),
            Self::Endpoints { waypoint, service } => write!(f, "endpoints of {service:?} in waypoint {waypoint}"),
            Self::Clients(name) => write!(f, "clients of service {name}"),
        }
    }
}

/// The objects and their reverse indexes.
#[derive(Debug)]
pub struct Index {
    config: MeshConfig,
    objects: Objects,
    links: Links,
    /// Keys of issuers that were fetched: what the index knows besides objects.
    learned: Learned,
    route_context: RouteContext,
    /// What GRPCRoutes are carried out as.
    request_routes: BTreeMap<NamespacedName, RequestRoute>,
}

impl Index {
    /// An empty index.
    #[must_use]
    pub fn new(config: MeshConfig) -> Self {
        let (objects, links, learned) = (Objects::default(), Links::default(), Learned::new());
        let (route_context, request_routes) = (RouteContext::default(), BTreeMap::new());
        Self { config, objects, links, learned, route_context, request_routes }
    }

    /// What the index was told of the mesh.
    #[must_use]
    pub fn config(&self) -> &MeshConfig {
        &self.config
    }

    /// All objects, by kind and name.
    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Takes one event in and returns the resources whose translation it may have changed, sorted, each once.
    ///
    /// What the event can reach is collected in the state before and in the state after, so that a resource that loses
    /// something is named as well as one that gains it. An object equal to the one held changes nothing.
    pub fn apply(&mut self, event: Event) -> Vec<ChangedKey> {
        let (key, new) = match event {
            Event::Upsert(object) => (object.key(), Some(object)),
            Event::Delete(key) => (key, None),
        };
        let old = self.objects.get(&key);
        if old == new {
            return Vec::new();
        }
        self.note_for_routes(key.kind);
        self.note_request_route(&key, new.as_ref());
        let mut changed = BTreeSet::new();
        if let Some(old) = &old {
            self.affected(old, new.as_ref(), &mut changed);
            self.links.remove(old);
        }
        match &new {
            Some(object) => {
                self.objects.insert(object.clone());
                self.links.insert(object);
                self.affected(object, old.as_ref(), &mut changed);
            }
            None => self.objects.remove(&key),
        }
        changed.into_iter().collect()
    }
}
