//! Values as YAML in the block style, with sorted keys, as Helm's `toYaml` has them.

use std::collections::BTreeMap;

use serde_json::Value;

/// Words that YAML 1.1 or 1.2 does not take for texts.
const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

/// A value as YAML, without a line feed at its end.
#[must_use]
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(_) | Value::Array(_) if !empty(value) => write(value, 0, &mut text),
        _ => text.push_str(&scalar(value)),
    }
    text.trim_end().to_owned()
}

fn empty(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// Writes the lines of a mapping or list that is not empty; the cursor stands where its first line begins.
fn write(value: &Value, indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    let mut first = true;
    let mut begin = |text: &mut String| {
        if !std::mem::take(&mut first) {
            text.push_str(&pad);
        }
    };
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter().collect::<BTreeMap<_, _>>() {
                begin(text);
                text.push_str(&plain_or_quoted(key));
                text.push(':');
                if matches!(value, Value::Object(_) | Value::Array(_)) && !empty(value) {
                    text.push('\n');
                    text.push_str(&" ".repeat(indent + 2));
                    write(value, indent + 2, text);
                } else {
                    text.push(' ');
                    text.push_str(&scalar(value));
                    text.push('\n');
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                begin(text);
                text.push_str("- ");
                if matches!(item, Value::Object(_) | Value::Array(_)) && !empty(item) {
                    write(item, indent + 2, text);
                } else {
                    text.push_str(&scalar(item));
                    text.push('\n');
                }
            }
        }
        _ => {}
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => plain_or_quoted(text),
        // Also `{}` and `[]`: JSON is YAML.
        _ => value.to_string(),
    }
}

fn plain_or_quoted(text: &str) -> String {
    let plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.chars().all(|character| character.is_ascii_alphanumeric() || "/._-".contains(character))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if plain || is_quantity(text) { text.to_owned() } else { Value::from(text).to_string() }
}

/// Such as `128Mi`, which nothing takes for a number.
fn is_quantity(text: &str) -> bool {
    let units = ["m", "Ki", "Mi", "Gi"];
    let number = units.iter().find_map(|unit| text.strip_suffix(unit));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}
