//! What of the answers of a service is a matter of chance, as its objects say: what is asked of anything else ends alike the first time.

use std::collections::BTreeSet;

use serde_json::Value;

/// Times up to so many seconds may be over because a machine is busy.
const SHORT: f64 = 10.0;

/// What may be another one the next time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chance {
    /// Which of several backends a request is sent to.
    Backends,
    /// Which of several endpoints, also as that with which a session begins.
    Endpoints,
    /// Whether it is among those of which so many in a hundred are copied, or meet a fault.
    Share,
    /// Whether something is in time; or what is left of the time, which is told at each try.
    Time,
}

/// Those of the objects of a service.
pub fn of(objects: &[Value]) -> BTreeSet<Chance> {
    let mut all = BTreeSet::new();
    for object in objects {
        let spec = &object["spec"];
        if spec["selector"]["pair"].is_string() {
            all.insert(Chance::Endpoints);
        }
        // RequestPolicies say theirs for all rules that they are for.
        let times = &spec["timeouts"];
        if times.as_object().is_some_and(|times| times.values().any(is_short)) {
            all.insert(Chance::Time);
        }
        for rule in list(&spec["rules"]).chain(list(&spec["http"])) {
            all.extend(of_rule(rule));
        }
        if has_share(spec) {
            all.insert(Chance::Share);
        }
    }
    all
}

/// A rule of a route, or of a VirtualService.
fn of_rule(rule: &Value) -> BTreeSet<Chance> {
    let mut all = BTreeSet::new();
    let (backends, routes) = (&rule["backendRefs"], &rule["route"]);
    let of_weight = |to: &&Value| to["weight"].as_i64() != Some(0);
    if [backends, routes].iter().any(|to| list(to).filter(of_weight).count() > 1) {
        all.insert(Chance::Backends);
    }
    let times = [&rule["timeouts"]["request"], &rule["timeouts"]["backendRequest"], &rule["timeout"]];
    let again = rule["retry"].is_object() || rule["retries"].is_object();
    if times.into_iter().any(|time| is_short(time) || (again && seconds(time).is_some_and(|time| time > 0.0))) {
        all.insert(Chance::Time);
    }
    all
}

/// Whether something is said of some requests in a hundred: neither of none nor of all.
fn has_share(value: &Value) -> bool {
    let of_some = |share: &Value| share.as_f64().is_some_and(|share| share > 0.0 && share < 100.0);
    match value {
        Value::Array(values) => values.iter().any(has_share),
        Value::Object(fields) => fields.iter().any(|(name, value)| match name.as_str() {
            "percent" => of_some(value),
            "percentage" | "mirrorPercentage" => of_some(&value["value"]),
            "fraction" => true,
            _ => has_share(value),
        }),
        _ => false,
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn is_short(time: &Value) -> bool {
    seconds(time).is_some_and(|time| time > 0.0 && time <= SHORT)
}

/// A time of one unit, as all here are.
fn seconds(time: &Value) -> Option<f64> {
    let text = time.as_str()?;
    let units = [("ms", 0.001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
    units.into_iter().find_map(|(unit, of)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * of))
}
