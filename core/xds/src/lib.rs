//! Delta xDS: session state machines without I/O, and a client and a server around them.
//!
//! - [`client`]: one delta stream for any number of types, with a [`client::Handler`] for each. A session keeps the version of each
//!   resource that the handler took, so that a reconnect transfers only differences.
//! - [`server`]: a [`server::Cache`] of views; sessions compute what to send from it when the peer can take it, never before, so a
//!   slow peer costs the names and versions it holds and nothing else. Delta and state-of-the-world are served from the same cache.
//!
//! Rules are those of the xDS protocol ("xDS REST and gRPC protocol", Envoy's documentation) and of the ambient wire contract.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented
    )
)]

pub mod client;
mod error;
mod resource;
pub mod server;

pub use ambit_api::envoy::pb::{envoy::config::core::v3::Node, google::protobuf::Any};
pub use error::XdsError;
pub use resource::{Rejected, Resource, node, node_string};

/// The name that stands for every resource of a type.
pub const WILDCARD: &str = "*";
