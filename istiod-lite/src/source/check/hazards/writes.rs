//! Retries of writes. Nothing that may not arrive twice is sent again once an endpoint could have seen it, so that retries do less for it than they
//! say; unless a RequestPolicy has it sent again, and then it is done twice.

use super::rule::{Retries, Rule};
use super::scene::Scene;
use crate::source::{FieldError, NamespacedName};

/// The warning for a rule that asks for retries of writes by name, or of calls, or whose writes a policy has sent again.
pub(super) fn sent_again(scene: &Scene, rule: &Rule) -> Option<FieldError> {
    let retries = rule.retries?;
    if let Some(policy) = &rule.twice {
        return twice(rule, retries, policy);
    }
    let after = rule.names.after;
    let reason = if rule.writes.is_empty() && rule.any_method && !rule.calls.is_empty() {
        calls(rule)
    } else if rule.writes.is_empty() {
        let (target, port) = rule.backends.iter().find_map(|target| Some((target, scene.grpc_port(target)?)))?;
        format!(
            "port {} of Service {} carries gRPC, whose calls are all POST: they are sent again only while no endpoint has seen them, \
             whatever `{after}` says, and their own statuses are none of HTTP's. Take it out, and let the clients retry, who know \
             which calls may come twice",
            port.port, target.service
        )
    } else {
        let methods = rule.writes.iter().copied().collect::<Vec<_>>().join(" and ");
        format!(
            "{methods} may not arrive twice: a request is sent again only while no endpoint has seen it, not after an answer, whatever \
             `{after}` says, nor when a try is late. Where twice is as good as once use PUT, or have a RequestPolicy say so \
             (`retries.writes`); else take it out here, and let clients ask again, who can tell"
        )
    };
    Some(FieldError::new(rule.field(rule.names.retry), reason))
}

/// What is said of a rule that has calls sent again by their statuses, which no policy lets arrive twice.
fn calls(rule: &Rule) -> String {
    let statuses = rule.calls.iter().map(|status| format!("`{status}`")).collect::<Vec<_>>().join(" and ");
    let mean = if rule.calls.len() == 1 { "is a status" } else { "are statuses" };
    format!(
        "{statuses} {mean} of gRPC, whose calls are all POST: these are sent again only while no endpoint has seen them, not after an \
         answer, and in `{}` that has no effect on them. Where a call that comes twice is as good as one have a RequestPolicy \
         for the Service say so (`retries.writes: Allowed`); else take it out here, and let clients call again, who can tell",
        rule.names.after
    )
}

/// The warning for a rule with writes that a policy has sent again.
fn twice(rule: &Rule, retries: Retries, policy: &NamespacedName) -> Option<FieldError> {
    let methods = match rule.any_method {
        true => "requests of any method, POST among them,".to_owned(),
        false if rule.writes.is_empty() => return None,
        false => format!("requests with {}", rule.writes.iter().copied().collect::<Vec<_>>().join(" and ")),
    };
    let reason = format!(
        "{methods} are sent again also after an endpoint has seen them, by `retries.writes` of RequestPolicy {policy}: what one does may be \
         done {} times. Let that policy be only for rules where twice is as good as once, as where each request bears a key by which the \
         service knows it again",
        retries.tries()
    );
    Some(FieldError::new(rule.field(rule.names.retry), reason))
}
