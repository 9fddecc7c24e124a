//! Whether settings are such that the chart has: the part of JSON Schema that `values.schema.json` uses.

use regex::Regex;
use serde_json::Value;

/// Everything that is wrong with `value`, each with its key and what it should be.
pub(super) fn check(schema: &Value, value: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    look(schema, value, "", &mut wrong);
    wrong
}

fn look(schema: &Value, value: &Value, path: &str, wrong: &mut Vec<String>) {
    let mut say = |reason: String| {
        let about = schema.get("description").and_then(Value::as_str).map_or_else(String::new, |about| format!(" ({about})"));
        wrong.push(format!("setting {}: {reason}{about}", if path.is_empty() { "file" } else { path }));
    };
    let kinds: Vec<&str> = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => kind.and_then(Value::as_str).into_iter().collect(),
    };
    if !kinds.is_empty() && !kinds.iter().any(|kind| is(kind, value)) {
        say(format!("{value} is no {}", kinds.join(" or ")));
        return;
    }
    if let Some(Value::Array(allowed)) = schema.get("enum")
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        say(format!("{value} is none of {}", allowed.join(", ")));
    }
    if let Some(number) = value.as_f64() {
        let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
        if limit("minimum").is_some_and(|least| number < least) || limit("maximum").is_some_and(|most| number > most) {
            let bound = |name| limit(name).map_or_else(|| "any".to_owned(), |bound| bound.to_string());
            say(format!("{value} is not between {} and {}", bound("minimum"), bound("maximum")));
        }
    }
    if let Value::String(text) = value {
        if schema.get("minLength").and_then(Value::as_u64).is_some_and(|least| (text.chars().count() as u64) < least) {
            say("it is empty".to_owned());
        }
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
            && !Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text))
        {
            say(format!("{value} does not match {pattern}"));
        }
    }
    if let (Value::Array(items), Some(each)) = (value, schema.get("items")) {
        items.iter().enumerate().for_each(|(at, item)| look(each, item, &format!("{path}[{at}]"), wrong));
    }
    if let Value::Object(map) = value {
        object(schema, map, path, wrong);
    }
}

fn object(schema: &Value, map: &serde_json::Map<String, Value>, path: &str, wrong: &mut Vec<String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let known = schema.get("properties").and_then(Value::as_object);
    for (key, value) in map {
        match (known.and_then(|known| known.get(key)), schema.get("additionalProperties")) {
            (Some(schema), _) => look(schema, value, &below(key), wrong),
            (None, Some(Value::Bool(false))) => {
                let names: Vec<&str> = known.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                wrong.push(format!("setting {}: there is none of that name; there are {}", below(key), names.join(", ")));
            }
            (None, Some(schema @ Value::Object(_))) => look(schema, value, &below(key), wrong),
            (None, _) => {}
        }
    }
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    wrong.extend(required.filter(|key| !map.contains_key(*key)).map(|key| format!("setting {}: it is missing", below(key))));
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => false,
    }
}
