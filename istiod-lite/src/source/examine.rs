//! One object by itself, as the API server has it: what it says, and all that is wrong with it.

use serde_json::Value;

use super::object::{Kind, Object};
use super::typed::{FieldError, read_with_unknown};
use super::validate::{validate, without_effect};

/// An object that was read, and what is wrong with it.
#[derive(Debug)]
pub(crate) struct Examined {
    /// The object, if it fits its type; with errors it is not in force all the same.
    pub(crate) object: Option<Object>,
    /// What keeps it from being in force.
    pub(crate) errors: Vec<FieldError>,
    /// What has no effect in it.
    pub(crate) warnings: Vec<FieldError>,
}

/// What a field means that we do not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// Nothing: the server is newer than we, or the field is none of ours.
    Fine,
    /// The author thinks that it has an effect.
    Told,
    /// It may narrow what is allowed, so that the object cannot be taken without it.
    Refused,
}

/// Reads an object of the kind.
pub(crate) fn examine(kind: Kind, value: Value) -> Examined {
    let (object, unknown, mut warnings) = match typed(kind, value) {
        Ok(read) => read,
        Err(error) => return Examined { object: None, errors: vec![error], warnings: Vec::new() },
    };
    let mut errors = validate(&object);
    let unknown = unknown.into_iter().filter(|error| error.path.starts_with("spec"));
    warnings.extend(without_effect(&object));
    match unknown_fields(kind) {
        Unknown::Fine => {}
        Unknown::Told => {
            warnings.extend(unknown.map(|error| FieldError { reason: "unknown field, without effect".into(), ..error }))
        }
        Unknown::Refused => errors.extend(unknown),
    }
    Examined { object: Some(object), errors, warnings }
}

/// What fields mean that we do not know, in objects of a kind.
pub(super) fn unknown_fields(kind: Kind) -> Unknown {
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
