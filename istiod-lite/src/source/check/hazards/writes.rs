//! Retries that do less for writes than they say. Nothing that may not arrive twice is sent again once an endpoint could have seen it.

use super::rule::Rule;
use super::scene::Scene;
use crate::source::FieldError;

/// The warning for a rule that asks for retries of writes by name, or of calls.
pub(super) fn sent_again(scene: &Scene, rule: &Rule) -> Option<FieldError> {
    rule.retries?;
    let after = rule.names.after;
    let reason = if rule.writes.is_empty() {
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
             `{after}` says, nor when a try is late. Where twice is as good as once use PUT; else take it out here, and let clients ask \
             again, who can tell"
        )
    };
    Some(FieldError::new(rule.field(rule.names.retry), reason))
}
