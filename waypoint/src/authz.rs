//! Rule sets applied to connections and requests.

use ambit_model::{
    Reason, Refusal,
    policy::PolicyKey,
    route::{self, Closest, Misfit, Rbac, RequestView, Subject, Verdict, evaluate},
};

use serde_json::Value;

use crate::{
    compiled::{Mark, Marked, RbacFilter},
    terminate::Tunnel,
};

/// How many policies that did not come closest a refusal names.
const LISTED: usize = 5;

/// Decides about a connection before its first byte.
///
/// # Errors
/// With the rule that denies it, or the one that came closest to allowing it.
pub fn connection(filters: &[RbacFilter], tunnel: &Tunnel) -> Result<(), Refusal> {
    decide(filters, tunnel, None, None)
}

/// Decides about a request, of which its token says `metadata`.
///
/// # Errors
/// As [`connection`].
pub fn request(
    filters: &[RbacFilter],
    tunnel: &Tunnel,
    request: RequestView<'_>,
    metadata: Option<&Value>,
) -> Result<(), Refusal> {
    decide(filters, tunnel, Some(request), metadata)
}

/// Who asks, and for what, as rules see it.
pub(crate) fn subject<'a>(tunnel: &'a Tunnel, request: Option<RequestView<'a>>, metadata: Option<&'a Value>) -> Subject<'a> {
    Subject {
        principal: tunnel.peer.uri.as_deref(),
        remote_ip: Some(tunnel.peer.address.ip()),
        direct_remote_ip: Some(tunnel.peer.address.ip()),
        destination_ip: Some(tunnel.destination.ip().to_canonical()),
        destination_port: tunnel.destination.port(),
        request,
        metadata,
    }
}

fn decide(
    filters: &[RbacFilter],
    tunnel: &Tunnel,
    request: Option<RequestView<'_>>,
    metadata: Option<&Value>,
) -> Result<(), Refusal> {
    let subject = subject(tunnel, request, metadata);
    filters.iter().filter_map(|filter| filter.rules.as_ref()).try_for_each(|rules| ask(rules, &subject))
}

/// What rule sets that are not enforced would have decided about a subject that the others let pass: each DENY policy that matches; and for the
/// ALLOW policies of a set the one that would let it pass, with [`Reason::Ok`], or the one that came closest.
pub(crate) fn dry_run(filters: &[RbacFilter], subject: &Subject<'_>) -> Vec<Refusal> {
    let shadows = filters.iter().filter_map(|filter| filter.shadow.as_ref());
    let mut decided: Vec<Refusal> = Vec::new();
    for verdict in shadows.flat_map(|shadow| route::dry_run(shadow, subject)) {
        let one = told(verdict);
        // The rules of a policy follow one another, as their names begin alike.
        let again = |before: &Refusal| before.policy.is_some() && before.policy == one.policy;
        let is_told = matches!(verdict, Verdict::DeniedBy(_)) && decided.last().is_some_and(again);
        if !is_told {
            decided.push(one);
        }
    }
    decided
}

/// Only the reason and the policy of what is not enforced are told: why the others do not match is not worth finding out for each request.
fn told(verdict: Verdict<'_>) -> Refusal {
    let (reason, rule) = match verdict {
        Verdict::Allowed(rule) => (Reason::Ok, rule),
        Verdict::DeniedBy(rule) => (Reason::PolicyDeniedExplicit, Some(rule)),
        Verdict::NotAllowed(closest) => (Reason::PolicyDeniedNoAllowMatch, closest.map(|closest| closest.rule)),
    };
    refusal(reason, rule.unwrap_or_default(), String::new())
}

/// Whether an authorizer is asked about a subject, with the rule by which it is, if there is one; `None` if it is not.
pub(crate) fn marked<'a>(when: Option<&'a Marked>, subject: &Subject<'_>) -> Option<Option<&'a str>> {
    let Some(Marked { rules, of, is, invert }) = when else { return Some(None) };
    let (result, rule) = match evaluate(rules, subject) {
        Verdict::Allowed(rule) => ("allowed", rule),
        Verdict::DeniedBy(rule) => ("denied", Some(rule)),
        Verdict::NotAllowed(_) => ("denied", None),
    };
    let passes = match of {
        Mark::Result => is.matches(result),
        Mark::Rule => rule.is_some_and(|rule| is.matches(rule)),
    };
    (passes != *invert).then_some(rule)
}

/// Decides by one rule set.
pub(crate) fn ask(rules: &Rbac, subject: &Subject<'_>) -> Result<(), Refusal> {
    match evaluate(rules, subject) {
        Verdict::Allowed(_) => Ok(()),
        Verdict::DeniedBy(rule) => Err(refusal(Reason::PolicyDeniedExplicit, rule, String::new())),
        Verdict::NotAllowed(Some(closest)) => {
            let detail = format!("{}{}", misfit(closest, subject), others(rules, closest.rule));
            Err(refusal(Reason::PolicyDeniedNoAllowMatch, closest.rule, detail))
        }
        Verdict::NotAllowed(None) => Err(Refusal::new(Reason::PolicyDeniedNoAllowMatch, "the rule set allows nothing")),
    }
}

fn refusal(reason: Reason, rule: &str, detail: String) -> Refusal {
    match named(rule) {
        Some((policy, index)) => Refusal::new(reason, detail).by(policy, index),
        None if detail.is_empty() => Refusal::new(reason, format!("rule {rule}")),
        None => Refusal::new(reason, format!("rule {rule}: {detail}")),
    }
}

/// What the rule that came closest does not fit.
fn misfit(closest: Closest<'_>, subject: &Subject<'_>) -> String {
    let token = if subject.metadata.is_some() { " with its token" } else { "" };
    let client = format!("{}{token}", subject.principal.unwrap_or("a peer without identity"));
    let asked = match &subject.request {
        Some(request) => format!("{} {}", request.method, request.path()),
        None => format!("port {}", subject.destination_port),
    };
    if let Some((_, None)) = named(closest.rule) {
        return "none of its rules can match here, so it allows nothing".to_owned();
    }
    match closest.misfit {
        Misfit::Request => format!("it does not allow {asked}"),
        Misfit::Client => format!("it does not allow {client}"),
        Misfit::Both => format!("it allows neither {client} nor {asked}"),
    }
}

/// The other policies that were asked.
fn others(rules: &Rbac, closest: &str) -> String {
    let own = named(closest).map(|(policy, _)| policy);
    let mut others: Vec<_> = rules.policies.iter().filter_map(|rule| named(&rule.name)).map(|(policy, _)| policy).collect();
    others.sort();
    others.dedup();
    others.retain(|policy| Some(policy) != own.as_ref());
    if others.is_empty() {
        return String::new();
    }
    let listed: Vec<_> = others.iter().take(LISTED).map(ToString::to_string).collect();
    let more = match others.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("; asked as well: {}{more}", listed.join(", "))
}

/// Reads `ns[<namespace>]-policy[<name>]-rule[<index>]`, the form the control plane names rules in.
pub(crate) fn named(rule: &str) -> Option<(PolicyKey, Option<usize>)> {
    let (namespace, rest) = rule.strip_prefix("ns[")?.split_once("]-policy[")?;
    let (name, rest) = rest.split_once(']')?;
    let index = rest.strip_prefix("-rule[").and_then(|r| r.strip_suffix(']')).and_then(|i| i.parse().ok());
    Some((PolicyKey::new(namespace, name), index))
}

#[cfg(test)]
mod tests {
    use ambit_model::route::{Permission, Principal, RbacAction, RbacPolicy, StringMatch};

    use super::*;

    #[test]
    fn a_rule_s_name_gives_the_policy_and_its_place() {
        assert_eq!(named("ns[shop]-policy[no-web]-rule[2]"), Some((PolicyKey::new("shop", "no-web"), Some(2))));
        assert_eq!(named("ns[shop]-policy[no-web]"), Some((PolicyKey::new("shop", "no-web"), None)));
        assert_eq!(named("anything"), None);
    }

    fn allow(names: &[&str], principal: Principal) -> Rbac {
        let rule = |name: &&str| RbacPolicy {
            name: (*name).to_owned(),
            permissions: vec![Permission::DestinationPort(80)],
            principals: vec![principal.clone()],
        };
        Rbac { action: RbacAction::Allow, policies: names.iter().map(rule).collect() }
    }

    fn web(destination_port: u16) -> Subject<'static> {
        Subject {
            principal: Some("spiffe://td/ns/shop/sa/web"),
            remote_ip: None,
            direct_remote_ip: None,
            destination_ip: None,
            destination_port,
            request: None,
            metadata: None,
        }
    }

    fn said(rules: &Rbac, destination_port: u16) -> String {
        ask(rules, &web(destination_port)).unwrap_err().to_string()
    }

    #[test]
    fn a_dry_run_tells_each_policy_that_would_deny_and_what_all_that_allow_come_to() {
        let told = |shadow: Rbac, port: u16| {
            let filter = RbacFilter { rules: None, shadow: Some(shadow) };
            let decided = dry_run(&[filter, RbacFilter::default()], &web(port));
            let one = |decided: Refusal| (decided.reason, decided.policy.map(|policy| policy.to_string()), decided.rule);
            decided.into_iter().map(one).collect::<Vec<_>>()
        };
        let names = ["ns[shop]-policy[a]-rule[0]", "ns[shop]-policy[a]-rule[1]", "ns[shop]-policy[b]-rule[2]", "x", "y"];
        let of = |policy: &str| Some(format!("shop/{policy}"));
        let deny = Rbac { action: RbacAction::Deny, ..allow(&names, Principal::Any) };
        let denied = Reason::PolicyDeniedExplicit;
        let each = [(denied, of("a"), Some(0)), (denied, of("b"), Some(2)), (denied, None, None), (denied, None, None)];
        assert_eq!(told(deny.clone(), 80), each);
        assert!(told(deny, 81).is_empty(), "it matches no other port");
        assert_eq!(told(allow(&names[..2], Principal::Any), 80), [(Reason::Ok, of("a"), Some(0))]);
        let not_allowed = [(Reason::PolicyDeniedNoAllowMatch, of("a"), Some(0))];
        assert_eq!(told(allow(&names[..2], Principal::Any), 81), not_allowed);
    }

    #[test]
    fn a_refusal_without_a_matching_allow_says_which_came_closest_why_and_which_others_were_asked() {
        const SENTENCE: &str = "ALLOW policies apply and none of their rules matched";
        let nobody = Principal::Authenticated(Some(StringMatch::exact("spiffe://td/ns/shop/sa/api")));
        let only_api = ["ns[shop]-policy[only-api]-rule[0]"];
        assert_eq!(
            said(&allow(&only_api, nobody.clone()), 80),
            format!("{SENTENCE} (closest was shop/only-api, rules[0]): it does not allow spiffe://td/ns/shop/sa/web")
        );
        assert_eq!(
            said(&allow(&only_api, Principal::Any), 81),
            format!("{SENTENCE} (closest was shop/only-api, rules[0]): it does not allow port 81")
        );
        let three =
            ["ns[shop]-policy[a]-rule[0]", "ns[shop]-policy[a]-rule[1]", "ns[shop]-policy[b]", "of another control plane"];
        assert_eq!(
            said(&allow(&three, nobody), 81),
            format!(
                "{SENTENCE} (closest was shop/a, rules[0]): it allows neither spiffe://td/ns/shop/sa/web nor port 81; asked as well: shop/b"
            )
        );
        assert_eq!(said(&allow(&[], Principal::Any), 80), format!("{SENTENCE}: the rule set allows nothing"));
    }
}
