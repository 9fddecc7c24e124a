//! The messages of a file whose lines are in JSON, wire-identical, with fields in the order of their names: the generated types have them in no
//! order, and the same log would be another one each time.

use std::collections::BTreeMap;

use prost::{Message, Oneof};
use serde_json::{Map, Value};

/// The type of [`File`].
pub const FILE: &str = "envoy.extensions.access_loggers.file.v3.FileAccessLog";

/// `envoy.extensions.access_loggers.file.v3.FileAccessLog`
#[derive(Clone, PartialEq, Message)]
pub struct File {
    #[prost(string, tag = "1")]
    pub path: String,
    #[prost(message, optional, tag = "5")]
    pub log_format: Option<Format>,
}

/// `envoy.config.core.v3.SubstitutionFormatString`
#[derive(Clone, PartialEq, Message)]
pub struct Format {
    #[prost(message, optional, tag = "2")]
    pub json_format: Option<Object>,
    #[prost(bool, tag = "3")]
    pub omit_empty_values: bool,
}

/// `google.protobuf.Struct`
#[derive(Clone, PartialEq, Message)]
pub struct Object {
    #[prost(btree_map = "string, message", tag = "1")]
    pub fields: BTreeMap<String, Field>,
}

/// `google.protobuf.ListValue`
#[derive(Clone, PartialEq, Message)]
pub struct List {
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<Field>,
}

/// `google.protobuf.Value`
#[derive(Clone, PartialEq, Message)]
pub struct Field {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    pub kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Kind {
    #[prost(int32, tag = "1")]
    Null(i32),
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Bool(bool),
    #[prost(message, tag = "5")]
    Object(Object),
    #[prost(message, tag = "6")]
    List(List),
}

/// A file with lines in JSON.
pub fn file(path: &str, object: &Map<String, Value>, omit_empty_values: bool) -> File {
    File { path: path.to_owned(), log_format: Some(Format { json_format: Some(fields(object)), omit_empty_values }) }
}

fn fields(object: &Map<String, Value>) -> Object {
    Object { fields: object.iter().map(|(name, value)| (name.clone(), field(value))).collect() }
}

fn field(value: &Value) -> Field {
    let kind = match value {
        Value::Null => Kind::Null(0),
        Value::Bool(yes) => Kind::Bool(*yes),
        Value::Number(number) => Kind::Number(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::Text(text.clone()),
        Value::Array(values) => Kind::List(List { values: values.iter().map(field).collect() }),
        Value::Object(object) => Kind::Object(fields(object)),
    };
    Field { kind: Some(kind) }
}
