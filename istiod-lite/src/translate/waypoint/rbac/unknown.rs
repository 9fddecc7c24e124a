//! What an AuthorizationPolicy asks that no waypoint can tell, in sentences.

use crate::source::crd::{AuthorizationPolicy, PolicyAction};

/// Attributes of `when` that nothing a waypoint looks at says: what is in a tunnel has no server name, and what other filters of another proxy would
/// know is not known here. One that ends in a dot is the beginning of many.
pub(super) const UNKNOWN: [&str; 2] = ["connection.sni", "experimental.envoy.filters."];

/// Sentences on the conditions of a policy that mean something else at a waypoint than at a node proxy, as `path: what`: which endpoint takes what is
/// asked of a service is chosen after it was let in.
pub fn of_services_at_waypoints(policy: &AuthorizationPolicy) -> Vec<String> {
    if policy.spec.targets().next().is_none() {
        return Vec::new();
    }
    let mut notes = Vec::new();
    for (number, rule) in policy.spec.rules.iter().enumerate() {
        for (at, _) in rule.when.iter().enumerate().filter(|(_, when)| when.key == "destination.ip") {
            notes.push(format!(
                "rules[{number}].when[{at}]: destination.ip is at a waypoint the address that clients ask for: a Service's own, and a pod's only \
                 where it is that which they ask for; at the edge of the mesh it is not known, so that an ALLOW rule never matches there, and others \
                 match more"
            ));
        }
    }
    notes
}

/// Sentences on the conditions of a policy that a waypoint cannot judge, as `path: what`; none if it is one of node proxies.
pub fn unknown_at_waypoints(policy: &AuthorizationPolicy) -> Vec<String> {
    let effect = match policy.spec.action {
        _ if policy.spec.targets().next().is_none() => return Vec::new(),
        PolicyAction::Audit => return Vec::new(),
        PolicyAction::Allow => "the rule never matches",
        PolicyAction::Deny => "the condition is left out and the rule denies more",
        PolicyAction::Custom => "the condition is left out and more is asked about",
    };
    let mut notes = Vec::new();
    for (number, rule) in policy.spec.rules.iter().enumerate() {
        for (at, when) in rule.when.iter().enumerate().filter(|(_, when)| is_unknown(&when.key)) {
            notes.push(format!("rules[{number}].when[{at}]: {} is not known to a waypoint: {effect}", when.key));
        }
    }
    notes
}

fn is_unknown(key: &str) -> bool {
    UNKNOWN.iter().any(|unknown| if unknown.ends_with('.') { key.starts_with(unknown) } else { key == *unknown })
}
