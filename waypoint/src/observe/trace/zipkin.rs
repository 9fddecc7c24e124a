//! Spans as Zipkin takes them (its API, version 2, in JSON).

use serde_json::{Map, Value, json};

use super::Ended;

/// What is sent of spans of a service.
pub fn request(service: &str, spans: &[Ended]) -> Vec<u8> {
    let spans: Vec<Value> = spans.iter().map(|ended| span(service, ended)).collect();
    Value::Array(spans).to_string().into_bytes()
}

fn span(service: &str, ended: &Ended) -> Value {
    let trace = &ended.place.trace;
    let tags: Map<String, Value> = ended.told.iter().map(|(key, value)| (key.to_string(), value.as_str().into())).collect();
    let mut span = json!({
        "traceId": format!("{:032x}", trace.id),
        "id": format!("{:016x}", trace.span),
        "kind": "SERVER",
        "name": &*ended.tracing.operation,
        "timestamp": ended.begun / 1000,
        // Nothing takes no time at all.
        "duration": (ended.ended.saturating_sub(ended.begun) / 1000).max(1),
        "localEndpoint": { "serviceName": service },
        "tags": tags,
    });
    if let (Some(parent), Some(fields)) = (trace.parent, span.as_object_mut()) {
        fields.insert("parentId".to_owned(), format!("{parent:016x}").into());
    }
    span
}
