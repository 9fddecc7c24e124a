//! From what is said of an object to the change of its status that says it: nothing where it is said already, and
//! nothing of what other controllers say is touched.
//!
//! Status is handled as the tree of values that the API server gave, so that fields that we do not know survive.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{BOUND, CONTROLLER, Condition, ObjectStatus};
use crate::index::INGRESS_CONTROLLER;
use crate::source::Kind;

/// How long a message may be, in bytes (the API allows 32 KiB; nobody reads more than this).
const MESSAGE: usize = 4096;

/// A list in a status in which each controller has entries of its own.
struct Shared {
    field: &'static str,
    reference: &'static str,
    /// How many entries there may be (the schemas of the Gateway API).
    limit: usize,
}

const PARENTS: Shared = Shared { field: "parents", reference: "parentRef", limit: 32 };
const ANCESTORS: Shared = Shared { field: "ancestors", reference: "ancestorRef", limit: 16 };

/// The status fields to set, as a merge patch of `status`; `None` when all is said already. `now` is the time of
/// transition for conditions whose status changes, in RFC 3339.
pub fn patch(held: Option<&Value>, wanted: &ObjectStatus, now: &str) -> Option<Value> {
    let mut fields = Map::new();
    let mut set = |field: &str, value: Value| {
        let held = held.and_then(|held| held.get(field));
        let empty = value.as_array().is_some_and(Vec::is_empty);
        if held != Some(&value) && !(held.is_none() && empty) {
            fields.insert(field.to_owned(), value);
        }
    };
    let list = |field: &str| held.and_then(|held| held.get(field)).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    match wanted.object.kind {
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute => {
            set(PARENTS.field, shared(&PARENTS, list(PARENTS.field), &wanted.conditions, now));
        }
        Kind::BackendTlsPolicy | Kind::RequestPolicy | Kind::TrafficPolicy | Kind::BackendTrafficPolicy => {
            set(ANCESTORS.field, shared(&ANCESTORS, list(ANCESTORS.field), &wanted.conditions, now));
        }
        kind => set("conditions", merged(list("conditions"), own_types(kind), &wanted.conditions, now)),
    }
    if let Some(addresses) = &wanted.addresses {
        let r#type = |address: &str| if address.parse::<IpAddr>().is_ok() { "IPAddress" } else { "Hostname" };
        let addresses = addresses.iter().map(|address| json!({"type": r#type(address), "value": address}));
        set("addresses", addresses.collect());
    }
    if wanted.object.kind == Kind::Gateway {
        set("listeners", listeners(list("listeners"), wanted, now));
    }
    (!fields.is_empty()).then_some(Value::Object(fields))
}

/// The types of conditions that are ours on objects of a kind; those of other types stay as they are.
fn own_types(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Service => &[BOUND],
        Kind::ServiceEntry => &["Accepted", BOUND],
        Kind::AuthorizationPolicy => &["ZtunnelAccepted", "WaypointAccepted", "ResolvedRefs"],
        Kind::RequestAuthentication => &["ZtunnelAccepted", "WaypointAccepted"],
        Kind::Telemetry | Kind::DestinationRule | Kind::VirtualService | Kind::WorkloadEntry => &["Accepted"],
        Kind::Gateway => &["Accepted", "Programmed"],
        Kind::GatewayClass => &["Accepted"],
        _ => &[],
    }
}

/// The held conditions with ours in their places, new ones behind.
fn merged(held: &[Value], own: &[&str], wanted: &[Condition], now: &str) -> Value {
    let r#type = |value: &Value| value.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut all: Vec<Value> = Vec::new();
    for value in held {
        let of_type = r#type(value);
        match wanted.iter().find(|condition| condition.r#type == of_type) {
            Some(condition) => all.push(written(Some(value), condition, now)),
            None if own.contains(&of_type.as_str()) => {}
            None => all.push(value.clone()),
        }
    }
    for condition in wanted {
        if !held.iter().any(|value| r#type(value) == condition.r#type) {
            all.push(written(None, condition, now));
        }
    }
    Value::Array(all)
}

/// A condition as written; the time of its last transition stays while its status does.
fn written(held: Option<&Value>, condition: &Condition, now: &str) -> Value {
    let field = |name: &str| held.and_then(|held| held.get(name)).and_then(Value::as_str);
    let since = field("lastTransitionTime").filter(|_| field("status") == Some(condition.status)).unwrap_or(now);
    let mut value = json!({
        "type": condition.r#type,
        "status": condition.status,
        "reason": condition.reason,
        "message": shortened(&condition.message),
        "lastTransitionTime": since,
    });
    if let Some(generation) = condition.observed_generation {
        value["observedGeneration"] = json!(generation);
    }
    value
}

fn shortened(message: &str) -> &str {
    let end = (0..=MESSAGE.min(message.len())).rev().find(|end| message.is_char_boundary(*end)).unwrap_or_default();
    message.get(..end).unwrap_or_default()
}

/// The entries of a status: those of other controllers as they are, ours for each parent or ancestor that the conditions
/// speak of, in their places as far as they have one.
fn shared(list: &Shared, held: &[Value], wanted: &[Condition], now: &str) -> Value {
    let mut groups: Vec<(&Value, Vec<Condition>)> = Vec::new();
    for condition in wanted {
        let Some(parent) = &condition.parent_ref else { continue };
        match groups.iter_mut().find(|(other, _)| *other == parent) {
            Some((_, conditions)) => conditions.push(condition.clone()),
            None => groups.push((parent, vec![condition.clone()])),
        }
    }
    let ours = |entry: &Value| {
        let name = entry.get("controllerName").and_then(Value::as_str)?;
        [CONTROLLER, INGRESS_CONTROLLER].into_iter().find(|controller| *controller == name)
    };
    // All that is said of one parent is said in one name.
    let said_by = |conditions: &[Condition]| conditions.first().map_or(CONTROLLER, |condition| condition.controller);
    let mut entries = Vec::new();
    let mut done: Vec<&Value> = Vec::new();
    for entry in held {
        let Some(name) = ours(entry) else {
            entries.push(entry.clone());
            continue;
        };
        let group = groups.iter().find(|(parent, conditions)| {
            entry.get(list.reference) == Some(*parent) && !done.contains(parent) && said_by(conditions) == name
        });
        if let Some((parent, conditions)) = group {
            let before = entry.get("conditions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let of_ours: Vec<&str> = before.iter().filter_map(|value| value.get("type").and_then(Value::as_str)).collect();
            let mut entry = entry.clone();
            entry["conditions"] = merged(before, &of_ours, conditions, now);
            entries.push(entry);
            done.push(parent);
        }
    }
    for (parent, conditions) in &groups {
        if !done.contains(parent) && entries.len() < list.limit {
            entries.push(json!({
                list.reference: parent,
                "controllerName": said_by(conditions),
                "conditions": merged(&[], &[], conditions, now),
            }));
        }
    }
    Value::Array(entries)
}

/// The types of conditions of listeners that are ours.
const OF_LISTENERS: [&str; 5] = ["Accepted", "Programmed", "ResolvedRefs", "Conflicted", "OverlappingTLSConfig"];

/// All listeners of a Gateway are its controller's to speak of; conditions of types that are not ours stay.
fn listeners(held: &[Value], wanted: &ObjectStatus, now: &str) -> Value {
    let entries = wanted.listeners.iter().map(|listener| {
        let before = held.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(&listener.name));
        let conditions = before.and_then(|entry| entry.get("conditions")).and_then(Value::as_array);
        let conditions = conditions.map_or(&[][..], Vec::as_slice);
        let kinds = listener.supported_kinds.iter();
        let kinds: Value = kinds.map(|kind| json!({"group": "gateway.networking.k8s.io", "kind": kind})).collect();
        json!({
            "name": listener.name,
            "attachedRoutes": listener.attached_routes,
            "supportedKinds": kinds,
            "conditions": merged(conditions, &OF_LISTENERS, &listener.conditions, now),
        })
    });
    entries.collect()
}
