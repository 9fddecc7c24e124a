//! A review that the API server asks for, and the answer. Pure.

use serde::Deserialize;
use serde_json::{Value, json};

use super::judge::{AtEdge, Findings, concerns, judge};
use super::worse::newly;
use crate::source::{FieldError, Kind};

/// What the API server sends (`admission.k8s.io/v1`), as far as it matters here.
#[derive(Debug, Deserialize)]
struct Review<R> {
    request: R,
}

/// The least that has to be known for an answer.
#[derive(Debug, Deserialize)]
struct Unread {
    uid: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    operation: String,
    /// `status`, `scale`, …; nothing for the object itself.
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    user_info: UserInfo,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UserInfo {
    username: String,
}

/// What came of a review.
#[derive(Debug, PartialEq)]
pub(super) struct Reviewed {
    /// The answer, as the API server reads it.
    pub(super) answer: Value,
    /// Who asked for what, and why it was refused; for the log.
    pub(super) refusal: Option<Refusal>,
    /// `allowed`, `warned` or `refused`.
    pub(super) outcome: &'static str,
    /// The kind of the object; empty for one that the mesh does not read.
    pub(super) kind: &'static str,
}

/// A refusal.
#[derive(Debug, PartialEq)]
pub(super) struct Refusal {
    /// Who asked.
    pub(super) user: String,
    /// For which object: kind, namespace and name.
    pub(super) object: String,
    /// What is wrong with it.
    pub(super) why: String,
    /// Whether it would not have been stored in any case.
    pub(super) dry_run: bool,
}

/// Problems that are told of one object; an author mends some at a time.
const MOST: usize = 16;
/// Characters of one problem, and of a name.
const LONG: usize = 400;
/// Characters of a warning, of which API servers cut what is longer than 256.
const WARNING: usize = 250;
/// Values in one review: more are none that an API server sends, which takes 1.5 MiB for an object and sends two, but memory.
const VALUES: usize = 400_000;
/// Bytes of all regular expressions of an object: to compile a short one can take milliseconds.
const PATTERNS: usize = 16 << 10;

/// Answers a review. What is too much to be looked at passes with a warning.
///
/// # Errors
/// When it is none.
pub(super) fn review(body: &[u8], root_namespace: &str, at_edge: AtEdge<'_>) -> Result<Reviewed, String> {
    let none = |error: serde_json::Error| format!("it is no AdmissionReview: {error}");
    // Each value but the first comes after one of these; in texts they are counted as well.
    if body.iter().filter(|byte| b",[{".contains(byte)).count() > VALUES {
        let Review { request: Unread { uid } } = serde_json::from_slice(body).map_err(none)?;
        let warning = format!("it was not looked at: a review with it has more than {VALUES} values");
        return Ok(Reviewed { answer: answer(&uid, &[warning], None), refusal: None, outcome: "warned", kind: "" });
    }
    let Review { request } = serde_json::from_slice::<Review<Request>>(body).map_err(none)?;
    let uid = request.uid.clone();
    let kind = kind_of(&request.object);
    let name = name_of(&request.object);
    let (user, dry_run) = (cut(request.user_info.username.clone(), LONG), request.dry_run);
    let Findings { errors, warnings } = decide(kind, request, root_namespace, at_edge);
    let warnings: Vec<String> = warnings.iter().take(MOST).map(|found| text(found, WARNING)).collect();
    let outcome = match (errors.is_empty(), warnings.is_empty()) {
        (false, _) => "refused",
        (true, false) => "warned",
        (true, true) => "allowed",
    };
    let kind = kind.map_or("", Kind::as_str);
    let object = cut(format!("{kind} {name}"), LONG);
    let refusal = (!errors.is_empty()).then(|| Refusal { user, object, why: told(&errors), dry_run });
    Ok(Reviewed { answer: answer(&uid, &warnings, refusal.as_ref()), refusal, outcome, kind })
}

/// The answer as the API server reads it.
fn answer(uid: &str, warnings: &[String], refusal: Option<&Refusal>) -> Value {
    let mut response = json!({"uid": uid, "allowed": refusal.is_none(), "warnings": warnings});
    if let Some(Refusal { object, why, .. }) = refusal {
        let message = format!("{object} would be ignored or do harm:\n{why}\n`ambit check FILE` says this without a cluster");
        response["status"] = json!({"code": 422, "reason": "Invalid", "message": message});
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

/// What is wrong with what is asked for. An object that is being deleted passes, as its finalizers have to go, and what was wrong with an
/// object before is no reason to refuse other changes of it. Of a status or a scale there is nothing to be said.
fn decide(kind: Option<Kind>, request: Request, root_namespace: &str, at_edge: AtEdge<'_>) -> Findings {
    let Request { operation, sub_resource, object, old_object, .. } = request;
    let going = object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    let written = sub_resource.is_empty() && ["CREATE", "UPDATE"].contains(&operation.as_str());
    let concerns = |kind: Kind, object: &Value| concerns(kind, namespace_of(object), object, at_edge);
    let Some(kind) = kind.filter(|kind| written && !going && concerns(*kind, &object)) else {
        return Findings::default();
    };
    // Of an object that was too much it cannot be said what of it is new.
    if patterns(&object).max(patterns(&old_object)) > PATTERNS {
        let reason = format!("it was not looked at: its regular expressions have more than {PATTERNS} bytes together, or had");
        return Findings { errors: Vec::new(), warnings: vec![FieldError::new("spec", reason)] };
    }
    let Findings { errors, mut warnings } = judge(kind, object, root_namespace);
    let before = match kind_of(&old_object) {
        Some(kind) if !errors.is_empty() && concerns(kind, &old_object) => judge(kind, old_object, root_namespace).errors,
        _ => Vec::new(),
    };
    let (new, old) = newly(errors, &before);
    // First, as it is worse.
    warnings.splice(0..0, old);
    Findings { errors: new, warnings }
}

/// Bytes of the regular expressions in a value, as routes have them: beside their type.
fn patterns(value: &Value) -> usize {
    match value {
        Value::Object(fields) => {
            let is_one = fields.get("type").is_some_and(|kind| kind == "RegularExpression");
            let own: usize = if is_one { fields.values().filter_map(Value::as_str).map(str::len).sum() } else { 0 };
            own + fields.values().map(patterns).sum::<usize>()
        }
        Value::Array(items) => items.iter().map(patterns).sum(),
        _ => 0,
    }
}

fn kind_of(object: &Value) -> Option<Kind> {
    Kind::from_api(object.get("apiVersion")?.as_str()?, object.get("kind")?.as_str()?)
}

fn namespace_of(object: &Value) -> &str {
    object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default()
}

/// Namespace and name; of an object whose name the API server is yet to make, what it begins with.
fn name_of(object: &Value) -> String {
    let text = |key: &str| object.get("metadata")?.get(key)?.as_str().filter(|text| !text.is_empty());
    let name = text("name").or_else(|| text("generateName")).unwrap_or_default();
    text("namespace").map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

/// Problems, one a line.
fn told(errors: &[FieldError]) -> String {
    let mut lines: Vec<String> = errors.iter().take(MOST).map(|error| format!("  {}", text(error, LONG))).collect();
    if errors.len() > MOST {
        lines.push(format!("  and {} more", errors.len() - MOST));
    }
    lines.join("\n")
}

fn text(found: &FieldError, most: usize) -> String {
    let FieldError { path, reason, .. } = found;
    cut(if path.is_empty() { reason.clone() } else { format!("{path}: {reason}") }, most)
}

/// At most so many characters of a text.
fn cut(text: String, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
