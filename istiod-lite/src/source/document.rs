//! From the text of a file to its YAML documents, each with its key and the lines of its fields.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::crd::secret;
use super::lines::Lines;
use super::object::{Kind, NamespacedName, ObjectKey};
use super::validate::{is_label, is_subdomain};
use super::{Origin, Problem, Severity};

/// One object as written, not read as its type yet.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub(super) key: ObjectKey,
    pub(super) value: Value,
    pub(super) lines: Arc<Lines>,
    /// Where the object begins below the document's root: empty, or `items[3]` in a `List`.
    pub(super) prefix: String,
}

impl Document {
    /// A problem of a field of this object.
    pub(super) fn problem(&self, file: &Path, field: &str, reason: String) -> Problem {
        let path = match (self.prefix.is_empty(), field.is_empty()) {
            (true, _) => field.to_owned(),
            (false, true) => self.prefix.clone(),
            (false, false) => format!("{}.{field}", self.prefix),
        };
        Problem {
            origin: Origin::File { file: file.to_owned(), line: self.lines.line_of(&path) },
            object: Some(self.key.clone()),
            field: field.to_owned(),
            reason,
            severity: Severity::Error,
        }
    }
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) documents: Vec<Document>,
    pub(super) problems: Vec<Problem>,
}

/// API groups whose objects may lie in the same directory and are others' business.
const FOREIGN_GROUPS: &[&str] =
    &["", "apps", "batch", "autoscaling", "policy", "rbac.authorization.k8s.io", "networking.k8s.io", "storage.k8s.io"];

/// Reads all documents of a file. Syntax errors and objects without a name are errors; kinds we do not know are warnings.
pub(super) fn parse(file: &Path, text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for (offset, text) in split(text) {
        let value: Value = match serde_saphyr::from_str_with_options::<Option<Value>>(text, yaml_1_2()) {
            Ok(None | Some(Value::Null)) => continue,
            Ok(Some(value)) => value,
            Err(error) => {
                let line = error.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1));
                parsed.problems.push(Problem {
                    origin: Origin::File { file: file.to_owned(), line: offset + line.max(1) },
                    object: None,
                    field: String::new(),
                    reason: format!("not valid YAML: {}", syntax_reason(&error)),
                    severity: Severity::Error,
                });
                continue;
            }
        };
        let lines = Arc::new(Lines::scan(text, offset));
        let items = match &value {
            Value::Object(fields) if fields.get("kind").and_then(Value::as_str).is_some_and(|kind| kind == "List") => {
                fields.get("items").and_then(Value::as_array).cloned()
            }
            _ => None,
        };
        match items {
            Some(items) => {
                for (position, item) in items.into_iter().enumerate() {
                    parsed.take(file, item, &lines, format!("items[{position}]"));
                }
            }
            None => parsed.take(file, value, &lines, String::new()),
        }
    }
    parsed
}

impl Parsed {
    fn take(&mut self, file: &Path, mut value: Value, lines: &Arc<Lines>, prefix: String) {
        match header(&mut value) {
            Ok(Some(key)) => self.documents.push(Document { key, value, lines: lines.clone(), prefix }),
            Ok(None) => {}
            Err((field, reason, severity)) => {
                let path = if prefix.is_empty() { field.to_owned() } else { format!("{prefix}.{field}") };
                let origin = Origin::File { file: file.to_owned(), line: lines.line_of(&path) };
                let field = field.to_owned();
                self.problems.push(Problem { origin, object: None, field, reason, severity });
            }
        }
    }
}

type HeaderError = (&'static str, String, Severity);

/// Reads what every object has; `None` for objects that are none of ours. Gives namespaced kinds their namespace.
fn header(value: &mut Value) -> Result<Option<ObjectKey>, HeaderError> {
    let error = |field, reason: &str| Err((field, reason.to_owned(), Severity::Error));
    let Value::Object(fields) = value else { return error("", "a Kubernetes object must be a mapping") };
    let Some(api_version) = fields.get("apiVersion").and_then(Value::as_str) else {
        return error("apiVersion", "missing, or not a string");
    };
    let Some(kind_text) = fields.get("kind").and_then(Value::as_str) else {
        return error("kind", "missing, or not a string");
    };
    let Some(kind) = Kind::from_api(api_version, kind_text) else {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        if FOREIGN_GROUPS.contains(&group) {
            return Ok(None);
        }
        return Err(("kind", format!("{kind_text} of {api_version} is not supported and has no effect"), Severity::Warning));
    };
    // Others are others' business, and nothing of them is kept.
    if kind == Kind::TlsSecret && fields.get("type").is_none_or(|kind| kind != secret::TYPE) {
        return Ok(None);
    }
    let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) else {
        return error("metadata", "missing, or not a mapping");
    };
    let Some(name) = metadata.get("name").and_then(Value::as_str).map(str::to_owned) else {
        return error("metadata.name", "missing, or not a string");
    };
    let valid = if kind == Kind::Service || kind == Kind::Namespace { is_label(&name) } else { is_subdomain(&name) };
    if !valid {
        return Err(("metadata.name", format!("{name:?} is not a valid name"), Severity::Error));
    }
    if !kind.namespaced() {
        metadata.remove("namespace");
        return Ok(Some(ObjectKey { kind, name: NamespacedName::new("", name) }));
    }
    let namespace = match metadata.get("namespace") {
        None | Some(Value::Null) => "default".to_owned(),
        Some(Value::String(namespace)) if is_label(namespace) => namespace.clone(),
        Some(_) => return error("metadata.namespace", "not a valid namespace"),
    };
    metadata.insert("namespace".into(), Value::String(namespace.clone()));
    let name = NamespacedName::new(namespace, name);
    // Others of the kind are others' business.
    Ok(kind.only().is_none_or(|only| only == name).then_some(ObjectKey { kind, name }))
}

/// The documents of a file with the number of lines before each. A line that begins with `---` is always a marker:
/// YAML allows no other use of it, not even inside a block scalar.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut first_line, mut position) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line.strip_prefix("---").is_some_and(|rest| {
            rest.trim_start_matches([' ', '\t', '\r']).len() < rest.len() || rest.starts_with('\n') || rest.is_empty()
        });
        if marker && position > start {
            documents.push((first_line, &text[start..position]));
            (start, first_line) = (position, number);
        }
        position += line.len();
    }
    documents.push((first_line, &text[start..]));
    documents
}

/// YAML 1.2: `yes`, `on` and `y` are strings.
fn yaml_1_2() -> serde_saphyr::Options {
    serde_saphyr::options! { strict_booleans: true, with_snippet: false }
}

/// The parser's message, without the picture of the source that it may draw below.
fn syntax_reason(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    text.lines().next().unwrap_or_default().to_owned()
}
