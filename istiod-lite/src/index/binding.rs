//! Which waypoint a service, a host of a ServiceEntry or a pod goes through.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gateway_api::gateways::{Gateway, GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::objects::cluster_scoped;
use super::{Index, WaypointFor, label};
use crate::source::crd::networking::ServiceEntry;
use crate::source::{NamespacedName, Object, Pod};

/// The object whose label names a waypoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requester {
    /// A namespace, for all that it holds and that does not say otherwise.
    Namespace(String),
    /// A service.
    Service(NamespacedName),
    /// A ServiceEntry, for its hosts.
    Entry(NamespacedName),
    /// A pod.
    Pod(NamespacedName),
}

/// What a service or pod has to do with waypoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// Asks for none.
    None,
    /// Asks for one that serves another kind of traffic; not bound.
    OtherTraffic(NamespacedName),
    /// Asks for one that cannot serve it now, so that it must not be reached at all.
    Unavailable {
        /// The Gateway asked for.
        waypoint: NamespacedName,
        /// Why it cannot.
        reason: Unavailability,
    },
    /// Goes through this one, at this address.
    Bound {
        /// The Gateway.
        waypoint: NamespacedName,
        /// Where it is reached.
        address: GatewayEndpoint,
    },
}

/// Why a waypoint that was asked for cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailability {
    /// There is no such Gateway, or it is not a waypoint.
    Missing,
    /// Its listeners do not admit the namespace.
    AttachmentDenied,
    /// It has no address yet.
    NotReady,
}

impl Unavailability {
    /// The reason of the `istio.io/WaypointBound` condition.
    #[must_use]
    pub fn condition_reason(self) -> &'static str {
        match self {
            Self::AttachmentDenied => "AttachmentDenied",
            Self::Missing | Self::NotReady => "WaypointIsNotReady",
        }
    }
}

/// The address of a waypoint, as its Gateway's status has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayEndpoint {
    /// An IP address.
    Ip(IpAddr),
    /// A host name that the mesh knows.
    Hostname(String),
}

/// The Gateway named by the labels of this object itself, if they name one.
pub(super) fn waypoint_label(object: &Object) -> Option<(NamespacedName, Requester)> {
    let name = NamespacedName::of(object.metadata());
    let (own, requester) = match object {
        Object::Namespace(_) => (&name.name, Requester::Namespace(name.name.to_string())),
        Object::Service(_) => (&name.namespace, Requester::Service(name.clone())),
        Object::ServiceEntry(_) => (&name.namespace, Requester::Entry(name.clone())),
        Object::Pod(_) => (&name.namespace, Requester::Pod(name.clone())),
        _ => return None,
    };
    match Wish::read(object.metadata(), own) {
        Wish::Waypoint(waypoint) => Some((waypoint, requester)),
        Wish::Unsaid | Wish::OptOut => None,
    }
}

/// Whether an object's own labels name a waypoint.
#[must_use]
pub fn asks_for_waypoint(metadata: &ObjectMeta) -> bool {
    matches!(Wish::read(metadata, ""), Wish::Waypoint(_))
}

/// What the labels of one object say of waypoints.
enum Wish {
    Unsaid,
    OptOut,
    Waypoint(NamespacedName),
}

impl Wish {
    fn read(metadata: &ObjectMeta, own_namespace: &str) -> Self {
        let Some(labels) = &metadata.labels else { return Self::Unsaid };
        match labels.get(label::USE_WAYPOINT).map(String::as_str) {
            None | Some("") => Self::Unsaid,
            Some("none") => Self::OptOut,
            Some(name) => {
                let namespace = labels.get(label::USE_WAYPOINT_NAMESPACE).map_or(own_namespace, String::as_str);
                Self::Waypoint(NamespacedName::new(namespace, name))
            }
        }
    }
}

impl Index {
    /// The waypoint of a service: its own label, else its namespace's.
    #[must_use]
    pub fn service_binding(&self, service: &Service) -> Binding {
        self.binding_of_service(&service.metadata, Some(&NamespacedName::of(&service.metadata)))
    }

    /// The waypoint of the hosts of a ServiceEntry: its own label, else its namespace's.
    #[must_use]
    pub fn entry_binding(&self, entry: &ServiceEntry) -> Binding {
        self.binding_of_service(&entry.metadata, None)
    }

    /// By the labels of a Service, of which `own` is the name, or of a ServiceEntry.
    fn binding_of_service(&self, metadata: &ObjectMeta, own: Option<&NamespacedName>) -> Binding {
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        match self.requested(metadata) {
            // The address of a waypoint is not reached through itself.
            Some((waypoint, _)) if Some(&waypoint) == own => Binding::None,
            Some((waypoint, _)) => self.bind(waypoint, namespace, WaypointFor::serves_services, true),
            None => Binding::None,
        }
    }

    /// The waypoint of a pod when it is dialled by its own address: its own label, else its namespace's.
    ///
    /// A namespace's wish is one for services unless the Gateway says that it serves workloads too.
    #[must_use]
    pub fn pod_binding(&self, pod: &Pod) -> Binding {
        match self.requested(&pod.metadata) {
            Some((waypoint, own)) => {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                self.bind(waypoint, namespace, WaypointFor::serves_workloads, own)
            }
            None => Binding::None,
        }
    }

    /// The waypoint asked for, and whether the object's own label does (not its namespace's).
    fn requested(&self, metadata: &ObjectMeta) -> Option<(NamespacedName, bool)> {
        if metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label::GATEWAY_NAME)) {
            return None;
        }
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        match Wish::read(metadata, namespace) {
            Wish::OptOut => None,
            Wish::Waypoint(waypoint) => Some((waypoint, true)),
            Wish::Unsaid => {
                let object = cluster_scoped(&self.objects().namespaces, namespace)?;
                match Wish::read(&object.metadata, namespace) {
                    Wish::Waypoint(waypoint) => Some((waypoint, false)),
                    Wish::Unsaid | Wish::OptOut => None,
                }
            }
        }
    }

    fn bind(&self, waypoint: NamespacedName, namespace: &str, serves: fn(WaypointFor) -> bool, required: bool) -> Binding {
        let Some(gateway) = self.objects().gateways.get(&waypoint).filter(|gateway| self.is_waypoint(gateway)) else {
            // Without the Gateway nobody knows what it would serve; the default is services.
            return if required { Binding::Unavailable { waypoint, reason: Unavailability::Missing } } else { Binding::None };
        };
        if !serves(WaypointFor::of(gateway)) {
            return Binding::OtherTraffic(waypoint);
        }
        if !self.allows_attachment(gateway, &waypoint, namespace) {
            return Binding::Unavailable { waypoint, reason: Unavailability::AttachmentDenied };
        }
        match gateway_address(gateway) {
            Some(address) => Binding::Bound { waypoint, address },
            None => Binding::Unavailable { waypoint, reason: Unavailability::NotReady },
        }
    }

    /// Whether a listener of the Gateway lets objects of the namespace use it.
    fn allows_attachment(&self, gateway: &Gateway, waypoint: &NamespacedName, namespace: &str) -> bool {
        gateway.spec.listeners.iter().any(|listener| self.listener_admits(listener, waypoint, namespace))
    }

    /// Whether a listener lets objects of the namespace use it (default: its own namespace only).
    pub(super) fn listener_admits(&self, listener: &GatewayListeners, waypoint: &NamespacedName, namespace: &str) -> bool {
        let allowed = listener.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
        match allowed.and_then(|allowed| allowed.from.as_ref()) {
            None | Some(From::Same) => *waypoint.namespace == *namespace,
            Some(From::All) => true,
            Some(From::Selector) => {
                let labels = cluster_scoped(&self.objects().namespaces, namespace);
                let labels = labels.and_then(|object| object.metadata.labels.as_ref());
                let selector = allowed.and_then(|allowed| allowed.selector.as_ref());
                selector.is_some_and(|selector| selects_namespace(selector, labels, namespace))
            }
        }
    }

    /// Whether a Gateway is a waypoint: its class is `istio-waypoint`, or one of the mesh's own controller.
    #[must_use]
    pub fn is_waypoint(&self, gateway: &Gateway) -> bool {
        let class = gateway.spec.gateway_class_name.as_str();
        class == "istio-waypoint"
            || cluster_scoped(&self.objects().gateway_classes, class)
                .is_some_and(|class| class.spec.controller_name == "istio.io/mesh-controller")
    }
}

fn selects_namespace(
    selector: &gateway_api::gateways::GatewayListenersAllowedRoutesNamespacesSelector,
    labels: Option<&BTreeMap<String, String>>,
    namespace: &str,
) -> bool {
    // The API server sets this label on every namespace; in a directory of YAML it may be missing.
    let value = |key: &str| match labels.and_then(|labels| labels.get(key)) {
        Some(value) => Some(value.as_str()),
        None if key == "kubernetes.io/metadata.name" => Some(namespace),
        None => None,
    };
    let equal = selector.match_labels.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted));
    let expressions = selector.match_expressions.iter().flatten().all(|expression| {
        let held = value(&expression.key);
        let listed = || expression.values.iter().flatten().any(|wanted| held == Some(wanted));
        match expression.operator.as_str() {
            "In" => listed(),
            "NotIn" => !listed(),
            "Exists" => held.is_some(),
            "DoesNotExist" => held.is_none(),
            _ => false,
        }
    });
    equal && expressions
}

/// The first address of the Gateway's status that can be used.
fn gateway_address(gateway: &Gateway) -> Option<GatewayEndpoint> {
    let addresses = gateway.status.as_ref()?.addresses.as_deref()?;
    addresses.iter().find_map(|address| match address.r#type.as_deref() {
        None | Some("IPAddress") => address.value.parse().ok().map(GatewayEndpoint::Ip),
        Some("Hostname") => Some(GatewayEndpoint::Hostname(address.value.clone())),
        Some(_) => None,
    })
}
