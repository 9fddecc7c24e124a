//! From what the API server sent to the object that is in force, and what is wrong with it.

use serde_json::Value;

use super::strict;
use super::trim::trim;
use crate::source::object::{Kind, NamespacedName, Object, ObjectKey};
use crate::source::typed::{FieldError, read_with_unknown};
use crate::source::validate::{validate, without_effect};
use crate::source::{Origin, Problem, Severity};

/// What became of an object.
#[derive(Debug)]
pub(super) struct Read {
    /// What is in force from now on: the object, or something in its place; `None` when nothing is.
    pub(super) object: Option<Object>,
    /// What is wrong with it.
    pub(super) problems: Vec<Problem>,
}

/// What a field means that we do not know.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    /// Nothing: the server is newer than we, or the field is none of ours.
    Fine,
    /// The author thinks that it has an effect.
    Told,
    /// It may narrow what is allowed, so that the object cannot be taken without it.
    Refused,
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
    let policy = unknown_fields(kind);
    let stand_in = if policy == Unknown::Refused { strict::stand_in(kind, &value) } else { None };
    let problem = |error: FieldError, severity| Problem {
        origin: Origin::Cluster,
        object: Some(ObjectKey { kind, name: name.clone() }),
        field: error.path,
        reason: error.reason,
        severity,
    };
    let (object, mut errors, mut warnings) = match typed(kind, value) {
        Ok((object, unknown, warnings)) => {
            let mut errors = validate(&object);
            let unknown = unknown.into_iter().filter(|error| error.path.starts_with("spec"));
            let mut warnings = warnings;
            warnings.extend(without_effect(&object));
            match policy {
                Unknown::Fine => {}
                Unknown::Told => {
                    warnings.extend(unknown.map(|error| FieldError { reason: "unknown field, without effect".into(), ..error }))
                }
                Unknown::Refused => errors.extend(unknown),
            }
            (Some(object), errors, warnings)
        }
        Err(error) => (None, vec![error], Vec::new()),
    };
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
    let problems = errors.chain(warnings.drain(..).map(|error| problem(error, Severity::Warning))).collect();
    Read { object, problems }
}

fn unknown_fields(kind: Kind) -> Unknown {
    match kind.group() {
        "security.istio.io" => Unknown::Refused,
        // It permits, and a field that we do not know would make that less.
        _ if kind == Kind::ReferenceGrant => Unknown::Refused,
        group if group.is_empty() || (group.ends_with(".k8s.io") && group != "gateway.networking.k8s.io") => Unknown::Fine,
        _ => Unknown::Told,
    }
}

type Typed = (Object, Vec<FieldError>, Vec<FieldError>);

/// The object, its unknown fields, and what else deserves a look. A status is other programs' word: one that does not fit its type is
/// left out, instead of keeping the object from being in force.
fn typed(kind: Kind, value: Value) -> Result<Typed, FieldError> {
    let spare = (kind != Kind::Pod && value.get("status").is_some()).then(|| value.clone());
    let error = match read_with_unknown(kind, value) {
        Ok((object, unknown)) => return Ok((object, unknown, Vec::new())),
        Err(error) => error,
    };
    match spare {
        Some(Value::Object(mut fields)) if error.path.starts_with("status") => {
            fields.remove("status");
            let (object, unknown) = read_with_unknown(kind, Value::Object(fields))?;
            Ok((object, unknown, vec![FieldError { reason: format!("{}; the status is not read", error.reason), ..error }]))
        }
        _ => Err(error),
    }
}
