//! Spans as an OpenTelemetry collector takes them: the messages of `opentelemetry.proto.collector.trace.v1`, as far as they are used.

use ambit_api::envoy::pb::opentelemetry::proto::common::v1::KeyValue;
use prost::Message;

use super::Ended;
use crate::observe::otlp::{message::Resource, pair, string};

/// `SPAN_KIND_SERVER`.
const SERVER: i32 = 2;
/// `STATUS_CODE_ERROR`.
const FAILED: i32 = 2;
/// W3C's flag of a trace that is recorded.
const SAMPLED: u32 = 1;

/// `ExportTraceServiceRequest`
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

/// `ExportTraceServiceResponse`, of which nothing is read: what a collector leaves out of a batch is its own affair.
#[derive(Clone, PartialEq, Message)]
pub struct Response {}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

/// What is sent of spans of a service.
pub fn request(service: &str, spans: &[Ended]) -> Request {
    let scope = Scope { name: "ambit".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    Request {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: vec![attribute("service.name", service)] }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans: spans.iter().map(span).collect() }],
        }],
    }
}

fn span(ended: &Ended) -> Span {
    let trace = &ended.place.trace;
    Span {
        trace_id: trace.id.to_be_bytes().to_vec(),
        span_id: trace.span.get().to_be_bytes().to_vec(),
        trace_state: ended.state.clone(),
        parent_span_id: trace.parent.map(|parent| parent.get().to_be_bytes().to_vec()).unwrap_or_default(),
        name: ended.tracing.operation.to_string(),
        kind: SERVER,
        start_time_unix_nano: ended.begun,
        end_time_unix_nano: ended.ended,
        attributes: ended.told.iter().map(|(key, value)| attribute(key, value)).collect(),
        status: ended.failed.then_some(Status { code: FAILED }),
        flags: SAMPLED,
    }
}

/// Of the kinds of values only texts are sent, as by Envoy.
fn attribute(key: &str, value: &str) -> KeyValue {
    pair(key, string(value.to_owned()))
}
