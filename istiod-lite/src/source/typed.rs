//! From a tree of values to the typed object, with the path of the field that is wrong.

use serde_json::Value;

use super::lines::join;
use super::object::{Kind, Object};

/// A field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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

/// Unknown fields of one object that are listed.
const MOST: usize = 1000;
/// Characters of a key in a path, more than keys of labels may have: every field below it names it.
const LONG: usize = 320;

/// Reads an object of the kind. A wrong type is one error; unknown fields are reported all at once.
pub(super) fn read(kind: Kind, value: Value) -> Result<Object, Vec<FieldError>> {
    match read_with_unknown(kind, value) {
        Ok((object, unknown)) if unknown.is_empty() => Ok(object),
        Ok((_, unknown)) => Err(unknown),
        Err(error) => Err(vec![error]),
    }
}

/// Reads an object of the kind, and lists the fields that it has and we do not know, the first of very many.
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
            if unknown.len() < MOST {
                unknown.push(FieldError::new(path_text(&path), "unknown field"));
            }
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
        Path::Map { parent, key } => {
            let end = key.char_indices().nth(LONG).map_or(key.len(), |(end, _)| end);
            join(&path_text(parent), key.get(..end).unwrap_or_default())
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => path_text(parent),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    /// Under a key that is an object's whole size each of them would cost as much again.
    #[test]
    fn unknown_fields_take_no_more_memory_than_the_object() {
        let fields: Map<String, Value> = (0..3 * MOST).map(|at| (format!("f{at:05}"), json!(1))).collect();
        let object = json!({"metadata": {"name": "m"}, "spec": {"portLevelMtls": {"x".repeat(1 << 20): fields}}});
        let (_, unknown) = read_with_unknown(Kind::PeerAuthentication, object).unwrap();
        assert_eq!(unknown.len(), MOST);
        let longest = unknown.iter().map(|error| error.path.len()).max().unwrap();
        assert!(longest < LONG + 50, "{longest}");
        assert!(unknown[0].path.ends_with("xx.f00000"), "{}", unknown[0].path);
    }
}
