//! A review that the API server asks for, and the answer. Pure.

use serde::Deserialize;
use serde_json::{Value, json};

use super::judge::{Findings, concerns, judge};
use crate::source::{FieldError, Kind};

/// What the API server sends (`admission.k8s.io/v1`), as far as it matters here.
#[derive(Debug, Deserialize)]
struct Review {
    request: Request,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    operation: String,
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
}

/// Problems that are told of one object; an author mends some at a time.
const MOST: usize = 16;
/// Characters of one problem, and of a name.
const LONG: usize = 400;
/// Characters of a warning, of which API servers cut what is longer than 256.
const WARNING: usize = 250;
/// Values in one review: more are none that an API server sends, which takes 1.5 MiB for an object and sends two, but memory.
const VALUES: usize = 400_000;

/// Answers a review.
///
/// # Errors
/// When it is none.
pub(super) fn review(body: &[u8], root_namespace: &str) -> Result<Reviewed, String> {
    // Each value but the first comes after one of these; in texts they are counted as well.
    if body.iter().filter(|byte| b",[{".contains(byte)).count() > VALUES {
        return Err(format!("it has more than {VALUES} values"));
    }
    let Review { request } = serde_json::from_slice(body).map_err(|error| format!("it is no AdmissionReview: {error}"))?;
    let uid = request.uid.clone();
    let kind = kind_of(&request.object);
    let name = name_of(&request.object);
    let user = cut(request.user_info.username.clone(), LONG);
    let Findings { errors, warnings } = decide(kind, request, root_namespace);
    let warnings: Vec<String> = warnings.iter().take(MOST).map(|found| text(found, WARNING)).collect();
    let outcome = match (errors.is_empty(), warnings.is_empty()) {
        (false, _) => "refused",
        (true, false) => "warned",
        (true, true) => "allowed",
    };
    let kind = kind.map_or("", Kind::as_str);
    let object = cut(format!("{kind} {name}"), LONG);
    let mut response = json!({"uid": uid, "allowed": errors.is_empty(), "warnings": warnings});
    let refusal = (!errors.is_empty()).then(|| {
        let why = told(&errors);
        let message = format!("{object} would be ignored or do harm:\n{why}\n`ambit check FILE` says this without a cluster");
        response["status"] = json!({"code": 422, "reason": "Invalid", "message": message});
        Refusal { user, object, why }
    });
    let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    Ok(Reviewed { answer, refusal, outcome, kind })
}

/// What is wrong with what is asked for. An object that is being deleted passes, as its finalizers have to go, and what was wrong with an
/// object before is no reason to refuse other changes of it.
fn decide(kind: Option<Kind>, request: Request, root_namespace: &str) -> Findings {
    let Request { operation, object, old_object, .. } = request;
    let going = object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    let Some(kind) = kind.filter(|kind| !going && ["CREATE", "UPDATE"].contains(&operation.as_str()) && concerns(*kind, &object))
    else {
        return Findings::default();
    };
    let Findings { errors, mut warnings } = judge(kind, object, root_namespace);
    let before = match kind_of(&old_object) {
        Some(kind) if !errors.is_empty() && concerns(kind, &old_object) => judge(kind, old_object, root_namespace).errors,
        _ => Vec::new(),
    };
    let (old, new): (Vec<_>, Vec<_>) = errors.into_iter().partition(|error| before.contains(error));
    // First, as it is worse.
    warnings.splice(0..0, old);
    Findings { errors: new, warnings }
}

fn kind_of(object: &Value) -> Option<Kind> {
    Kind::from_api(object.get("apiVersion")?.as_str()?, object.get("kind")?.as_str()?)
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
mod tests {
    use super::*;

    fn policy(rules: &str) -> Value {
        let text = format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: shop}}, spec: {{rules: {rules}}}}}"
        );
        serde_saphyr::from_str(&text).unwrap()
    }

    const GOOD: &str = "[{from: [{source: {namespaces: [a]}}]}]";
    const BROKEN: &str = "[{from: [{source: {ipBlocks: [10.0.0]}}]}]";

    fn asked(operation: &str, object: &Value, old: &Value) -> Reviewed {
        let body = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u-1", "operation": operation, "object": object, "oldObject": old, "dryRun": false,
                "userInfo": {"username": "ada", "groups": ["g"]},
            },
        });
        review(body.to_string().as_bytes(), "istio-system").unwrap()
    }

    fn outcome(operation: &str, object: &Value, old: &Value) -> (bool, Vec<String>) {
        let Reviewed { answer, outcome, .. } = asked(operation, object, old);
        assert_eq!(answer["response"]["uid"], "u-1");
        let allowed = answer["response"]["allowed"].as_bool().unwrap();
        assert_eq!(allowed, outcome != "refused");
        (allowed, serde_json::from_value(answer["response"]["warnings"].clone()).unwrap())
    }

    #[test]
    fn what_is_refused_is_told_with_the_object_the_field_and_the_reason() {
        let Reviewed { answer, refusal, outcome, kind } = asked("CREATE", &policy(BROKEN), &Value::Null);
        assert_eq!((outcome, kind), ("refused", "AuthorizationPolicy"));
        assert_eq!((&answer["apiVersion"], &answer["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")));
        let why = "  spec.rules[0].from[0].source.ipBlocks[0]: \"10.0.0\" is neither an IP address nor a CIDR block";
        assert_eq!(
            answer["response"]["status"],
            json!({
                "code": 422, "reason": "Invalid",
                "message": format!("AuthorizationPolicy shop/p would be ignored or do harm:\n{why}\n`ambit check FILE` says this without a cluster"),
            })
        );
        let refusal = refusal.unwrap();
        assert_eq!(
            (refusal.user.as_str(), refusal.object.as_str(), refusal.why.as_str()),
            ("ada", "AuthorizationPolicy shop/p", why)
        );
    }

    #[test]
    fn what_is_good_passes_and_what_is_odd_passes_with_a_warning() {
        assert_eq!(outcome("CREATE", &policy(GOOD), &Value::Null), (true, vec![]));
        let (allowed, warnings) = outcome("CREATE", &policy("[{to: [{operation: {methods: [GET]}}]}]"), &Value::Null);
        assert!(
            allowed && warnings.len() == 1 && warnings[0].starts_with("spec.rules[0].to: methods is not known"),
            "{warnings:?}"
        );
    }

    #[test]
    fn what_was_wrong_before_keeps_nobody_from_other_changes() {
        let (mut broken, good) = (policy(BROKEN), policy(GOOD));
        broken["metadata"]["labels"] = json!({"new": "label"});
        let (allowed, warnings) = outcome("UPDATE", &broken, &policy(BROKEN));
        assert!(allowed && warnings.len() == 1 && warnings[0].contains("10.0.0"), "{warnings:?}");
        assert!(!outcome("UPDATE", &broken, &good).0);
        let worse = "[{from: [{source: {ipBlocks: [10.0.0]}}]}, {to: [{operation: {ports: [http]}}]}]";
        let (allowed, warnings) = outcome("UPDATE", &policy(worse), &policy(BROKEN));
        assert!(!allowed && warnings.len() == 1, "{warnings:?}");
        assert!(outcome("UPDATE", &good, &policy(BROKEN)).0);
        // The finalizers of what goes are taken off by updates.
        broken["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(outcome("UPDATE", &broken, &good), (true, vec![]));
        assert_eq!(outcome("DELETE", &Value::Null, &policy(BROKEN)), (true, vec![]));
    }

    /// A route that becomes the mesh's by another parent is judged as if it were new.
    #[test]
    fn what_was_wrong_with_a_route_of_another_controller_counts_once_it_is_ours() {
        let route = |group: &str, kind: &str| {
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "shop"},
                "spec": {
                    "parentRefs": [{"group": group, "kind": kind, "name": "a"}],
                    "rules": [{"matches": [{"path": {"type": "RegularExpression", "value": "(?=a)"}}]}],
                },
            })
        };
        let (theirs, ours) = (route("gateway.networking.k8s.io", "Gateway"), route("", "Service"));
        assert_eq!(outcome("CREATE", &theirs, &Value::Null), (true, vec![]));
        assert!(!outcome("UPDATE", &ours, &theirs).0);
        assert!(outcome("UPDATE", &ours, &ours).0);
    }

    #[test]
    fn kinds_that_nobody_reads_pass_and_what_is_no_review_is_said_to_be_none() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
        assert_eq!(outcome("CREATE", &secret, &Value::Null), (true, vec![]));
        for body in ["", "{}", "[", r#"{"request": {"uid": 1}}"#] {
            assert!(review(body.as_bytes(), "istio-system").unwrap_err().starts_with("it is no AdmissionReview"), "{body}");
        }
        let many = format!(r#"{{"request": {{"uid": "u", "operation": "CREATE", "object": [{}0]}}}}"#, "0,".repeat(VALUES));
        assert!(review(many.as_bytes(), "istio-system").unwrap_err().contains("values"));
    }

    #[test]
    fn answers_stay_short_whatever_is_wrong() {
        let long = "ü".repeat(2000);
        let rules: Vec<String> = (0..100).map(|_| format!("{{from: [{{source: {{ipBlocks: [{long}]}}}}]}}")).collect();
        let Reviewed { refusal, .. } = asked("CREATE", &policy(&format!("[{}]", rules.join(", "))), &Value::Null);
        let why = refusal.unwrap().why;
        assert!(why.ends_with("  and 84 more") && why.chars().count() < (LONG + 10) * (MOST + 1), "{}", why.len());
    }
}
