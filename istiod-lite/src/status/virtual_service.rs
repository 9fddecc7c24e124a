//! Status of VirtualServices: what holds of each, and what comes before it.

use super::Condition;
use crate::index::{Binding, Index, ServicePort, ServiceRef, destinations};
use crate::source::crd::virtual_service::VirtualService;
use crate::source::{NamespacedName, conditions_left_out, not_routed};

/// What is said of a VirtualService. What of it is not carried out is named whatever else is said, for requests are refused for it.
pub(super) fn conditions(index: &Index, name: &NamespacedName) -> Vec<Condition> {
    let Some(object) = index.objects().virtual_services.get(name) else { return Vec::new() };
    // What is left out refuses none, and is not what was asked for either.
    let parts = not_routed(object).into_iter().chain(conditions_left_out(object));
    let mut parts: Vec<String> = parts.map(|part| format!("{}: {}", part.path, part.reason)).collect();
    let Hosts { held, wrong } = of_hosts(index, object, name);
    if !held.is_empty() {
        parts.extend(lost(index, object, name));
    }
    let held = held.join(", ");
    let condition = match (wrong.first(), parts.is_empty()) {
        (None, true) => Condition::new("Accepted", true, "Accepted", format!("Attached to the waypoint of Service {held}")),
        (None, false) => Condition::new("Accepted", false, "UnsupportedValue", format!("{}. The rest holds", parts.join("; "))),
        (Some((reason, _)), _) => {
            let holds = (!held.is_empty()).then(|| format!("it holds for Service {held}"));
            let said: Vec<String> = wrong.iter().map(|(_, message)| message.clone()).chain(holds).chain(parts).collect();
            Condition::new("Accepted", false, reason, said.join("; "))
        }
    };
    vec![condition]
}

/// For whose requests it holds.
#[derive(Default)]
struct Hosts {
    held: Vec<String>,
    /// Why it does not hold for the others, or for none: reason and message.
    wrong: Vec<(&'static str, String)>,
}

fn of_hosts(index: &Index, object: &VirtualService, name: &NamespacedName) -> Hosts {
    let spec = &object.spec;
    let nothing = |why: &str| Hosts { wrong: vec![("UnsupportedValue", why.to_owned())], ..Hosts::default() };
    if !spec.is_for_mesh() {
        return nothing("spec.gateways does not have \"mesh\", so it has no effect");
    }
    if spec.http.is_empty() {
        return nothing("It has no rules for requests (spec.http), so it has no effect");
    }
    let mut hosts = Hosts::default();
    for host in &spec.hosts {
        match of_host(index, name, host) {
            Ok(service) => hosts.held.push(service.to_string()),
            Err(why) => hosts.wrong.push(why),
        }
    }
    hosts
}

/// The Service of a host, if it holds for that one.
fn of_host(index: &Index, name: &NamespacedName, host: &str) -> Result<NamespacedName, (&'static str, String)> {
    let service = index.service_of_host(&name.namespace, host).map_err(|why| ("TargetNotFound", why))?;
    let Some(known) = index.objects().services.get(&service) else {
        return Err(("TargetNotFound", format!("Service {service} does not exist")));
    };
    let first = index.virtual_service_of(&service).map(|first| NamespacedName::of(&first.metadata));
    if let Some(older) = first.filter(|first| first != name) {
        return Err((
            "Conflicted",
            format!("VirtualService {older} has the host {host:?} too and is older, and holds in its place"),
        ));
    }
    if let Binding::None | Binding::OtherTraffic(_) = index.service_binding(known) {
        return Err((
            "AncestorNotBound",
            format!("Service {service} has no waypoint, so the VirtualService has no effect on it"),
        ));
    }
    if let Some(route) = route_of(index, &service) {
        let message =
            format!("{route} is attached to Service {service}, and comes before a VirtualService at the ports that it is for");
        return Err(("Conflicted", message));
    }
    Ok(service)
}

/// A route of the Gateway API of the Service's own namespace.
fn route_of(index: &Index, service: &NamespacedName) -> Option<String> {
    let own = |namespace: Option<&String>| namespace.is_some_and(|namespace| *namespace == *service.namespace);
    let http = index.http_routes_of_service(service).into_iter().map(|route| ("HTTPRoute", &route.metadata));
    let grpc = index.grpc_routes_of_service(service).into_iter().map(|route| ("GRPCRoute", &route.metadata));
    let mut routes = http.chain(grpc).filter(|(_, metadata)| own(metadata.namespace.as_ref()));
    routes.next().map(|(kind, metadata)| format!("{kind} {}", NamespacedName::of(metadata)))
}

/// The destinations that lead nowhere.
fn lost(index: &Index, object: &VirtualService, name: &NamespacedName) -> Vec<String> {
    let services = index.hosts_of(object).into_iter().map(ServiceRef::Kubernetes);
    let ports: Vec<ServicePort> = services.flat_map(|service| index.service_ports(&service)).collect();
    let mut found = Vec::new();
    for (at, rule) in object.spec.http.iter().enumerate() {
        for to in destinations(rule) {
            let leads = |port: &ServicePort| index.destination(&name.namespace, port.port, to);
            if let Some(Err(why)) = ports.iter().map(leads).reduce(Result::or) {
                found.push(format!("spec.http[{at}]: {why}; requests that go there are answered with 500"));
            }
        }
    }
    found
}
