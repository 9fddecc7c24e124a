//! What the control plane says of an object in its status.

use serde_json::Value;

/// The API groups whose objects it writes conditions on.
pub(super) const GROUPS: [&str; 2] = ["gateway.networking.k8s.io/", "security.istio.io/"];

/// All conditions of an object: its own, and those of each parent of a route.
fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    let own = object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let parents = object.pointer("/status/parents").and_then(Value::as_array).into_iter().flatten();
    own.chain(parents.filter_map(|parent| parent.get("conditions")?.as_array()).flatten())
}

/// Whether one of these conditions holds.
pub(super) fn holds(object: &Value, condition: &str) -> bool {
    conditions(object).any(|found| found["type"] == condition && found["status"] == "True")
}

/// A sentence for each condition that does not hold.
pub(super) fn sentences(name: &str, object: &Value) -> Vec<String> {
    let text = |condition: &Value, field: &str| condition.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let unmet = conditions(object).filter(|condition| condition["status"] == "False");
    unmet.map(|condition| format!("{name}: {} ({})", text(condition, "message"), text(condition, "reason"))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_condition_that_does_not_hold_is_a_sentence() {
        let gateway = json!({"status": {"conditions": [{"type": "Programmed", "status": "True", "message": "fine", "reason": "Programmed"}]}});
        assert!(holds(&gateway, "Programmed") && !holds(&gateway, "Accepted") && sentences("Gateway a/b", &gateway).is_empty());
        let route = json!({"status": {"parents": [{"conditions": [
            {"type": "Accepted", "status": "True"},
            {"type": "ResolvedRefs", "status": "False", "message": "Service shop/gone does not exist", "reason": "BackendNotFound"},
        ]}]}});
        assert_eq!(
            sentences("HTTPRoute shop/r", &route),
            ["HTTPRoute shop/r: Service shop/gone does not exist (BackendNotFound)"]
        );
        assert!(sentences("x", &Value::Null).is_empty());
    }
}
