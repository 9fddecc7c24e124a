//! Whether an object is as it should be.

use serde_json::Value;

/// Fields that tell the elements of a list apart, in the order in which they are tried.
const KEYS: [&str; 8] = ["name", "uid", "containerPort", "mountPath", "topologyKey", "port", "path", "type"];

/// Whether a live object has every field of the desired one; else the path of the first field that differs.
///
/// What the API server adds (defaults) and what others set (an autoscaler the replicas, a webhook an annotation) is not looked at.
///
/// # Errors
/// The path of a field that is absent or other.
pub fn covers(live: &Value, desired: &Value) -> Result<(), String> {
    compare(live, desired, "")
}

fn compare(live: &Value, desired: &Value, path: &str) -> Result<(), String> {
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => desired.iter().try_for_each(|(key, wanted)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match live.get(key) {
                Some(held) => compare(held, wanted, &path),
                // The API server does not keep empty mappings and lists.
                None if is_empty(wanted) => Ok(()),
                None => Err(path),
            }
        }),
        (Value::Array(live), Value::Array(desired)) => list(live, desired, path),
        (held, wanted) if held == wanted => Ok(()),
        (held, wanted) if is_quantity(path) && same_quantity(held, wanted) => Ok(()),
        _ => Err(path.to_owned()),
    }
}

fn list(live: &[Value], desired: &[Value], path: &str) -> Result<(), String> {
    // On a cluster with both, the server adds the second family.
    if path == "spec.ipFamilies" && live.starts_with(desired) {
        return Ok(());
    }
    let key = KEYS.into_iter().find(|key| {
        let mut seen = Vec::new();
        desired.iter().filter_map(|item| item.get(key)).all(|value| {
            seen.push(value);
            seen.iter().filter(|other| **other == value).count() == 1
        }) && seen.len() == desired.len()
    });
    let Some(key) = key else {
        if live.len() != desired.len() {
            return Err(path.to_owned());
        }
        let mut pairs = live.iter().zip(desired).enumerate();
        return pairs.try_for_each(|(at, (held, wanted))| compare(held, wanted, &format!("{path}[{at}]")));
    };
    desired.iter().try_for_each(|wanted| {
        let name = wanted.get(key).map(Value::to_string).unwrap_or_default();
        let path = format!("{path}[{}]", name.trim_matches('"'));
        match live.iter().find(|held| held.get(key) == wanted.get(key)) {
            Some(held) => compare(held, wanted, &path),
            None => Err(path),
        }
    })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Whether a field is a quantity, which the API server writes in its own way.
fn is_quantity(path: &str) -> bool {
    let of_metric = path.starts_with("spec.metrics[") && (path.ends_with(".averageValue") || path.ends_with(".value"));
    of_metric || path.contains(".resources.")
}

/// Whether two quantities are the same; YAML has them as numbers, too, the server as text alone.
fn same_quantity(held: &Value, wanted: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::String(text) => quantity(text),
        value => value.as_f64(),
    };
    // `700m` is not exactly 0.7 for a computer.
    let close = |held: f64, wanted: f64| (held - wanted).abs() <= 1e-9 * held.abs().max(wanted.abs());
    number(held).zip(number(wanted)).is_some_and(|(held, wanted)| close(held, wanted))
}

/// A quantity of the API (`100m`, `64Mi`, `1e3`) as a number; the server writes `1000m` as `1`.
fn quantity(text: &str) -> Option<f64> {
    let end = text.find(|character: char| !(character.is_ascii_digit() || character == '.' || character == '-'));
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0_f64.powi(2),
        "Gi" => 1024.0_f64.powi(3),
        "Ti" => 1024.0_f64.powi(4),
        _ => return text.parse().ok(),
    };
    Some(number.parse::<f64>().ok()? * factor)
}
