//! The user's settings over the chart's: files, then `--set`, the later before the earlier.

use serde_json::{Map, Value};

use super::{ChartError, files, schema, yaml};

/// Settings that a user gave, as far as they differ from the chart's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings(Map<String, Value>);

impl Settings {
    /// Lays the settings of a YAML text over these.
    ///
    /// # Errors
    /// When it is no mapping.
    pub fn add_yaml(&mut self, file: &str, text: &str) -> Result<(), ChartError> {
        match yaml(file, text)? {
            Value::Null => Ok(()),
            Value::Object(settings) => {
                self.add(settings);
                Ok(())
            }
            _ => Err(ChartError::Settings(vec![format!("{file}: settings are a mapping, as in values.yaml")])),
        }
    }

    /// Lays one `KEY=VALUE[,KEY=VALUE]` over these, as Helm's `--set` has it: keys with dots between them (`\.` for a dot that belongs to
    /// a key), lists in braces, and whole numbers, `true`, `false` and `null` as what they are.
    ///
    /// # Errors
    /// When it is not of that form.
    pub fn add_assignments(&mut self, text: &str) -> Result<(), ChartError> {
        let wrong = |reason: &str| ChartError::Settings(vec![format!("--set {text}: {reason}")]);
        for assignment in split(text, ',') {
            let (key, value) = assignment.split_once('=').ok_or_else(|| wrong("it is not of the form KEY=VALUE"))?;
            let keys: Vec<String> = split(key, '.').iter().map(|part| part.replace('\\', "")).collect();
            if keys.iter().any(String::is_empty) {
                return Err(wrong("a key is empty"));
            }
            if keys.iter().any(|part| part.contains('[')) {
                return Err(wrong("single items of a list cannot be set: give the whole list as {A,B}, or a file with --values"));
            }
            let nested =
                keys.into_iter().rev().fold(value_of(value), |inner, key| Value::Object([(key, inner)].into_iter().collect()));
            if let Value::Object(settings) = nested {
                self.add(settings);
            }
        }
        Ok(())
    }

    /// Lays others over these.
    pub fn add(&mut self, settings: Map<String, Value>) {
        let mut all = Value::Object(std::mem::take(&mut self.0));
        // A null stays, to take a default away later.
        merge(&mut all, Value::Object(settings), false);
        if let Value::Object(all) = all {
            self.0 = all;
        }
    }

    /// The settings as they were given, to be kept for the next upgrade.
    #[must_use]
    pub fn given(&self) -> Value {
        Value::Object(self.0.clone())
    }

    /// These over the defaults.
    ///
    /// # Errors
    /// Names every setting that the chart does not have or that has a wrong value.
    pub(super) fn over(&self, defaults: &Value) -> Result<Value, ChartError> {
        let mut values = defaults.clone();
        merge(&mut values, self.given(), true);
        let read: Value = serde_json::from_str(files::SCHEMA)
            .map_err(|error| ChartError::Object { file: "values.schema.json".to_owned(), reason: error.to_string() })?;
        let wrong = schema::check(&read, &values);
        if wrong.is_empty() { Ok(values) } else { Err(ChartError::Settings(wrong)) }
    }
}

/// The settings of the chart.
pub(super) fn defaults() -> Result<Value, ChartError> {
    yaml("values.yaml", files::VALUES)
}

/// Mappings are merged key by key, anything else is taken whole; null takes a key away if `remove`.
fn merge(base: &mut Value, over: Value, remove: bool) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() && remove {
                    base.shift_remove(&key);
                } else {
                    merge(base.entry(key).or_insert(Value::Null), value, remove);
                }
            }
        }
        (base, over) => *base = over,
    }
}

/// Cuts at a separator that stands neither in braces nor behind a backslash.
fn split(text: &str, separator: char) -> Vec<String> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let (mut depth, mut escaped) = (0_u32, false);
    for character in text.chars() {
        match character {
            '{' if !escaped => depth += 1,
            '}' if !escaped => depth = depth.saturating_sub(1),
            _ => {}
        }
        if character == separator && depth == 0 && !escaped {
            parts.push(std::mem::take(&mut part));
        } else {
            part.push(character);
        }
        escaped = character == '\\' && !escaped;
    }
    parts.push(part);
    parts
}

fn value_of(text: &str) -> Value {
    if let Some(items) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        return if items.is_empty() {
            Value::Array(Vec::new())
        } else {
            split(items, ',').iter().map(|item| value_of(item)).collect()
        };
    }
    match text.to_ascii_lowercase().as_str() {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        "0" => Value::from(0),
        // What begins with 0 is somebody's name for something, and what is no whole number stays text.
        _ => match text.parse::<i64>() {
            Ok(number) if !text.starts_with('0') => Value::from(number),
            _ => Value::from(text.replace('\\', "")),
        },
    }
}
