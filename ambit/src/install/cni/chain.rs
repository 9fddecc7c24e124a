//! The plugin in a network configuration: what is written, decided from what there is. No I/O.
//!
//! Container runtimes take the first file of the directory, by name, that ends with `.conflist`, `.conf` or `.json` (as `libcni` lists them).
//! A list has its plugins under `plugins`, and runtimes read lists from `.conflist` alone. The others are one plugin each: they become a list
//! under the name `STEM.conflist`.

use serde_json::{Map, Value, json};

/// The type of our plugin: the name of its program.
pub const PLUGIN: &str = "ambit-cni";
/// What is appended to a file's name for the text that it had before us; runtimes do not read such files.
pub const KEPT: &str = ".before-ambit";

/// How the names of lists end.
const LIST: &str = ".conflist";
/// How the names of single plugins end.
const SINGLE: [&str; 2] = [".conf", ".json"];

/// The settings of the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugin {
    /// Where it asks the node agent, as the node sees it.
    pub socket: String,
    /// How long it waits for an agent that is away, in seconds.
    pub timeout_seconds: u64,
    /// Namespaces whose pods start without the agent.
    pub exclude_namespaces: Vec<String>,
}

impl Plugin {
    fn entry(&self) -> Value {
        json!({
            "type": PLUGIN,
            "agentSocket": self.socket,
            "timeoutSeconds": self.timeout_seconds,
            "excludeNamespaces": self.exclude_namespaces,
        })
    }
}

/// The file that runtimes use, of the names in the directory.
#[must_use]
pub fn used<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let is_read = |name: &str| name.ends_with(LIST) || SINGLE.iter().any(|end| name.ends_with(end));
    names.into_iter().filter(|name| !name.starts_with('.') && is_read(name)).min()
}

/// Where the chained text of a file is written: a configuration of one plugin becomes a list.
#[must_use]
pub fn target(name: &str) -> String {
    match SINGLE.iter().find_map(|end| name.strip_suffix(end)) {
        Some(stem) => format!("{stem}{LIST}"),
        None => name.to_owned(),
    }
}

/// The files of one plugin that this list may have come of.
pub fn singles(name: &str) -> impl Iterator<Item = String> {
    let stem = name.strip_suffix(LIST);
    SINGLE.iter().filter_map(move |end| Some(format!("{}{end}", stem?)))
}

/// Whether runtimes read a text from a file of this name.
///
/// # Errors
/// When it is a list, which they read from `.conflist` alone; a sentence.
pub fn readable(name: &str, text: &str) -> Result<(), String> {
    let map: Map<String, Value> = serde_json::from_str(text).map_err(|error| format!("it is no JSON object: {error}"))?;
    if target(name) != name && map.contains_key("plugins") {
        return Err(format!("it is a list of plugins, which runtimes read from {LIST} alone: rename it to {}", target(name)));
    }
    Ok(())
}

/// The text with our plugin as the last of its chain; nothing when it is so already.
///
/// # Errors
/// When it is no network configuration.
pub fn chained(text: &str, plugin: &Plugin) -> Result<Option<String>, String> {
    let mut list = read(text)?;
    let plugins = plugins(&mut list)?;
    let entry = plugin.entry();
    if plugins.last() == Some(&entry) && plugins.iter().filter(|plugin| is_ours(plugin)).count() == 1 {
        return Ok(None);
    }
    plugins.retain(|plugin| !is_ours(plugin));
    if plugins.is_empty() {
        return Err("there is no other plugin in it that makes the pods' network".to_owned());
    }
    plugins.push(entry);
    Ok(Some(written(&list)))
}

/// The text without our plugin; nothing when it is not there.
///
/// # Errors
/// When it is no network configuration.
pub fn unchained(text: &str) -> Result<Option<String>, String> {
    let mut list = read(text)?;
    let plugins = plugins(&mut list)?;
    let before = plugins.len();
    plugins.retain(|plugin| !is_ours(plugin));
    Ok((plugins.len() < before).then(|| written(&list)))
}

/// Whether `now` is what became of `before` by us and nobody else.
#[must_use]
pub fn came_of(now: &str, before: &str) -> bool {
    let without = |text: &str| {
        let mut list = read(text).ok()?;
        plugins(&mut list).ok()?.retain(|plugin| !is_ours(plugin));
        Some(list)
    };
    without(now).is_some_and(|now| without(before).is_some_and(|before| now == before))
}

fn is_ours(plugin: &Value) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(PLUGIN)
}

/// A configuration as a list.
fn read(text: &str) -> Result<Map<String, Value>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
    let Value::Object(mut map) = value else { return Err("it is no JSON object".to_owned()) };
    if map.contains_key("plugins") {
        return Ok(map);
    }
    if !map.contains_key("type") {
        return Err("it has neither plugins nor the type of one".to_owned());
    }
    // What belongs to the list is the same for its one plugin.
    let mut list = Map::new();
    for key in ["cniVersion", "name"] {
        list.extend(map.shift_remove(key).map(|value| (key.to_owned(), value)));
    }
    list.insert("plugins".to_owned(), Value::Array(vec![Value::Object(map)]));
    Ok(list)
}

fn plugins(list: &mut Map<String, Value>) -> Result<&mut Vec<Value>, String> {
    list.get_mut("plugins").and_then(Value::as_array_mut).ok_or_else(|| "its plugins are no list".to_owned())
}

fn written(list: &Map<String, Value>) -> String {
    format!("{:#}\n", Value::Object(list.clone()))
}
