//! What resources say of themselves for filters to read (`envoy.config.core.v3.Metadata`).

use ambit_api::envoy::pb::{
    envoy::config::core::v3::Metadata,
    google::protobuf::{ListValue, Struct, Value as Pb, value::Kind},
};
use serde_json::Value;

/// All of it, by filter. What is typed is for nobody here.
pub fn by_filter(metadata: Option<Metadata>) -> Value {
    let all = metadata.map(|metadata| metadata.filter_metadata).unwrap_or_default();
    if all.is_empty() {
        return Value::Null;
    }
    Value::Object(all.into_iter().map(|(filter, said)| (filter, object(said))).collect())
}

fn object(said: Struct) -> Value {
    Value::Object(said.fields.into_iter().map(|(name, value)| (name, self::value(value))).collect())
}

fn value(value: Pb) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(number)) => number.into(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::StructValue(said)) => object(said),
        Some(Kind::ListValue(ListValue { values })) => Value::Array(values.into_iter().map(self::value).collect()),
    }
}
