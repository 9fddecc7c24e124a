//! Rule sets applied to connections and requests.

use ambit_model::{
    Reason, Refusal,
    policy::PolicyKey,
    route::{RequestView, Subject, Verdict, evaluate},
};

use crate::{compiled::RbacFilter, terminate::Tunnel};

/// Decides about a connection before its first byte.
///
/// # Errors
/// With the rule that denies it, or the one that came closest to allowing it.
pub fn connection(filters: &[RbacFilter], tunnel: &Tunnel) -> Result<(), Refusal> {
    decide(filters, tunnel, None)
}

/// Decides about a request.
///
/// # Errors
/// As [`connection`].
pub fn request(filters: &[RbacFilter], tunnel: &Tunnel, request: RequestView<'_>) -> Result<(), Refusal> {
    decide(filters, tunnel, Some(request))
}

fn decide(filters: &[RbacFilter], tunnel: &Tunnel, request: Option<RequestView<'_>>) -> Result<(), Refusal> {
    let subject = Subject {
        principal: tunnel.peer.uri.as_deref(),
        remote_ip: Some(tunnel.peer.address.ip()),
        direct_remote_ip: Some(tunnel.peer.address.ip()),
        destination_ip: Some(tunnel.destination.ip()),
        destination_port: tunnel.destination.port(),
        request,
    };
    for filter in filters {
        if let Some(shadow) = &filter.shadow
            && let Err(refusal) = refusal(evaluate(shadow, &subject))
        {
            tracing::info!(peer = tunnel.peer.uri.as_deref(), destination = %tunnel.destination, %refusal, "would be denied (dry run)");
        }
        if let Some(rules) = &filter.rules {
            refusal(evaluate(rules, &subject))?;
        }
    }
    Ok(())
}

fn refusal(verdict: Verdict<'_>) -> Result<(), Refusal> {
    let (reason, rule) = match verdict {
        Verdict::Allowed(_) => return Ok(()),
        Verdict::DeniedBy(rule) => (Reason::PolicyDeniedExplicit, Some(rule)),
        Verdict::NotAllowed(closest) => (Reason::PolicyDeniedNoAllowMatch, closest),
    };
    Err(match rule.map(|rule| (rule, named(rule))) {
        None => Refusal::new(reason, ""),
        Some((_, Some((policy, index)))) => Refusal::new(reason, "").by(policy, index),
        Some((rule, None)) => Refusal::new(reason, format!("rule {rule}")),
    })
}

/// Reads `ns[<namespace>]-policy[<name>]-rule[<index>]`, the form the control plane names rules in.
fn named(rule: &str) -> Option<(PolicyKey, Option<usize>)> {
    let (namespace, rest) = rule.strip_prefix("ns[")?.split_once("]-policy[")?;
    let (name, rest) = rest.split_once(']')?;
    let index = rest.strip_prefix("-rule[").and_then(|r| r.strip_suffix(']')).and_then(|i| i.parse().ok());
    Some((PolicyKey::new(namespace, name), index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_s_name_gives_the_policy_and_its_place() {
        assert_eq!(named("ns[shop]-policy[no-web]-rule[2]"), Some((PolicyKey::new("shop", "no-web"), Some(2))));
        assert_eq!(named("ns[shop]-policy[no-web]"), Some((PolicyKey::new("shop", "no-web"), None)));
        assert_eq!(named("anything"), None);
    }
}
