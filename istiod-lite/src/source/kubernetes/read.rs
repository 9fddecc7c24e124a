//! From what the API server sent to the object that is in force, and what is wrong with it.

use serde_json::Value;

use super::strict;
use super::trim::trim;
use crate::source::examine::{Examined, Unknown, examine, unknown_fields};
use crate::source::object::{Kind, NamespacedName, Object, ObjectKey};
use crate::source::typed::FieldError;
use crate::source::{Origin, Problem, Severity};

/// What became of an object.
#[derive(Debug)]
pub(super) struct Read {
    /// What is in force from now on: the object, or something in its place; `None` when nothing is.
    pub(super) object: Option<Object>,
    /// What is wrong with it.
    pub(super) problems: Vec<Problem>,
}

/// The namespace and name in the metadata of an object; `None` without a name.
pub(super) fn name_of(object: &Value) -> Option<NamespacedName> {
    let metadata = object.get("metadata")?;
    let text = |key: &str| metadata.get(key).and_then(Value::as_str);
    Some(NamespacedName::new(text("namespace").unwrap_or_default(), text("name").filter(|name| !name.is_empty())?))
}

/// Reads an object. While it cannot be read `held`, which is in force at present, stays; without that, a policy is replaced by the
/// strictest that it could be ([`strict::stand_in`]), for nothing may fail open.
pub(super) fn read(kind: Kind, name: &NamespacedName, mut value: Value, held: Option<&Object>) -> Read {
    trim(kind, &mut value);
    let stand_in = if unknown_fields(kind) == Unknown::Refused { strict::stand_in(kind, &value) } else { None };
    let problem = |error: FieldError, severity| Problem {
        origin: Origin::Cluster,
        object: Some(ObjectKey { kind, name: name.clone() }),
        field: error.path,
        reason: error.reason,
        severity,
    };
    let Examined { object, mut errors, warnings } = examine(kind, value);
    let mut object = object.filter(|_| errors.is_empty());
    if object.is_none() {
        let consequence;
        (object, consequence) = match (held, stand_in) {
            (Some(held), _) => (Some(held.clone()), "what was in force before stays"),
            (None, Some(stand_in)) => (Some(stand_in), strict::CONSEQUENCE),
            (None, None) => (None, "it has no effect"),
        };
        for error in &mut errors {
            error.reason = format!("{}; until it is mended {consequence}", error.reason);
        }
    }
    let errors = errors.into_iter().map(|error| problem(error, Severity::Error));
    let problems = errors.chain(warnings.into_iter().map(|error| problem(error, Severity::Warning))).collect();
    Read { object, problems }
}
