//! Values of AuthorizationPolicy, PeerAuthentication, RequestAuthentication and Telemetry.

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Errors;
use super::route::header_name;
use crate::source::crd::telemetry::Telemetry;
use crate::source::crd::tokens::{JwtRule, RequestAuthentication, parse_timeout};
use crate::source::crd::{Attachment, AuthorizationPolicy, Operation, PeerAuthentication, PolicyAction, Source, When};

/// Attributes a `when` may name as they are; those ending in `[` take a key in brackets.
const ATTRIBUTES: &[&str] = &[
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "destination.ip",
    "destination.port",
    "connection.sni",
];
const KEYED_ATTRIBUTES: &[&str] = &["request.headers[", "request.auth.claims[", "experimental.envoy.filters."];

pub(super) fn authorization(policy: &AuthorizationPolicy, errors: &mut Errors) {
    let spec = &policy.spec;
    targets(&policy.metadata, spec.attachment(), errors);
    if spec.action == PolicyAction::Custom && spec.provider.is_none() {
        errors.add("spec.provider", "required with the action CUSTOM");
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        for (index, from) in rule.from.iter().enumerate() {
            source(&from.source, &format!("{path}.from[{index}].source"), errors);
        }
        for (index, to) in rule.to.iter().enumerate() {
            operation(&to.operation, &format!("{path}.to[{index}].operation"), errors);
        }
        for (index, when) in rule.when.iter().enumerate() {
            condition(when, &format!("{path}.when[{index}]"), errors);
        }
    }
}

/// What a policy of any kind is attached to.
fn targets(metadata: &ObjectMeta, attachment: Attachment<'_>, errors: &mut Errors) {
    let Attachment { selector, several, one } = attachment;
    if selector.is_some() && (one.is_some() || !several.is_empty()) {
        errors.add("spec.selector", "only one of selector and targetRefs may be given");
    }
    if one.is_some() && !several.is_empty() {
        errors.add("spec.targetRef", "only one of targetRef and targetRefs may be given");
    }
    for (path, target) in attachment.placed_targets() {
        if target.namespace.is_some() && target.namespace != metadata.namespace {
            errors.add(format!("{path}.namespace"), "must be the namespace of the policy");
        }
        let known = matches!(
            (target.group.as_str(), target.kind.as_str()),
            ("" | "core", "Service") | ("gateway.networking.k8s.io", "Gateway" | "GatewayClass")
        );
        errors.check(known, &format!("{path}.kind"), || {
            format!("{} of group {:?} cannot be targeted; Service, Gateway and GatewayClass can", target.kind, target.group)
        });
    }
}

pub(super) fn request_authentication(policy: &RequestAuthentication, errors: &mut Errors) {
    let spec = &policy.spec;
    targets(&policy.metadata, spec.attachment(), errors);
    for (index, rule) in spec.jwt_rules.iter().enumerate() {
        jwt_rule(rule, &format!("spec.jwtRules[{index}]"), errors);
    }
}

fn jwt_rule(rule: &JwtRule, path: &str, errors: &mut Errors) {
    errors.check(!rule.issuer.is_empty(), &format!("{path}.issuer"), || "must not be empty".into());
    errors.check(rule.jwks.is_empty() || rule.jwks_uri.is_empty(), &format!("{path}.jwks"), || {
        "only one of jwks and jwksUri may be given".into()
    });
    errors.check(rule.timeout.is_empty() || parse_timeout(&rule.timeout).is_some(), &format!("{path}.timeout"), || {
        format!("{:?} is not a duration such as 5s", rule.timeout)
    });
    for (index, header) in rule.from_headers.iter().enumerate() {
        header_name(errors, &format!("{path}.fromHeaders[{index}].name"), &header.name);
    }
    for (field, names) in [("fromParams", &rule.from_params), ("fromCookies", &rule.from_cookies)] {
        for (index, name) in names.iter().enumerate() {
            errors.check(!name.is_empty(), &format!("{path}.{field}[{index}]"), || "must not be empty".into());
        }
    }
    for (index, output) in rule.output_claim_to_headers.iter().enumerate() {
        header_name(errors, &format!("{path}.outputClaimToHeaders[{index}].header"), &output.header);
    }
    if !rule.output_payload_to_header.is_empty() {
        header_name(errors, &format!("{path}.outputPayloadToHeader"), &rule.output_payload_to_header);
    }
}

pub(super) fn telemetry(telemetry: &Telemetry, errors: &mut Errors) {
    targets(&telemetry.metadata, telemetry.spec.attachment(), errors);
}

fn source(source: &Source, path: &str, errors: &mut Errors) {
    if *source == Source::default() {
        errors.add(path, "must have at least one field");
    }
    let blocks = [
        ("ipBlocks", &source.ip_blocks),
        ("notIpBlocks", &source.not_ip_blocks),
        ("remoteIpBlocks", &source.remote_ip_blocks),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
    ];
    for (field, values) in blocks {
        for (index, value) in values.iter().enumerate() {
            cidr(errors, &format!("{path}.{field}[{index}]"), value);
        }
    }
    let texts = [
        ("principals", &source.principals),
        ("notPrincipals", &source.not_principals),
        ("namespaces", &source.namespaces),
        ("notNamespaces", &source.not_namespaces),
        ("serviceAccounts", &source.service_accounts),
        ("notServiceAccounts", &source.not_service_accounts),
    ];
    for (field, values) in texts {
        for (index, value) in values.iter().enumerate() {
            errors.check(!value.is_empty(), &format!("{path}.{field}[{index}]"), || "must not be empty".into());
        }
    }
    for (field, values) in [("serviceAccounts", &source.service_accounts), ("notServiceAccounts", &source.not_service_accounts)] {
        for (index, value) in values.iter().enumerate() {
            let good = !value.contains('*') && value.split('/').count() <= 2;
            errors.check(good, &format!("{path}.{field}[{index}]"), || format!("{value:?} is neither name nor namespace/name"));
        }
    }
}

fn operation(operation: &Operation, path: &str, errors: &mut Errors) {
    if *operation == Operation::default() {
        errors.add(path, "must have at least one field");
    }
    for (field, values) in [("ports", &operation.ports), ("notPorts", &operation.not_ports)] {
        for (index, value) in values.iter().enumerate() {
            port(errors, &format!("{path}.{field}[{index}]"), value);
        }
    }
}

fn condition(when: &When, path: &str, errors: &mut Errors) {
    let key = when.key.as_str();
    let keyed = |prefix: &&str| key.starts_with(*prefix) && (!prefix.ends_with('[') || key.ends_with(']'));
    if !ATTRIBUTES.contains(&key) && !KEYED_ATTRIBUTES.iter().any(keyed) {
        errors.add(format!("{path}.key"), format!("{key:?} is not a known attribute"));
    }
    if when.values.is_empty() && when.not_values.is_empty() {
        errors.add(path, "needs values or notValues");
    }
    for (field, values) in [("values", &when.values), ("notValues", &when.not_values)] {
        for (index, value) in values.iter().enumerate() {
            let path = format!("{path}.{field}[{index}]");
            match key {
                "source.ip" | "remote.ip" | "destination.ip" => cidr(errors, &path, value),
                "destination.port" => port(errors, &path, value),
                _ => {}
            }
        }
    }
}

pub(super) fn peer_authentication(policy: &PeerAuthentication, errors: &mut Errors) {
    let ports = &policy.spec.port_level_mtls;
    let selects = policy.spec.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty());
    if !ports.is_empty() && !selects {
        errors.add("spec.portLevelMtls", "needs a selector");
    }
    for key in ports.keys() {
        port(errors, &format!("spec.portLevelMtls.{key}"), key);
    }
}

fn cidr(errors: &mut Errors, path: &str, text: &str) {
    let good = text.parse::<IpNet>().is_ok() || text.parse::<std::net::IpAddr>().is_ok();
    errors.check(good, path, || format!("{text:?} is neither an IP address nor a CIDR block"));
}

fn port(errors: &mut Errors, path: &str, text: &str) {
    let good = text.parse::<u16>().is_ok_and(|port| port > 0);
    errors.check(good, path, || format!("{text:?} is not a port (1 to 65535)"));
}
