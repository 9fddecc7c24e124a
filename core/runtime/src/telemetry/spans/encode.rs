//! The JSON encoding of spans: identifiers in hexadecimal, 64-bit numbers as text (OTLP specification, "JSON Protobuf Encoding").

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::super::{Direction, Entry, Trace};

/// `SPAN_KIND_SERVER` and `SPAN_KIND_CLIENT`.
const KINDS: [u8; 2] = [2, 3];
/// `STATUS_CODE_ERROR`.
const FAILED: u8 = 2;

/// A span, as one element of `spans`. The names of attributes are those of OpenTelemetry's conventions where it has some.
pub(super) fn span(entry: &Entry<'_>, trace: &Trace, ended: Timestamp) -> String {
    let begun = ended - entry.duration;
    let (name, kind) = match entry.direction {
        Direction::Inbound => ("inbound", KINDS[0]),
        Direction::Outbound => ("outbound", KINDS[1]),
    };
    let target = entry.destination_service.as_deref().or(entry.destination_workload.as_deref());
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| drop(fields.insert(key.to_owned(), value));
    put("traceId", format!("{:032x}", trace.id).into());
    put("spanId", format!("{:016x}", trace.span).into());
    if let Some(parent) = trace.parent {
        put("parentSpanId", format!("{parent:016x}").into());
    }
    put("flags", u8::from(trace.sampled).into());
    put("name", target.map_or_else(|| name.to_owned(), |target| format!("{name} {target}")).into());
    put("kind", kind.into());
    put("startTimeUnixNano", begun.as_nanosecond().to_string().into());
    put("endTimeUnixNano", ended.as_nanosecond().to_string().into());
    put("attributes", attributes(entry));
    if entry.reason != "ok" {
        put("status", json!({ "code": FAILED, "message": entry.error.as_deref().unwrap_or(&entry.reason) }));
    }
    Value::Object(fields).to_string()
}

fn attributes(entry: &Entry<'_>) -> Value {
    let address = |ip: std::net::IpAddr| Some(ip.to_canonical().to_string());
    let owned = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
    let texts = [
        ("network.transport", Some("tcp".to_owned())),
        ("client.address", address(entry.source.ip())),
        ("server.address", address(entry.destination.ip())),
        ("source.workload.name", owned(&entry.source_workload)),
        ("source.workload.namespace", owned(&entry.source_namespace)),
        ("source.principal", owned(&entry.source_identity)),
        ("destination.workload.name", owned(&entry.destination_workload)),
        ("destination.workload.namespace", owned(&entry.destination_namespace)),
        ("destination.service", owned(&entry.destination_service)),
        ("destination.principal", owned(&entry.destination_identity)),
        ("mesh.policy", owned(&entry.policy)),
        ("mesh.reason", Some(entry.reason.to_string())),
        ("mesh.security", Some(entry.security.as_str().to_owned())),
    ];
    let numbers = [
        ("client.port", u64::from(entry.source.port())),
        ("server.port", u64::from(entry.destination.port())),
        ("mesh.bytes_sent", entry.bytes_sent),
        ("mesh.bytes_received", entry.bytes_received),
    ];
    let texts = texts.into_iter().filter_map(|(key, text)| Some(text_of(key, &text?)));
    let numbers = numbers.into_iter().map(|(key, number)| json!({ "key": key, "value": { "intValue": number.to_string() } }));
    texts.chain(numbers).collect()
}

/// An attribute.
fn text_of(key: &str, text: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": text } })
}

/// What comes before and after the spans in a request of this resource.
pub(super) fn envelope(resource: &[(&str, &str)]) -> [String; 2] {
    let attributes: Vec<Value> = resource.iter().map(|(key, value)| text_of(key, value)).collect();
    let scope = json!({ "name": "ambit", "version": env!("CARGO_PKG_VERSION") });
    let resource = json!({ "attributes": attributes });
    let before = format!(r#"{{"resourceSpans":[{{"resource":{resource},"scopeSpans":[{{"scope":{scope},"spans":["#);
    [before, "]}]}]}".to_owned()]
}
