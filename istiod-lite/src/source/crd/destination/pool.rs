//! How much a DestinationRule lets there be at once.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How much there may be at once.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ConnectionPool {
    /// Of connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpPool>,
    /// Of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpPool>,
}

/// What is asked of connections.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpPool {
    /// How many there may be to all endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<i64>,
    /// How long one may take to stand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<String>,
    /// Not carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<Value>,
    /// Not carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connection_duration: Option<Value>,
    /// Not carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Value>,
}

/// What is asked of requests.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpPool {
    /// How many may wait for a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http1_max_pending_requests: Option<i64>,
    /// How many may be with endpoints, whatever the version of HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2_max_requests: Option<i64>,
    /// How many may be retries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<i64>,
    /// Not carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests_per_connection: Option<Value>,
    /// Not carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Value>,
    /// Not carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub h2_upgrade_policy: Option<Value>,
    /// Not carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_client_protocol: Option<Value>,
    /// Not carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_streams: Option<Value>,
}
