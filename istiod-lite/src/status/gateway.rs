//! Status of Gateways and GatewayClasses.

use std::net::IpAddr;

use gateway_api::gateways::{Gateway, GatewayListeners, GatewayListenersAllowedRoutesKinds};
use k8s_openapi::api::core::v1::Service;

use super::{CONTROLLER, Condition, Listener, ObjectStatus, ingress, route};
use crate::deploy::{Deployed, Reports};
use crate::index::{
    EndpointHealth, INGRESS_CONTROLLER, Index, ServiceRef, WAYPOINT_LISTENER as HBONE, cluster_scoped, kinds_of_listener, label,
    takes_kind,
};
use crate::source::{Kind, NamespacedName};

/// Fills in the status of a Gateway of this mesh; `None` for Gateways of other controllers, and for those that the
/// deployer has yet to look at.
pub(super) fn gateway(index: &Index, name: &NamespacedName, reports: Option<&Reports>, status: &mut ObjectStatus) -> Option<()> {
    let gateway = index.objects().gateways.get(name).filter(|gateway| is_ours(index, gateway))?;
    if index.is_ingress(gateway) {
        return ingress::gateway(index, (name, &**gateway), reports, status);
    }
    let accepted = match reports.map(|reports| reports.get(name)) {
        Some(None) => return None,
        Some(Some(Deployed::Refused(message))) => Condition::new("Accepted", false, "InvalidParameters", message.clone()),
        _ => accepted(gateway),
    };
    let (programmed, addresses) = match reports.and_then(|reports| reports.get(name)) {
        None if accepted.status == "False" => (Condition::new("Programmed", false, "Invalid", accepted.message.clone()), None),
        None => (by_address(gateway), None),
        Some(report) => {
            // What runs goes on running, and is reached, when it cannot be changed; the author must hear of it all the same.
            let (ready, addresses) = reached_at(index, gateway, name);
            let programmed = match report {
                _ if accepted.status == "False" => Condition::new("Programmed", false, "Invalid", accepted.message.clone()),
                Deployed::Conflict(message) => Condition::new("Programmed", false, "Invalid", message.clone()),
                Deployed::Failed(message) => Condition::new("Programmed", false, "NoResources", message.clone()),
                _ => programmed(ready, &addresses),
            };
            (programmed, Some(addresses))
        }
    };
    let is_programmed = programmed.status == "True";
    status.listeners = gateway.spec.listeners.iter().map(|entry| listener(index, name, entry, is_programmed)).collect();
    status.conditions = vec![accepted, programmed];
    status.addresses = addresses;
    Some(())
}

/// Whether a Gateway is at the edge of the mesh, or a waypoint, and its class, if there is one of that name, this controller's.
pub(crate) fn is_ours(index: &Index, gateway: &Gateway) -> bool {
    let class = cluster_scoped(&index.objects().gateway_classes, &gateway.spec.gateway_class_name);
    index.is_ingress(gateway) || index.is_waypoint(gateway) && class.is_none_or(|class| class.spec.controller_name == CONTROLLER)
}

/// Why no waypoint can be deployed for a Gateway as it is written: reason of the condition `Accepted`, and a sentence.
pub(crate) fn unusable(gateway: &Gateway) -> Option<(&'static str, String)> {
    if gateway.spec.addresses.as_ref().is_some_and(|addresses| !addresses.is_empty()) {
        let message = "A waypoint is reached at the addresses of its Service; remove spec.addresses";
        return Some(("UnsupportedAddress", message.into()));
    }
    let any = gateway.spec.listeners.iter().any(|listener| fault(listener).is_none());
    (!any).then(|| {
        let message = format!("No listener has port {} and protocol {}, by which a waypoint is reached", HBONE.0, HBONE.1);
        ("ListenersNotValid", message)
    })
}

/// What is wrong with the listeners of a Gateway of which another one is good: path and sentence.
pub(crate) fn faults(gateway: &Gateway) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (at, listener) in gateway.spec.listeners.iter().enumerate() {
        let path = format!("spec.listeners[{at}]");
        if let Some((_, message)) = fault(listener) {
            found.push((path, message));
        } else if let (_, Some(kind)) = kinds(listener) {
            found
                .push((format!("{path}.allowedRoutes.kinds"), format!("{kind} cannot be attached; HTTPRoute and GRPCRoute can")));
        }
    }
    found
}

fn accepted(gateway: &Gateway) -> Condition {
    if let Some((reason, message)) = unusable(gateway) {
        return Condition::new("Accepted", false, reason, message);
    }
    let faulty: Vec<String> = gateway.spec.listeners.iter().filter_map(fault).map(|(_, message)| message).collect();
    if faulty.is_empty() {
        return Condition::new("Accepted", true, "Accepted", "The Gateway is a waypoint of this mesh");
    }
    Condition::new("Accepted", true, "ListenersNotValid", faulty.join("; "))
}

/// Without a deployer: whoever runs the waypoint writes its address.
pub(super) fn by_address(gateway: &Gateway) -> Condition {
    let addresses = gateway.status.as_ref().and_then(|status| status.addresses.as_ref());
    if addresses.is_some_and(|all| !all.is_empty()) {
        Condition::new("Programmed", true, "Programmed", "The Gateway has an address")
    } else {
        Condition::new("Programmed", false, "AddressNotAssigned", "The Gateway has no address yet")
    }
}

fn programmed(ready: bool, addresses: &[String]) -> Condition {
    if addresses.is_empty() {
        return Condition::new("Programmed", false, "AddressNotAssigned", "No pod of the waypoint is ready yet");
    }
    if !ready {
        return Condition::new("Programmed", false, "NoResources", "No pod of the waypoint is ready");
    }
    Condition::new("Programmed", true, "Programmed", format!("The waypoint is reached at {}", addresses.join(", ")))
}

/// Whether a pod of the waypoint is ready, and the addresses of its Service from the first ready pod on. They stay while
/// no pod is: the address is the same when one comes back, and connections fail either way.
fn reached_at(index: &Index, gateway: &Gateway, name: &NamespacedName) -> (bool, Vec<String>) {
    let Some(service) = index.objects().services.get(name).filter(|service| is_of(service, gateway, name)) else {
        return (false, Vec::new());
    };
    let ready =
        index.endpoints(&ServiceRef::Kubernetes(name.clone())).iter().any(|endpoint| endpoint.health == EndpointHealth::Healthy);
    let mut addresses = cluster_addresses(service);
    let held = gateway.status.as_ref().and_then(|status| status.addresses.as_ref()).into_iter().flatten();
    if !ready && !held.into_iter().any(|held| addresses.contains(&held.value)) {
        addresses.clear();
    }
    (ready, addresses)
}

/// The addresses of a Service in its cluster.
pub(super) fn cluster_addresses(service: &Service) -> Vec<String> {
    let spec = service.spec.as_ref();
    let listed = spec.and_then(|spec| spec.cluster_ips.as_ref()).into_iter().flatten();
    let mut addresses: Vec<String> = Vec::new();
    for address in listed.chain(spec.and_then(|spec| spec.cluster_ip.as_ref())) {
        if address.parse::<IpAddr>().is_ok() && !addresses.contains(address) {
            addresses.push(address.clone());
        }
    }
    addresses
}

/// Whether a Service was made for this Gateway, and not only happens to have its name.
pub(super) fn is_of(service: &Service, gateway: &Gateway, name: &NamespacedName) -> bool {
    let labels = service.metadata.labels.as_ref();
    let owners = service.metadata.owner_references.as_deref().unwrap_or_default();
    labels.and_then(|labels| labels.get(label::GATEWAY_NAME)).is_some_and(|gateway| *gateway == *name.name)
        && owners.iter().any(|owner| Some(&owner.uid) == gateway.metadata.uid.as_ref())
}

/// What is wrong with a listener: reason of its condition `Accepted`, and a sentence.
fn fault(listener: &GatewayListeners) -> Option<(&'static str, String)> {
    let (port, protocol) = HBONE;
    if listener.protocol != protocol {
        let message =
            format!("Listener {}: a waypoint speaks {protocol} on port {port}, not {}", listener.name, listener.protocol);
        return Some(("UnsupportedProtocol", message));
    }
    let message = || format!("Listener {}: a waypoint speaks {protocol} on port {port} only", listener.name);
    (listener.port != port).then(|| ("PortUnavailable", message()))
}

fn listener(index: &Index, gateway: &NamespacedName, listener: &GatewayListeners, programmed: bool) -> Listener {
    let fault = fault(listener);
    let accepted = match &fault {
        None => Condition::new("Accepted", true, "Accepted", "The listener is accepted"),
        Some((reason, message)) => Condition::new("Accepted", false, reason, message.clone()),
    };
    let programmed = match &fault {
        None if programmed => Condition::new("Programmed", true, "Programmed", "Tunnels are accepted"),
        None => Condition::new("Programmed", false, "Pending", "The waypoint is not ready yet"),
        Some((_, message)) => Condition::new("Programmed", false, "Invalid", message.clone()),
    };
    let (supported_kinds, unknown) = kinds(listener);
    let resolved = match unknown {
        None => Condition::new("ResolvedRefs", true, "ResolvedRefs", "All references are resolved"),
        Some(kind) => {
            let message = format!("allowedRoutes.kinds: {kind} cannot be attached; HTTPRoute and GRPCRoute can");
            Condition::new("ResolvedRefs", false, "InvalidRouteKinds", message)
        }
    };
    let conflicted = Condition::new("Conflicted", false, "NoConflicts", "No other listener is in the way");
    Listener {
        name: listener.name.clone(),
        attached_routes: if fault.is_some() { 0 } else { route::attached(index, gateway, listener) },
        supported_kinds,
        conditions: vec![accepted, programmed, resolved, conflicted],
    }
}

/// The kinds of routes that a listener takes of those it asks for, and the first that it asks for in vain.
pub(super) fn kinds(listener: &GatewayListeners) -> (Vec<&'static str>, Option<String>) {
    let asked = listener.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_ref());
    let all: Vec<&'static str> = kinds_of_listener(listener).iter().copied().map(Kind::as_str).collect();
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return (all, None) };
    let is = |kind: &GatewayListenersAllowedRoutesKinds, name: &str| {
        kind.kind == name && kind.group.as_deref().is_none_or(|group| group == "gateway.networking.k8s.io")
    };
    let unknown = asked.iter().find(|kind| !all.iter().any(|name| is(kind, name))).map(|kind| kind.kind.clone());
    let taken = kinds_of_listener(listener).iter().copied().filter(|kind| takes_kind(listener, *kind));
    (taken.map(Kind::as_str).collect(), unknown)
}

/// `None` for classes of other controllers.
pub(super) fn class(index: &Index, name: &NamespacedName) -> Option<Vec<Condition>> {
    let class = cluster_scoped(&index.objects().gateway_classes, &name.name)?;
    let become_what = match class.spec.controller_name.as_str() {
        CONTROLLER => "Gateways of this class become waypoints",
        INGRESS_CONTROLLER => "Gateways of this class are at the edge of the mesh",
        _ => return None,
    };
    let accepted = if class.spec.parameters_ref.is_some() {
        let message = "spec.parametersRef has no effect; set spec.infrastructure.parametersRef on each Gateway";
        Condition::new("Accepted", false, "InvalidParameters", message)
    } else {
        Condition::new("Accepted", true, "Accepted", become_what)
    };
    Some(vec![accepted])
}
