//! What became of each object, as the conditions that its author should find on it (wire contract, section 7).
//!
//! The pure part is a function of the index and of what the [deployer](crate::deploy) reports: a directory of YAML has it
//! shown by the monitoring server, and on a cluster the leader's [`Writer`] writes it, by way of `patch`.

mod account;
mod backend;
#[cfg(test)]
mod cluster_tests;
mod entry;
mod gateway;
mod ingress;
mod overlap;
pub(crate) mod patch;
mod policy;
pub(crate) mod rate;
mod requests;
mod route;
#[cfg(test)]
mod tests;
mod traffic;
mod unsupported;
mod virtual_service;
mod writer;

use serde_json::Value;

use crate::deploy::Reports;
use crate::index::{Binding, Index, Unavailability};
use crate::source::{Kind, NamespacedName, ObjectKey};
pub(crate) use gateway::{faults, is_ours, unusable};
pub(crate) use ingress::{faults as faults_at_edge, unusable as unusable_at_edge};
pub(crate) use route::Verdict;
pub use writer::Writer;
pub(crate) use writer::resource;

/// The name under which this controller writes into objects that several controllers report on.
pub const CONTROLLER: &str = "istio.io/mesh-controller";

/// The type of the condition that says whether traffic goes through a waypoint.
const BOUND: &str = "istio.io/WaypointBound";

/// A condition; `observed_generation` is the generation of the object that it speaks of.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its type.
    pub r#type: &'static str,
    /// `True` or `False`.
    pub status: &'static str,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// Generation of the object, where the source counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// For routes: the parent it is about, as `Kind namespace/name`; for BackendTLSPolicies, RequestPolicies and TrafficPolicies the ancestor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The reference to that parent, as the route has it, or to that ancestor.
    #[serde(skip)]
    pub parent_ref: Option<Value>,
    /// For routes: the controller of that parent, in whose name this is said.
    #[serde(skip)]
    pub controller: &'static str,
}

impl Condition {
    fn new(r#type: &'static str, good: bool, reason: &'static str, message: impl Into<String>) -> Self {
        let status = if good { "True" } else { "False" };
        let (message, controller) = (message.into(), CONTROLLER);
        Self { r#type, status, reason, message, observed_generation: None, parent: None, parent_ref: None, controller }
    }
}

/// What is said of one listener of a Gateway.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// How many routes are attached to it.
    pub attached_routes: usize,
    /// The kinds of routes that it takes, all of group `gateway.networking.k8s.io`.
    pub supported_kinds: Vec<&'static str>,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

/// What is said of one object.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ObjectStatus {
    /// The object.
    pub object: ObjectKey,
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// For Gateways that are deployed from here: the IP addresses, or host names, they are reached at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<String>>,
    /// For Gateways: their listeners.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<Listener>,
}

/// The conditions of all objects that have any, in the order of their keys.
#[must_use]
pub fn conditions(index: &Index) -> Vec<ObjectStatus> {
    let mut keys: Vec<ObjectKey> = index.objects().keys().filter(|key| speaks_of(key.kind)).collect();
    keys.sort();
    keys.iter().filter_map(|key| of(index, key, None)).filter(|status| !status.conditions.is_empty()).collect()
}

/// The kinds that the mesh has anything to say about.
pub(crate) fn speaks_of(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Service
            | Kind::ServiceEntry
            | Kind::WorkloadEntry
            | Kind::AuthorizationPolicy
            | Kind::RequestAuthentication
            | Kind::BackendTlsPolicy
            | Kind::RequestPolicy
            | Kind::Telemetry
            | Kind::TrafficPolicy
            | Kind::BackendTrafficPolicy
            | Kind::DestinationRule
            | Kind::VirtualService
            | Kind::HttpRoute
            | Kind::GrpcRoute
            | Kind::TlsRoute
            | Kind::TcpRoute
            | Kind::Gateway
            | Kind::GatewayClass
    )
}

/// What is said of one object; `None` for objects that are another controller's, or nobody's yet.
///
/// `reports` are those of the deployer, on a control plane that has one: the status of a Gateway then follows from the
/// waypoint that was deployed for it, and is `None` until the deployer has looked at it.
#[must_use]
pub fn of(index: &Index, key: &ObjectKey, reports: Option<&Reports>) -> Option<ObjectStatus> {
    let object = index.objects().get(key)?;
    let mut status = ObjectStatus { object: key.clone(), conditions: Vec::new(), addresses: None, listeners: Vec::new() };
    match key.kind {
        Kind::Service => status.conditions = service(index, &key.name),
        Kind::ServiceEntry => status.conditions = entry::service(index, &key.name),
        Kind::WorkloadEntry => status.conditions = entry::workload(index, &key.name),
        Kind::AuthorizationPolicy => status.conditions = policy::authorization(index, &key.name),
        Kind::RequestAuthentication => status.conditions = unsupported::request_authentication(index, &key.name)?,
        Kind::BackendTlsPolicy => status.conditions = unsupported::backend_tls_policy(index, &key.name),
        Kind::RequestPolicy => status.conditions = requests::policy(index, &key.name),
        Kind::Telemetry => status.conditions = unsupported::telemetry(index, &key.name),
        Kind::TrafficPolicy => status.conditions = traffic::policy(index, &key.name),
        Kind::BackendTrafficPolicy => status.conditions = backend::policy(index, &key.name),
        Kind::DestinationRule => status.conditions = traffic::rule(index, &key.name),
        Kind::VirtualService => status.conditions = virtual_service::conditions(index, &key.name),
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute => status.conditions = route::conditions(index, key),
        Kind::Gateway => gateway::gateway(index, &key.name, reports, &mut status)?,
        Kind::GatewayClass => status.conditions = gateway::class(index, &key.name)?,
        _ => return None,
    }
    let of_listeners = status.listeners.iter_mut().flat_map(|listener| &mut listener.conditions);
    for condition in status.conditions.iter_mut().chain(of_listeners) {
        condition.observed_generation = object.metadata().generation;
    }
    Some(status)
}

fn service(index: &Index, name: &NamespacedName) -> Vec<Condition> {
    let Some(service) = index.objects().services.get(name) else { return Vec::new() };
    waypoint_bound(index.service_binding(service), "the service").into_iter().collect()
}

/// Whether what goes to a service, or to the hosts of a ServiceEntry, goes through the waypoint that was asked for, if one was.
fn waypoint_bound(binding: Binding, to: &str) -> Option<Condition> {
    let bound = |good, reason, message: String| Some(Condition::new(BOUND, good, reason, message));
    match binding {
        Binding::None => None,
        Binding::Bound { waypoint, .. } => bound(true, "WaypointAccepted", format!("Traffic goes through waypoint {waypoint}")),
        Binding::OtherTraffic(waypoint) => {
            let message = format!("Waypoint {waypoint} does not serve services; traffic does not go through it");
            bound(false, "UnsupportedTrafficType", message)
        }
        Binding::Unavailable { waypoint, reason } => {
            let why = match reason {
                Unavailability::Missing => "does not exist",
                Unavailability::AttachmentDenied => "does not admit this namespace",
                Unavailability::NotReady => "has no address yet",
            };
            let message = format!("Waypoint {waypoint} {why}; connections to {to} are refused until it can be used");
            bound(false, reason.condition_reason(), message)
        }
    }
}
