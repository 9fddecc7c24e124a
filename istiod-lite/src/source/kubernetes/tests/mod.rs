mod kept;
mod merge;
mod read;
mod reflector;

use serde_json::{Value, json};

use super::read::{Read, read};
use crate::source::Problem;
use crate::source::object::{Event, Kind, NamespacedName, Object};

fn text(events: impl IntoIterator<Item = Event>) -> Vec<String> {
    let text = |event| match event {
        Event::Upsert(object) => format!("+{}", object.key().name),
        Event::Delete(key) => format!("-{}", key.name),
    };
    events.into_iter().map(text).collect()
}

fn service(name: &str, version: u32, port: u32) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name, "resourceVersion": version.to_string()},
        "spec": {"ports": [{"port": port}]},
    })
}

fn made(kind: Kind, value: &Value, held: Option<&Object>) -> Read {
    read(kind, &NamespacedName::new("shop", "it"), value.clone(), held)
}

fn problems(read: &Read) -> Vec<String> {
    read.problems.iter().map(Problem::to_string).collect()
}
