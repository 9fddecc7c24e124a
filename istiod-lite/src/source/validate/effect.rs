//! What is valid and has no effect all the same, though its author thinks that it has one.

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::Errors;
use super::destination::{needless, refused};
use super::retry_on::conditions_left_out;
use super::unsupported::{heedless, unused_keys, unverified};
use super::virtual_service::not_routed;
use crate::index::{ParentRef, asks_for_waypoint, entry_has_addresses, parent_refs};
use crate::source::crd::networking::{Resolution, ServiceEntry};
use crate::source::object::Object;
use crate::source::typed::FieldError;

/// The fields of an object in force that change nothing, each with what to write instead.
pub(in crate::source) fn without_effect(object: &Object) -> Vec<FieldError> {
    let mut found = Errors::default();
    match object {
        Object::EndpointSlice(object) => slice(object, &mut found),
        Object::ServiceEntry(object) => service_entry(object, &mut found),
        Object::HttpRoute(_) | Object::GrpcRoute(_) | Object::TlsRoute(_) | Object::TcpRoute(_) => route(object, &mut found),
        Object::RequestAuthentication(policy) => {
            found.0.extend(unverified(policy));
            found.0.extend(unused_keys(policy));
        }
        Object::Telemetry(telemetry) => found.0.extend(heedless(telemetry)),
        Object::DestinationRule(rule) => {
            found.0.extend(refused(rule));
            found.0.extend(needless(rule));
        }
        Object::VirtualService(object) => {
            found.0.extend(not_routed(object));
            found.0.extend(conditions_left_out(object));
        }
        Object::MeshSettings(settings) => {
            for (name, why) in settings.providers.iter().filter_map(|(name, provider)| Some((name, provider.as_ref().err()?))) {
                found.add(
                    "data.mesh",
                    format!("extension provider {name}: {why}; a policy that asks for it denies what it matches"),
                );
            }
            for (name, why) in settings.limiters.iter().filter_map(|(name, limiter)| Some((name, limiter.as_ref().err()?))) {
                found.add("data.mesh", format!("extension provider {name}: {why}; limits that name it do not hold"));
            }
            for (name, why) in settings.processors.iter().filter_map(|(name, known)| Some((name, known.as_ref().err()?))) {
                found.add(
                    "data.mesh",
                    format!("extension provider {name}: {why}; requests of policies that ask for it are answered with 500"),
                );
            }
            if let Some(why) = &settings.administrators.wrong {
                found.add("data.mesh", format!("{why}; nobody is told by waypoints what becomes of requests"));
            }
            for (name, why) in settings.tracers.iter().filter_map(|(name, tracer)| Some((name, tracer.as_ref().err()?))) {
                found.add("data.mesh", format!("extension provider {name}: {why}; no spans are sent to it"));
            }
            for (name, why) in settings.loggers.iter().filter_map(|(name, known)| Some((name, known.as_ref().err()?))) {
                found.add("data.mesh", format!("extension provider {name}: {why}; access logs are not written to it"));
            }
        }
        _ => {}
    }
    found.0
}

fn slice(slice: &EndpointSlice, found: &mut Errors) {
    found.check(slice.address_type != "FQDN", "addressType", || {
        "names are not looked up, so the slice has no effect; use a ServiceEntry with resolution DNS".into()
    });
}

fn service_entry(entry: &ServiceEntry, found: &mut Errors) {
    if !asks_for_waypoint(&entry.metadata) {
        return;
    }
    found.check(entry_has_addresses(entry), "spec.addresses", || {
        "without a virtual address clients are told the addresses of the endpoints, and go to them around the waypoint".into()
    });
    found.check(entry.spec.resolution != Resolution::None, "spec.resolution", || {
        "with resolution NONE a waypoint has nowhere to go on to, and refuses what comes for the hosts".into()
    });
}

/// The parents of a route that do not heed it.
pub(crate) fn unheeding_parents(route: &Object) -> Vec<FieldError> {
    let mut found = Errors::default();
    self::route(route, &mut found);
    found.0
}

fn route(route: &Object, found: &mut Errors) {
    let own = route.metadata().namespace.as_deref().unwrap_or_default();
    let connections = matches!(route, Object::TlsRoute(_) | Object::TcpRoute(_));
    for (index, parent) in parent_refs(route).iter().enumerate() {
        let ParentRef { group, kind, namespace, .. } = parent;
        let path = format!("spec.parentRefs[{index}]");
        match (*group, *kind) {
            ("" | "core", "Service") if connections && namespace.is_some_and(|other| other != own) => {
                let kind = route.kind().as_str();
                let reason = format!(
                    "a {kind} holds only for Services of its own namespace: whose a connection is, is not known where it is spread"
                );
                found.add(format!("{path}.namespace"), reason);
            }
            ("networking.istio.io", kind) => found.add(path, format!("a {kind} has no routes; Services and Gateways have")),
            _ => {}
        }
    }
}
