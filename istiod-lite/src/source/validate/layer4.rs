//! Values of TLSRoute and TCPRoute (the limits of the Gateway API's schemas).

use gateway_api::experimental::tcproutes::TcpRoute;
use gateway_api::experimental::tlsroutes::TlsRoute;

use super::route::{backend_ref, is_service};
use super::{Errors, is_subdomain};

pub(super) fn tls(route: &TlsRoute, errors: &mut Errors) {
    errors.check(!route.spec.hostnames.is_empty(), "spec.hostnames", || "at least one is required".into());
    for (index, host) in route.spec.hostnames.iter().enumerate() {
        errors.check(is_subdomain(host.strip_prefix("*.").unwrap_or(host)), &format!("spec.hostnames[{index}]"), || {
            format!("{host:?} is no DNS name, nor one with the first label \"*\"")
        });
    }
    one_rule(route.spec.rules.len(), errors);
    for (index, backend) in route.spec.rules.iter().flat_map(|rule| &rule.backend_refs).enumerate() {
        let service = is_service(backend.group.as_deref(), backend.kind.as_deref());
        backend_ref(errors, &format!("spec.rules[0].backendRefs[{index}]"), service, backend.port, backend.weight);
    }
}

pub(super) fn tcp(route: &TcpRoute, errors: &mut Errors) {
    one_rule(route.spec.rules.len(), errors);
    for (index, backend) in route.spec.rules.iter().flat_map(|rule| &rule.backend_refs).enumerate() {
        let service = is_service(backend.group.as_deref(), backend.kind.as_deref());
        backend_ref(errors, &format!("spec.rules[0].backendRefs[{index}]"), service, backend.port, backend.weight);
    }
}

/// A connection has nothing that a second rule could be chosen by.
fn one_rule(rules: usize, errors: &mut Errors) {
    errors.check(rules == 1, "spec.rules", || format!("there must be exactly one rule, not {rules}"));
}
