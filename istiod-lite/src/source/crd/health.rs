//! Of a TrafficPolicy: what the endpoints of a Service are asked, to see whether they are well.

use serde::{Deserialize, Serialize};

/// How endpoints are checked: by just one of `http`, `grpc` and `tcp`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HealthCheck {
    /// By a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// By the gRPC health checking protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcCheck>,
    /// By a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpCheck>,
    /// From one check to the next; 10 s when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// How long an endpoint may take to answer; 2 s when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Checks without an answer, in a row, until it counts as failing; 3 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy_threshold: Option<u32>,
    /// Good answers, in a row, until it counts as well again; 2 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy_threshold: Option<u32>,
}

/// A `GET`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpCheck {
    /// Of this path, with a query if there is one.
    pub path: String,
    /// The host that is asked for; the Service's when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The statuses of endpoints that are well; 200 when none is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected_statuses: Vec<u32>,
}

/// A call of `grpc.health.v1.Health/Check`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct GrpcCheck {
    /// The service that is asked about; the server as a whole when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// A connection that is made and closed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct TcpCheck {}
