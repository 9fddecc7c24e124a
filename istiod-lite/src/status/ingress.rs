//! Status of Gateways at the edge of the mesh.

use gateway_api::gateways::{Gateway, GatewayListeners};
use k8s_openapi::api::core::v1::Service;

use super::gateway::{by_address, cluster_addresses, is_of, kinds};
use super::{Condition, Listener, ObjectStatus, overlap, route};
use crate::deploy::{Deployed, Reports};
use crate::index::{
    EndpointHealth, Index, ServiceRef, Uncertified, Unserved, carries_connections, ends_tls, kinds_of_listener, unserved,
};
use crate::source::{Kind, NamespacedName};

/// Fills in the status of a Gateway; `None` for those that the deployer has yet to look at.
pub(super) fn gateway(
    index: &Index,
    (name, gateway): (&NamespacedName, &Gateway),
    reports: Option<&Reports>,
    status: &mut ObjectStatus,
) -> Option<()> {
    let report = match reports {
        Some(reports) => Some(reports.get(name)?),
        None => None,
    };
    let accepted = match report {
        Some(Deployed::Refused(message)) => Condition::new("Accepted", false, "InvalidParameters", message.clone()),
        _ => accepted(gateway),
    };
    let invalid = (accepted.status == "False").then(|| Condition::new("Programmed", false, "Invalid", accepted.message.clone()));
    let (programmed, addresses) = match report {
        None => (by_address(gateway), None),
        Some(report) => {
            let reached = reached(index, gateway, name);
            let programmed = match report {
                Deployed::Conflict(message) => Condition::new("Programmed", false, "Invalid", message.clone()),
                Deployed::Failed(message) => Condition::new("Programmed", false, "NoResources", message.clone()),
                _ => programmed(&reached),
            };
            (programmed, Some(reached.addresses))
        }
    };
    let programmed = invalid.unwrap_or(programmed);
    let is_programmed = programmed.status == "True";
    let listeners = gateway.spec.listeners.iter();
    status.listeners = listeners.map(|entry| listener(index, (name, gateway), entry, is_programmed)).collect();
    status.conditions = vec![accepted, programmed];
    status.addresses = addresses;
    Some(())
}

/// Why nothing can be deployed for a Gateway as it is written: reason of the condition `Accepted`, and a sentence.
pub(crate) fn unusable(gateway: &Gateway) -> Option<(&'static str, String)> {
    if gateway.spec.addresses.as_ref().is_some_and(|addresses| !addresses.is_empty()) {
        let message = "A Gateway is reached at the addresses of its Service; remove spec.addresses";
        return Some(("UnsupportedAddress", message.into()));
    }
    let faults: Vec<String> =
        gateway.spec.listeners.iter().filter_map(|listener| fault(gateway, listener)).map(|f| f.1).collect();
    (faults.len() == gateway.spec.listeners.len())
        .then(|| ("ListenersNotValid", format!("No listener serves: {}", faults.join("; "))))
}

/// What is not carried out of a Gateway: path and sentence.
pub(crate) fn faults(gateway: &Gateway) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let Some(("UnsupportedAddress", message)) = unusable(gateway) {
        found.push(("spec.addresses".to_owned(), message));
    }
    for (at, listener) in gateway.spec.listeners.iter().enumerate() {
        let path = format!("spec.listeners[{at}]");
        if let Some((_, message)) = fault(gateway, listener) {
            found.push((path, message));
        } else if ends_tls(listener) && names_no_certificate(listener) {
            found.push((format!("{path}.tls.certificateRefs"), format!("Listener {}: no certificate is named", listener.name)));
        } else if let (_, Some(kind)) = kinds(listener) {
            found.push((format!("{path}.allowedRoutes.kinds"), not_attached(listener, &kind)));
        }
    }
    found
}

/// What is said of a kind of routes that a listener asks for in vain.
fn not_attached(listener: &GatewayListeners, kind: &str) -> String {
    let can: Vec<&str> = kinds_of_listener(listener).iter().copied().map(Kind::as_str).collect();
    format!("{kind} cannot be attached; {} can", can.join(" and "))
}

fn names_no_certificate(listener: &GatewayListeners) -> bool {
    let named = listener.tls.as_ref().and_then(|tls| tls.certificate_refs.as_ref());
    named.is_none_or(Vec::is_empty)
}

fn accepted(gateway: &Gateway) -> Condition {
    if let Some((reason, message)) = unusable(gateway) {
        return Condition::new("Accepted", false, reason, message);
    }
    let faults: Vec<String> =
        gateway.spec.listeners.iter().filter_map(|listener| fault(gateway, listener)).map(|f| f.1).collect();
    if faults.is_empty() {
        return Condition::new("Accepted", true, "Accepted", "The Gateway is at the edge of this mesh");
    }
    Condition::new("Accepted", true, "ListenersNotValid", faults.join("; "))
}

/// Where a Gateway is reached.
struct Reached {
    /// A pod of it is ready.
    ready: bool,
    addresses: Vec<String>,
    /// The addresses are given out by something else in the cluster, which has not.
    awaited: bool,
}

fn reached(index: &Index, gateway: &Gateway, name: &NamespacedName) -> Reached {
    let Some(service) = index.objects().services.get(name).filter(|service| is_of(service, gateway, name)) else {
        return Reached { ready: false, addresses: Vec::new(), awaited: false };
    };
    let endpoints = index.endpoints(&ServiceRef::Kubernetes(name.clone()));
    let ready = endpoints.iter().any(|endpoint| endpoint.health == EndpointHealth::Healthy);
    let balanced = service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer");
    let addresses = if balanced { balancer_addresses(service) } else { cluster_addresses(service) };
    Reached { ready, awaited: balanced && addresses.is_empty(), addresses }
}

/// What the cluster's load balancer has given a Service: IP addresses, or else names.
fn balancer_addresses(service: &Service) -> Vec<String> {
    let given = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let given = given.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let mut addresses: Vec<String> = Vec::new();
    for address in given.iter().filter_map(|one| one.ip.as_ref().or(one.hostname.as_ref())) {
        if !address.is_empty() && !addresses.contains(address) {
            addresses.push(address.clone());
        }
    }
    addresses
}

fn programmed(reached: &Reached) -> Condition {
    let no = |reason, message: &str| Condition::new("Programmed", false, reason, message);
    match reached {
        Reached { awaited: true, .. } => no(
            "AddressNotAssigned",
            "Nothing in the cluster has given the Service of type LoadBalancer an address; the annotation networking.istio.io/service-type \
             of the Gateway says which other type it is to have",
        ),
        Reached { addresses, .. } if addresses.is_empty() => {
            no("AddressNotAssigned", "The Service of the Gateway has no address yet")
        }
        Reached { ready: false, .. } => no("NoResources", "No pod of the Gateway is ready"),
        Reached { addresses, .. } => {
            Condition::new("Programmed", true, "Programmed", format!("The Gateway is reached at {}", addresses.join(", ")))
        }
    }
}

/// What is wrong with a listener: reason of its conditions, and a sentence.
fn fault(gateway: &Gateway, listener: &GatewayListeners) -> Option<(&'static str, String)> {
    let GatewayListeners { name, port, protocol, .. } = listener;
    Some(match unserved(gateway, listener)? {
        Unserved::Protocol => {
            ("UnsupportedProtocol", format!("Listener {name}: {protocol} is not carried out; HTTP, HTTPS, TLS and TCP are"))
        }
        Unserved::Tls(why) => ("UnsupportedValue", format!("Listener {name}: {why}")),
        Unserved::Port => (
            "PortUnavailable",
            format!(
                "Listener {name}: port {port} is the proxy's own, or the one in the pod that another listener's below 1024 is"
            ),
        ),
        Unserved::OtherProtocol => {
            ("ProtocolConflict", format!("Listener {name}: another one speaks something else on port {port}"))
        }
        Unserved::SameHostname => {
            ("HostnameConflict", format!("Listener {name}: another one is for the same host on port {port}"))
        }
    })
}

fn listener(
    index: &Index,
    (name, gateway): (&NamespacedName, &Gateway),
    listener: &GatewayListeners,
    programmed: bool,
) -> Listener {
    let fault = fault(gateway, listener);
    let accepted = match &fault {
        None => Condition::new("Accepted", true, "Accepted", "The listener is accepted"),
        Some((reason, message)) => Condition::new("Accepted", false, reason, message.clone()),
    };
    let uncertified = uncertified(index, name, listener);
    // One certificate is enough to serve.
    let shown = !ends_tls(listener) || index.is_certified(name, listener);
    let programmed = match &fault {
        None if !shown => {
            let why = uncertified.as_ref().map(|(_, message)| message.clone()).unwrap_or_default();
            Condition::new("Programmed", false, "Invalid", why)
        }
        None if programmed => {
            let taken = if carries_connections(listener) { "Connections are taken" } else { "Requests are taken" };
            Condition::new("Programmed", true, "Programmed", taken)
        }
        None => Condition::new("Programmed", false, "Pending", "The Gateway is not ready yet"),
        Some((_, message)) => Condition::new("Programmed", false, "Invalid", message.clone()),
    };
    let (supported_kinds, unknown) = kinds(listener);
    let resolved = match (uncertified, unknown) {
        (Some((reason, message)), _) => Condition::new("ResolvedRefs", false, reason, message),
        (None, None) => Condition::new("ResolvedRefs", true, "ResolvedRefs", "All references are resolved"),
        (None, Some(kind)) => {
            let message = format!("allowedRoutes.kinds: {}", not_attached(listener, &kind));
            Condition::new("ResolvedRefs", false, "InvalidRouteKinds", message)
        }
    };
    let conflicted = match &fault {
        Some((reason @ ("ProtocolConflict" | "HostnameConflict"), message)) => {
            Condition::new("Conflicted", true, reason, message.clone())
        }
        _ => Condition::new("Conflicted", false, "NoConflicts", "No other listener is in the way"),
    };
    let overlapping = overlap::overlapping(gateway, listener);
    Listener {
        name: listener.name.clone(),
        attached_routes: if fault.is_some() { 0 } else { route::attached_at_edge(index, name, listener) },
        // What it does not speak it has no routes for, whatever kinds it asks for.
        supported_kinds: if matches!(fault, Some(("UnsupportedProtocol", _))) { Vec::new() } else { supported_kinds },
        conditions: [accepted, programmed, resolved, conflicted].into_iter().chain(overlapping).collect(),
    }
}

/// What is wrong with the certificates that a listener names: the reason of the first, and a sentence for each.
fn uncertified(index: &Index, gateway: &NamespacedName, listener: &GatewayListeners) -> Option<(&'static str, String)> {
    if !ends_tls(listener) {
        return None;
    }
    let wrong: Vec<Uncertified> = index.certificates(gateway, listener).into_iter().filter_map(Result::err).collect();
    let reason = wrong.first()?.reason();
    let messages: Vec<String> = wrong.iter().map(|wrong| wrong.message(gateway)).collect();
    Some((reason, format!("Listener {}: {}", listener.name, messages.join("; "))))
}
