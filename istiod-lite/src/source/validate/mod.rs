//! Values that have the right type and are wrong all the same: what the API server would refuse by schema or webhook.

mod destination;
mod effect;
mod entry;
mod filter;
mod hash;
mod health;
mod layer4;
mod policy;
mod requests;
mod retry_on;
mod route;
mod session;
mod slice;
#[cfg(test)]
mod tests;
mod traffic;
mod unsupported;
mod virtual_service;

use std::collections::BTreeSet;
use std::net::IpAddr;

use gateway_api::gateways::Gateway;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::object::Object;
use super::typed::FieldError;
use crate::index::parent_refs;
use crate::source::Pod;

pub(crate) use destination::refused;
pub(crate) use effect::unheeding_parents;
pub(super) use effect::without_effect;
pub(crate) use retry_on::{RetryOn, conditions_left_out};
pub(crate) use unsupported::{
    NOT_BELIEVED, RuleKeys, TLS_INSTEAD, TLS_REFUSED, heedless, key_sources, keys_of, source_field, unverified,
};
pub(crate) use virtual_service::{faults_of_rule, is_pattern, not_routed};

/// All that is wrong with the values of an object.
pub(super) fn validate(object: &Object) -> Vec<FieldError> {
    let mut errors = Errors::default();
    for (index, port) in parent_refs(object).iter().enumerate().filter_map(|(index, parent)| Some((index, parent.port?))) {
        errors.port(&format!("spec.parentRefs[{index}].port"), port);
    }
    match object {
        Object::Pod(object) => pod(object, &mut errors),
        Object::Service(object) => service(object, &mut errors),
        Object::Gateway(object) => gateway(object, &mut errors),
        Object::HttpRoute(object) => route::http(object, &mut errors),
        Object::GrpcRoute(object) => route::grpc(object, &mut errors),
        Object::TlsRoute(object) => layer4::tls(object, &mut errors),
        Object::TcpRoute(object) => layer4::tcp(object, &mut errors),
        Object::EndpointSlice(object) => slice::slice(object, &mut errors),
        Object::ServiceEntry(object) => entry::service(object, &mut errors),
        Object::WorkloadEntry(object) => entry::workload(object, &mut errors),
        Object::AuthorizationPolicy(object) => policy::authorization(object, &mut errors),
        Object::PeerAuthentication(object) => policy::peer_authentication(object, &mut errors),
        Object::RequestAuthentication(object) => policy::request_authentication(object, &mut errors),
        Object::RequestPolicy(object) => requests::policy(object, &mut errors),
        Object::Telemetry(object) => policy::telemetry(object, &mut errors),
        Object::TrafficPolicy(object) => traffic::policy(object, &mut errors),
        Object::BackendTrafficPolicy(object) => traffic::backend(object, &mut errors),
        Object::MeshSettings(settings) => {
            errors.0.extend(settings.unreadable.iter().map(|why| FieldError::new("data.mesh", why)));
        }
        Object::Namespace(_)
        | Object::Node(_)
        | Object::ServiceAccount(_)
        | Object::GatewayClass(_)
        | Object::ReferenceGrant(_)
        | Object::BackendTlsPolicy(_)
        // What is wrong with one is said by the Gateways that name it.
        | Object::TlsSecret(_)
        // Whatever is wrong in one is left out, so that the rest of it holds.
        | Object::DestinationRule(_)
        // Its rules are not carried out one by one, and answer for that.
        | Object::VirtualService(_) => {}
    }
    errors.0
}

/// Errors as they are found.
#[derive(Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn add(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        self.0.push(FieldError::new(path, reason));
    }

    fn check(&mut self, good: bool, path: &str, reason: impl FnOnce() -> String) {
        if !good {
            self.add(path, reason());
        }
    }

    /// A list may not be longer than this.
    fn at_most(&mut self, limit: usize, path: &str, length: usize) {
        self.check(length <= limit, path, || format!("{length} are more than {limit}"));
    }

    /// An address of something else than whoever dials it: not the loopback of the proxy that would, where its own pages are.
    fn elsewhere(&mut self, path: &str, address: IpAddr) {
        let ip = address.to_canonical();
        self.check(!(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast()), path, || {
            format!("{address} is an address of no other machine")
        });
    }

    fn port(&mut self, path: &str, port: i32) {
        self.check((1..=65535).contains(&port), path, || format!("{port} is not a port (1 to 65535)"));
    }
}

fn pod(pod: &Pod, errors: &mut Errors) {
    let containers = pod.spec.iter().flat_map(|spec| spec.containers.iter().enumerate());
    for (position, container) in containers {
        for (index, port) in container.ports.iter().flatten().enumerate() {
            errors.port(&format!("spec.containers[{position}].ports[{index}].containerPort"), port.container_port);
        }
    }
    if let Some(account) = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()) {
        errors.check(account.is_empty() || is_subdomain(account), "spec.serviceAccountName", || {
            format!("{account:?} is not a valid name")
        });
    }
    let Some(status) = &pod.status else { return };
    if let Some(address) = status.pod_ip.as_deref().filter(|address| !address.is_empty()) {
        ip(errors, "status.podIP", address);
    }
    for (index, address) in status.pod_ips.iter().flatten().enumerate() {
        ip(errors, &format!("status.podIPs[{index}].ip"), &address.ip);
    }
}

fn ip(errors: &mut Errors, path: &str, text: &str) {
    errors.check(text.parse::<IpAddr>().is_ok(), path, || format!("{text:?} is not an IP address"));
}

fn service(service: &Service, errors: &mut Errors) {
    let Some(spec) = &service.spec else { return };
    for (index, address) in spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).enumerate() {
        if !matches!(address.as_str(), "" | "None") {
            let path = if index < spec.cluster_ips.as_ref().map_or(0, Vec::len) {
                format!("spec.clusterIPs[{index}]")
            } else {
                "spec.clusterIP".into()
            };
            ip(errors, &path, address);
        }
    }
    let ports = spec.ports.as_deref().unwrap_or_default();
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        errors.port(&format!("{path}.port"), port.port);
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        errors.check(matches!(protocol, "TCP" | "UDP" | "SCTP"), &format!("{path}.protocol"), || {
            format!("{protocol:?} is none of TCP, UDP, SCTP")
        });
        errors.check(numbers.insert((protocol, port.port)), &format!("{path}.port"), || format!("{} is given twice", port.port));
        match port.name.as_deref() {
            None | Some("") => {
                errors.check(ports.len() == 1, &format!("{path}.name"), || "required when there is more than one port".into())
            }
            Some(name) => errors.check(names.insert(name), &format!("{path}.name"), || format!("{name:?} is given twice")),
        }
        if let Some(IntOrString::Int(target)) = &port.target_port {
            errors.port(&format!("{path}.targetPort"), *target);
        }
    }
    if let Some(policy) = spec.internal_traffic_policy.as_deref() {
        errors.check(matches!(policy, "Cluster" | "Local"), "spec.internalTrafficPolicy", || {
            format!("{policy:?} is neither Cluster nor Local")
        });
    }
}

fn gateway(gateway: &Gateway, errors: &mut Errors) {
    errors.check(!gateway.spec.gateway_class_name.is_empty(), "spec.gatewayClassName", || "must not be empty".into());
    let mut names = BTreeSet::new();
    for (index, listener) in gateway.spec.listeners.iter().enumerate() {
        errors.port(&format!("spec.listeners[{index}].port"), listener.port);
        errors.check(names.insert(&listener.name), &format!("spec.listeners[{index}].name"), || {
            format!("{:?} is given twice", listener.name)
        });
    }
    for (index, address) in gateway.status.iter().flat_map(|status| status.addresses.iter().flatten()).enumerate() {
        if matches!(address.r#type.as_deref(), None | Some("IPAddress")) {
            ip(errors, &format!("status.addresses[{index}].value"), &address.value);
        }
    }
}

/// A DNS label (RFC 1123): 1 to 63 of `a-z 0-9 -`, alphanumeric at both ends.
pub(crate) fn is_label(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}

/// A DNS subdomain (RFC 1123): labels separated by dots, at most 253 bytes.
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}
