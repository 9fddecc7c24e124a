//! What policies that are not enforced would have decided, as it is told.

use super::Refusal;

/// How many of them a line names.
const MOST: usize = 4;

/// As a line of the access log has it: `policy:reason`, the first few of them.
#[must_use]
pub fn text(decided: &[Refusal]) -> Option<String> {
    let one = |decided: &Refusal| format!("{}:{}", policy(decided), decided.reason.label());
    let mut text = decided.iter().take(MOST).map(one).collect::<Vec<_>>().join(",");
    if decided.len() > MOST {
        text.push_str(",…");
    }
    (!decided.is_empty()).then_some(text)
}

/// The policy behind one of them, empty where none is known.
#[must_use]
pub fn policy(decided: &Refusal) -> String {
    decided.policy.as_ref().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reason, policy::PolicyKey};

    #[test]
    fn a_line_names_the_first_few_of_the_policies_in_dry_run() {
        let denied = |name: &str| Refusal::new(Reason::PolicyDeniedExplicit, "").by(PolicyKey::new("shop", name), Some(0));
        let said = |names: &[&str]| text(&names.iter().map(|name| denied(name)).collect::<Vec<_>>());
        let each = |name: &str| format!("shop/{name}:policy_denied_explicit");
        assert_eq!(said(&[]), None);
        assert_eq!(said(&["a", "b"]), Some(format!("{},{}", each("a"), each("b"))));
        let four = ["a", "b", "c", "d"];
        let all = four.map(each).join(",");
        assert_eq!(said(&four), Some(all.clone()));
        assert_eq!(said(&["a", "b", "c", "d", "e"]), Some(format!("{all},…")));
        assert_eq!(text(&[Refusal::new(Reason::Ok, "")]).as_deref(), Some(":ok"), "of no policy that has a name");
    }
}
