//! Tests on what filters found out about a request (`envoy.type.matcher.v3.MetadataMatcher`).

use serde::Serialize;
use serde_json::Value;

use super::StringMatch;

/// A test on what is at a path.
#[derive(Debug, Clone, Serialize)]
pub struct MetadataMatch {
    /// The names that lead to it, from the outermost on; there is no way into a list.
    pub path: Vec<String>,
    /// What must be there.
    pub value: ValueMatch,
    /// The result is turned around.
    pub invert: bool,
}

/// A test on a value. Nothing passes where there is none.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueMatch {
    /// A text that passes.
    Text(StringMatch),
    /// A list with a value that passes.
    OneOf(Box<ValueMatch>),
    /// One of these passes.
    Any(Vec<ValueMatch>),
}

impl MetadataMatch {
    pub(super) fn matches(&self, metadata: Option<&Value>) -> bool {
        let passes = self.found(metadata).is_some_and(|value| self.value.matches(value));
        passes != self.invert
    }

    /// What is at the path.
    pub(crate) fn found<'a>(&self, metadata: Option<&'a Value>) -> Option<&'a Value> {
        self.path.iter().try_fold(metadata?, |value, name| value.as_object()?.get(name))
    }
}

impl ValueMatch {
    fn matches(&self, value: &Value) -> bool {
        match self {
            Self::Text(test) => value.as_str().is_some_and(|text| test.matches(text)),
            Self::OneOf(test) => value.as_array().is_some_and(|list| list.iter().any(|value| test.matches(value))),
            Self::Any(tests) => tests.iter().any(|test| test.matches(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_found_by_its_path_and_what_is_not_there_passes_no_test() {
        let metadata =
            json!({ "payload": { "sub": "ann", "n": 1, "groups": ["a", "b"], "realm": { "roles": ["op"] }, "none": null } });
        let text = |text: &str| ValueMatch::Text(StringMatch::exact(text));
        let one_of = |value: &str| ValueMatch::OneOf(Box::new(text(value)));
        let either = |value: &str| ValueMatch::Any(vec![one_of(value), text(value)]);
        for (path, value, expected) in [
            (&["payload", "sub"][..], text("ann"), true),
            (&["payload", "sub"], text("bob"), false),
            (&["payload", "sub"], one_of("ann"), false),
            (&["payload", "sub"], either("ann"), true),
            (&["payload", "groups"], either("b"), true),
            (&["payload", "groups"], either("c"), false),
            (&["payload", "groups"], text("a"), false),
            (&["payload", "realm", "roles"], either("op"), true),
            (&["payload", "realm"], either("op"), false),
            (&["payload", "groups", "0"], text("a"), false),
            (&["payload", "n"], text("1"), false),
            (&["payload", "none"], text(""), false),
            (&["payload", "gone"], text(""), false),
            (&["other", "sub"], text("ann"), false),
            (&["payload", "sub"], ValueMatch::Any(Vec::new()), false),
        ] {
            let path: Vec<String> = path.iter().map(|name| (*name).to_owned()).collect();
            let test = |invert| MetadataMatch { path: path.clone(), value: value.clone(), invert };
            assert_eq!(test(false).matches(Some(&metadata)), expected, "{path:?} {value:?}");
            assert_eq!(test(true).matches(Some(&metadata)), !expected, "{path:?} {value:?}");
            assert!(!test(false).matches(None) && test(true).matches(None), "without a token");
        }
    }
}
