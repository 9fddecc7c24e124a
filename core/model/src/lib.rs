//! What the mesh knows and what it decides: workloads, services and policies converted from the wire, and the pure decisions on them.
//!
//! Nothing here does I/O, reads a clock or rolls a die: the proxies, `ambit explain` and the tests call the same functions.
//!
//! * [`state::MeshState`] holds what the control plane sent, and answers lookups.
//! * [`plan::plan`] decides where an outbound connection goes.
//! * [`admit::admit`] decides whether the address a tunnel asks for is the pod's own.
//! * [`authorize::authorize`] decides whether a peer may connect.
//! * [`forwarded::client`] decides whether a waypoint is believed whom it carries a connection for.
//! * [`resolve::resolve`] decides what the name of a service resolves to.
//! * [`route`] decides what happens to an HTTP request.
//! * [`jwt`] decides which token of a request is believed.
//! * [`balance`] decides which endpoint takes it, and which one takes none for a while.
//! * [`access_log`] reads formats of lines of the access log, and writes lines.
//! * [`measure`] says what of metrics is another where somebody asks for it.
//! * [`reason::Reason`] is the code of every outcome.

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

pub mod access_log;
pub mod address;
pub mod admit;
pub mod arrive;
pub mod authorize;
pub mod balance;
pub mod convert;
pub mod explain;
pub mod forwarded;
pub mod jwt;
pub mod measure;
pub mod plan;
pub mod policy;
pub mod reason;
pub mod resolve;
pub mod route;
pub mod service;
pub mod state;
#[cfg(test)]
mod test_support;
pub mod workload;

pub use reason::{Reason, Refusal};
