//! How much of a cluster is in use at once at most.

use serde::Serialize;

/// The limits of a cluster (`envoy.config.cluster.v3.CircuitBreakers.Thresholds`); those of retries are
/// [`RetryBudget`](crate::route::RetryBudget).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Connections that stand or are being made. An endpoint that has none may have one all the same, so that its requests do not wait
    /// for the end of connections to others.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests that are with an endpoint.
    pub requests: u32,
}

impl Default for Limits {
    /// What Envoy has where nothing is said.
    fn default() -> Self {
        Self { connections: 1024, pending: 1024, requests: 1024 }
    }
}
