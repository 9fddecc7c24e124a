//! The health checks that a TrafficPolicy asks for.
//!
//! Envoy makes its checks on its main thread, where no internal listener accepts: a check of an endpoint behind a tunnel would always fail.
//! So these endpoints are said not to be checked, and, in metadata that only our waypoint reads, to be checked through their tunnel.

use std::time::Duration;

use ambit_api::envoy::pb::envoy::config::core::v3::HealthCheck;
use ambit_api::envoy::pb::envoy::config::core::v3::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck,
};
use ambit_api::envoy::pb::envoy::config::endpoint::v3::endpoint::HealthCheckConfig;
use ambit_api::envoy::pb::envoy::r#type::v3::{CodecClientType, Int64Range};
use ambit_api::workload::AppProtocol;

use super::names::Layer;
use super::route::parse_duration;
use super::wire::{duration, u32_value};
use crate::index::{Index, ServicePort, ServiceRef};
use crate::source::crd::health::{self as said, HttpCheck};

/// From one check to the next.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long an endpoint may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Checks without an answer, in a row, after which an endpoint counts as failing.
const UNHEALTHY: u32 = 3;
/// Good answers, in a row, after which it counts as well again.
const HEALTHY: u32 = 2;
/// So that not all waypoints ask at once, in a hundred parts of the interval.
const JITTER_PERCENT: u32 = 10;

/// The key of the endpoint's own metadata that has it checked through its tunnel, and what it says.
pub const THROUGH: (&str, &str) = ("health_check", "tunnel");

/// The check of the endpoints of a port. `host` is what its service is called.
pub fn check(asked: &said::HealthCheck, host: &str, protocol: AppProtocol) -> HealthCheck {
    let time = |text: &Option<String>, or| duration(text.as_deref().and_then(parse_duration).unwrap_or(or));
    HealthCheck {
        timeout: time(&asked.timeout, TIMEOUT),
        interval: time(&asked.interval, INTERVAL),
        // An endpoint that nobody asks for anything is checked as often: the first request is not to find out.
        no_traffic_interval: time(&asked.interval, INTERVAL),
        interval_jitter_percent: JITTER_PERCENT,
        unhealthy_threshold: u32_value(asked.unhealthy_threshold.unwrap_or(UNHEALTHY)),
        healthy_threshold: u32_value(asked.healthy_threshold.unwrap_or(HEALTHY)),
        health_checker: Some(checker(asked, host, protocol)),
        ..Default::default()
    }
}

fn checker(asked: &said::HealthCheck, host: &str, protocol: AppProtocol) -> HealthChecker {
    if let Some(said) = &asked.http {
        return HealthChecker::HttpHealthCheck(http(said, host, protocol));
    }
    match &asked.grpc {
        Some(said) => HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
            service_name: said.service.clone().unwrap_or_default(),
            authority: host.into(),
            ..Default::default()
        }),
        None => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
    }
}

fn http(said: &HttpCheck, host: &str, protocol: AppProtocol) -> HttpHealthCheck {
    let codec = match protocol {
        AppProtocol::Http2 | AppProtocol::Grpc => CodecClientType::Http2,
        _ => CodecClientType::Http1,
    };
    let status = |status: &u32| Int64Range { start: i64::from(*status), end: i64::from(*status) + 1 };
    HttpHealthCheck {
        host: said.host.clone().unwrap_or_else(|| host.to_owned()),
        path: said.path.clone(),
        expected_statuses: said.expected_statuses.iter().map(status).collect(),
        codec_client_type: codec.into(),
        ..Default::default()
    }
}

/// Whether a check goes with the clusters of a layer: gRPC is asked for by HTTP/2, which no cluster of bytes speaks.
pub fn fits(check: &HealthCheck, layer: Layer) -> bool {
    layer == Layer::Http || !matches!(check.health_checker, Some(HealthChecker::GrpcHealthCheck(_)))
}

/// Whether the endpoints of a port are checked.
pub fn wanted(index: &Index, service: &ServiceRef, number: u16) -> bool {
    let of = |port: &ServicePort| index.traffic_policy_of(service, port).is_some_and(|policy| policy.spec.health_check.is_some());
    index.has_traffic_policies() && index.service_ports(service).iter().any(|port| port.port == number && of(port))
}

/// What an endpoint behind a tunnel has where others are checked.
pub fn not_by_envoy() -> HealthCheckConfig {
    HealthCheckConfig { disable_active_health_check: true, ..Default::default() }
}
