//! What policies that are not enforced would have decided: in the access log, and counted.

use ambit_model::Refusal;
use ambit_runtime::telemetry::{SeriesLimit, label, metric};
use metrics::{Label, SharedString, counter};

/// The label that names the policy.
const POLICY: &str = "policy";

/// How many of them a line names.
const MOST: usize = 4;

/// As a line of the access log has it: `policy:reason`, the first few of them.
pub(super) fn text(decided: &[Refusal]) -> Option<String> {
    let one = |decided: &Refusal| format!("{}:{}", policy(decided), decided.reason.label());
    let mut text = decided.iter().take(MOST).map(one).collect::<Vec<_>>().join(",");
    if decided.len() > MOST {
        text.push_str(",…");
    }
    (!decided.is_empty()).then_some(text)
}

/// Counts one of them, in the metric that node proxies have for it.
pub(super) fn count(decided: &Refusal, limit: &SeriesLimit) {
    let labels = vec![
        Label::from_static_parts(label::REPORTER, "waypoint"),
        Label::from_static_parts(label::REASON, decided.reason.label()),
        Label::new(SharedString::const_str(POLICY), SharedString::from_owned(policy(decided))),
    ];
    let (admitted, _used) = limit.admit(labels);
    counter!(metric::POLICY_DRY_RUN, admitted.labels()).increment(1);
}

fn policy(decided: &Refusal) -> String {
    decided.policy.as_ref().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use ambit_model::{Reason, policy::PolicyKey};

    use super::*;

    #[test]
    fn a_line_names_the_first_few_of_the_policies_in_dry_run() {
        let denied = |name: &str| Refusal::new(Reason::PolicyDeniedExplicit, "").by(PolicyKey::new("shop", name), Some(0));
        let said = |names: &[&str]| text(&names.iter().map(|name| denied(name)).collect::<Vec<_>>());
        let each = |name: &str| format!("shop/{name}:policy_denied_explicit");
        assert_eq!(said(&[]), None);
        assert_eq!(said(&["a", "b"]), Some(format!("{},{}", each("a"), each("b"))));
        let five = said(&["a", "b", "c", "d", "e"]).unwrap();
        assert!(five.ends_with(&format!("{},…", each("d"))), "{five}");
    }
}
