//! From a tree of values to the typed object, with the path of the field that is wrong.

use serde_json::Value;

use super::lines::join;
use super::object::{Kind, Object};

/// A field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldError {
    /// Its path, empty for the whole object.
    pub(crate) path: String,
    /// What is wrong, as a phrase.
    pub(crate) reason: String,
    /// Whether a required field is absent, which a further layer may yet give.
    pub(crate) absent: bool,
}

impl FieldError {
    /// A value that is written and wrong.
    pub(crate) fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into(), absent: false }
    }
}

/// Reads an object of the kind. A wrong type is one error; unknown fields are reported all at once.
pub(super) fn read(kind: Kind, value: Value) -> Result<Object, Vec<FieldError>> {
    match read_with_unknown(kind, value) {
        Ok((object, unknown)) if unknown.is_empty() => Ok(object),
        Ok((_, unknown)) => Err(unknown),
        Err(error) => Err(vec![error]),
    }
}

/// Reads an object of the kind, and lists the fields that it has and we do not know.
pub(super) fn read_with_unknown(kind: Kind, mut value: Value) -> Result<(Object, Vec<FieldError>), FieldError> {
    if let Value::Object(fields) = &mut value {
        fields.remove("apiVersion");
        fields.remove("kind");
        prune_nulls(&mut value);
    }
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    let result = Object::deserialize(
        kind,
        serde_ignored::Deserializer::new(deserializer, &mut |path: serde_ignored::Path<'_>| {
            unknown.push(FieldError::new(path_text(&path), "unknown field"));
        }),
    );
    match result {
        Ok(object) => Ok((object, unknown)),
        Err(error) => {
            let reason = error.to_string();
            let absent = reason.starts_with("missing field");
            // An element is appended to the path for what an error inside a key cannot name; it reads as `?`.
            let path = track.path().to_string();
            let path = if path == "." { String::new() } else { path.trim_end_matches(".?").to_owned() };
            Err(FieldError { path, reason, absent })
        }
    }
}

/// A field written as null is as good as not written, as the API server sees it.
fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(prune_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

fn path_text(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", path_text(parent)),
        Path::Map { parent, key } => join(&path_text(parent), key),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => path_text(parent),
    }
}
