//! How many requests to a service port are let in at once, by how long they take, and the probes of health that always are.

use std::time::Duration;

use ambit_api::envoy::pb::envoy::extensions::filters::http::adaptive_concurrency::v3::adaptive_concurrency::ConcurrencyControllerConfig;
use ambit_api::envoy::pb::envoy::extensions::filters::http::adaptive_concurrency::v3::gradient_controller_config::{
    ConcurrencyLimitCalculationParams, MinimumRttCalculationParams,
};
use ambit_api::envoy::pb::envoy::extensions::filters::http::adaptive_concurrency::v3::{
    AdaptiveConcurrency, GradientControllerConfig,
};
use ambit_api::envoy::pb::envoy::extensions::filters::http::health_check::v3::HealthCheck;
use ambit_api::envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use ambit_api::envoy::pb::envoy::r#type::v3::HttpStatus;

use super::listener::http_filter;
use super::route::parse_duration;
use super::wire::{any, bool_value, duration, header_is, matches, regex, u32_value};
use crate::index::{Index, ServiceRef};
use crate::source::crd::traffic::Admission;

/// How often the number changes. Shorter than what requests take it would go by those that an earlier number let in.
const EVERY: Duration = Duration::from_millis(500);
/// How often it is measured what requests take when there are few: meanwhile few are let in.
const MEASURED: Duration = Duration::from_secs(300);
/// gRPC's health protocol, and what probes of HTTP usually ask for.
const PROBES: &str = r"(/grpc\.health\.v1\.Health/.*|/(healthz|livez|readyz))(\?.*)?";

/// What is asked of the requests to a port of a service.
pub fn asked(index: &Index, service: &ServiceRef, number: u16) -> Option<Admission> {
    let port = index.service_ports(service).into_iter().find(|port| port.port == number)?;
    index.traffic_policy_of(service, &port)?.spec.admission.clone()
}

/// What carries it out.
pub fn filters(asked: &Admission) -> [HttpFilter; 2] {
    let probes = HealthCheck {
        pass_through_mode: bool_value(true),
        headers: vec![header_is(":path", matches(MatchPattern::SafeRegex(regex(PROBES))))],
        ..Default::default()
    };
    let said = asked.normal_latency.as_deref().and_then(parse_duration).and_then(duration);
    let controller = GradientControllerConfig {
        concurrency_limit_params: Some(ConcurrencyLimitCalculationParams {
            max_concurrency_limit: asked.max_concurrency.and_then(u32_value),
            concurrency_update_interval: duration(EVERY),
            ..Default::default()
        }),
        min_rtt_calc_params: Some(MinimumRttCalculationParams {
            interval: if said.is_none() { duration(MEASURED) } else { None },
            fixed_value: said,
            min_concurrency: asked.min_concurrency.and_then(u32_value),
            ..Default::default()
        }),
        ..Default::default()
    };
    let limit = AdaptiveConcurrency {
        concurrency_limit_exceeded_status: asked.status_on_reject.map(|code| HttpStatus { code: code.into() }),
        concurrency_controller_config: Some(ConcurrencyControllerConfig::GradientControllerConfig(controller)),
        ..Default::default()
    };
    [
        http_filter("envoy.filters.http.health_check", any(&probes)),
        http_filter("envoy.filters.http.adaptive_concurrency", any(&limit)),
    ]
}
