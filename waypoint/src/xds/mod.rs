//! Envoy v3 resources → compiled configuration.
//!
//! A resource is taken whole or rejected by name: whatever field we do not implement names itself in the rejection, and what was in
//! force before stays (house invariants 3 and 4).

mod access_log;
mod admission;
mod authority;
mod balance;
mod buffer;
mod chain;
mod cluster;
mod cors;
mod edge;
mod ext_authz;
mod ext_proc;
mod fault;
mod grpc;
mod hash;
mod hcm;
mod health;
mod jwt;
mod limit;
mod limiter;
mod listener;
mod matcher;
mod metadata;
mod mirror;
mod per_filter;
mod rbac;
mod read;
mod received;
mod retry;
mod route;
mod secret;
mod session;
mod state;
mod store;
mod subscribe;
#[cfg(test)]
mod tests;
mod text;
mod tls;
mod trace;
mod transport;
mod upgrades;

pub use received::{Kind, Known, REDACTED, Received, Sent, named};
pub use store::Store;
pub use subscribe::{awaited, client, synced};

/// The listener that ends tunnels, and the name of its route configuration.
pub const CONNECT_TERMINATE: &str = "connect_terminate";
/// The listener inside the tunnel.
pub const MAIN_INTERNAL: &str = "main_internal";
/// How the names of listeners at the edge of the mesh begin.
pub const INGRESS: &str = "ingress|";
/// The listener, and the cluster, that open tunnels to endpoints.
pub const CONNECT_ORIGINATE: &str = "connect_originate";
