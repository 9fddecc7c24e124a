//! A resource as it crosses the wire, and the node that asks for it.

use ambit_api::envoy::pb::google::protobuf::{Struct, Value, value::Kind};

use crate::{Any, Node};

/// A named resource with the version the server gave it.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Its name, unique within its type.
    pub name: String,
    /// Opaque; equal versions of one name have equal bodies.
    pub version: String,
    /// The encoded message with its type URL.
    pub body: Any,
}

/// A resource that a handler did not take, with the reason that goes into the NACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The resource's name.
    pub name: String,
    /// One sentence for the person who wrote the resource.
    pub reason: String,
}

/// Names the proxy that asks: `<kind>~<ip>~<pod>.<namespace>~<namespace>.svc.<domain>`, with metadata of strings.
#[must_use]
pub fn node(id: impl Into<String>, metadata: &[(&str, &str)]) -> Node {
    let text = |value: &str| Value { kind: Some(Kind::StringValue(value.to_owned())) };
    let fields = metadata.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect();
    Node { id: id.into(), metadata: Some(Struct { fields }), ..Node::default() }
}

/// A string of the node's metadata.
#[must_use]
pub fn node_string<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    match node.metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}
