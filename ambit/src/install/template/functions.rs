//! What templates can call.

use serde_json::{Map, Value};

use super::yaml::to_yaml;

/// Whether a value counts as true: what is empty, zero or nothing does not.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// A value as it is written into the text.
pub(super) fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        Value::Array(_) | Value::Object(_) => Err("lists and mappings are written with toYaml".to_owned()),
    }
}

/// Calls a function.
pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    Ok(match (name, arguments) {
        ("default", [otherwise, value]) => {
            if truth(value) {
                value.clone()
            } else {
                otherwise.clone()
            }
        }
        ("empty", [value]) | ("not", [value]) => Value::Bool(!truth(value)),
        ("eq", [left, right]) => Value::Bool(same(left, right)?),
        ("ne", [left, right]) => Value::Bool(!same(left, right)?),
        ("gt", [left, right]) => Value::Bool(integer(left)? > integer(right)?),
        ("lt", [left, right]) => Value::Bool(integer(left)? < integer(right)?),
        ("add", numbers) => {
            let sum =
                numbers.iter().map(integer).try_fold(0_i64, |sum, next| sum.checked_add(next?).ok_or("too large".to_owned()));
            Value::from(sum?)
        }
        ("int" | "int64", [value]) => Value::from(integer(value)?),
        ("quote", [value]) => Value::from(Value::from(text(value)?).to_string()),
        ("toYaml", [value]) => Value::from(to_yaml(value)),
        ("indent", [width, lines]) => Value::from(indented(width, lines)?),
        ("nindent", [width, lines]) => Value::from(format!("\n{}", indented(width, lines)?)),
        ("join", [between, Value::Array(items)]) => {
            Value::from(items.iter().map(text).collect::<Result<Vec<_>, _>>()?.join(&text(between)?))
        }
        ("list", items) => Value::Array(items.to_vec()),
        ("dict", pairs) => Value::Object(dict(pairs)?),
        ("index", [Value::Array(items), at]) => {
            let item = usize::try_from(integer(at)?).ok().and_then(|at| items.get(at));
            item.cloned().ok_or("there are fewer items")?
        }
        ("index", [Value::Object(map), Value::String(key)]) => map.get(key).cloned().unwrap_or_default(),
        ("required", [Value::String(message), value]) => {
            if value.is_null() || *value == "" {
                return Err(message.clone());
            } else {
                value.clone()
            }
        }
        ("fail", [Value::String(message)]) => return Err(message.clone()),
        _ => return Err(format!("with {} arguments of such kinds it is not understood", arguments.len())),
    })
}

fn same(left: &Value, right: &Value) -> Result<bool, String> {
    match (left, right) {
        (Value::Number(_), Value::Number(_)) => Ok(integer(left)? == integer(right)?),
        (Value::String(_), Value::String(_)) | (Value::Bool(_), Value::Bool(_)) => Ok(left == right),
        _ => Err("only numbers, texts and booleans can be compared, with their like".to_owned()),
    }
}

fn integer(value: &Value) -> Result<i64, String> {
    match value {
        Value::Number(number) => number.as_i64().ok_or_else(|| format!("{number} is no whole number")),
        Value::String(text) => text.parse().map_err(|_| format!("{text:?} is no number")),
        _ => Err(format!("{value} is no number")),
    }
}

fn indented(width: &Value, lines: &Value) -> Result<String, String> {
    let width = usize::try_from(integer(width)?).map_err(|_| "the width is negative")?;
    let before = " ".repeat(width);
    Ok(format!("{before}{}", text(lines)?.replace('\n', &format!("\n{before}"))))
}

fn dict(pairs: &[Value]) -> Result<Map<String, Value>, String> {
    let pairs = pairs.chunks(2).map(|pair| match pair {
        [Value::String(key), value] => Ok((key.clone(), value.clone())),
        _ => Err("it takes texts, each followed by a value".to_owned()),
    });
    pairs.collect()
}
