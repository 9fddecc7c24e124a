use ambit_api::envoy::pb::{
    envoy::{
        config::{
            core::v3::{
                GrpcService,
                grpc_service::{EnvoyGrpc, TargetSpecifier},
            },
            ratelimit::v3::RateLimitServiceConfig,
        },
        extensions::filters::http::{
            adaptive_concurrency::v3::{
                AdaptiveConcurrency, GradientControllerConfig,
                adaptive_concurrency::ConcurrencyControllerConfig,
                gradient_controller_config::{ConcurrencyLimitCalculationParams, MinimumRttCalculationParams},
            },
            buffer::v3::Buffer,
            ext_proc::v3::{ExternalProcessor, external_processor::RouteCacheAction},
            health_check::v3::HealthCheck,
            ratelimit::v3::RateLimit,
        },
    },
    google::protobuf::{Any, BoolValue, Duration, UInt32Value},
};
use prost::Message;

use super::*;

/// Reads filters of which nothing is said but name and type.
fn read(of: &[(&str, &str)]) -> Result<(), String> {
    let filter = |(name, type_name): &(&str, &str)| HttpFilter {
        name: (*name).to_owned(),
        config_type: Some(ConfigType::TypedConfig(Any { type_url: format!("x/{type_name}"), value: Vec::new() })),
        ..Default::default()
    };
    filters(of.iter().map(filter).collect()).map(drop).map_err(|problem| problem.to_string())
}

#[test]
fn faults_and_limits_come_after_all_that_may_refuse_and_in_this_order() {
    let (cors, fault, limit) =
        (("envoy.filters.http.cors", cors::FILTER), (fault::NAME, fault::FILTER), (limit::NAME, limit::FILTER));
    let router = ("router", ROUTER);
    assert_eq!(read(&[cors, fault, limit, router]), Ok(()));
    assert_eq!(read(&[fault, router]), Ok(()));
    let (rbac, asked) = (("rbac", RBAC), ("ext_authz", ext_authz::FILTER));
    let limiter = ("envoy.filters.http.ratelimit.mine", limiter::FILTER);
    let problem = read(&[limiter, router]).unwrap_err();
    assert_eq!(problem, "envoy.filters.http.ratelimit.mine: rate_limit_service is missing");
    let problem = read(&[("mine", limiter::FILTER), router]).unwrap_err();
    assert!(problem.contains("mine: this filter under a name that does not begin with"), "{problem}");
    for wrong in [
        [fault, cors],
        [limit, cors],
        [limit, fault],
        [fault, fault],
        [limit, limit],
        [fault, rbac],
        [fault, asked],
        [limit, asked],
        [cors, asked],
    ] {
        let problem = read(&[wrong[0], wrong[1], router]).unwrap_err();
        assert!(problem.contains("after"), "{wrong:?}: {problem}");
    }
    let problem = read(&[("faults", fault::FILTER), router]).unwrap_err();
    assert_eq!(problem, "faults: this filter under another name than envoy.filters.http.fault is not implemented");
}

#[test]
fn lua_and_wasm_are_rejected_by_name() {
    let router = ("router", ROUTER);
    for (name, type_name) in [
        ("envoy.filters.http.lua", "envoy.extensions.filters.http.lua.v3.Lua"),
        ("envoy.filters.http.wasm", "envoy.extensions.filters.http.wasm.v3.Wasm"),
        // It is known by what it is, whatever it is called.
        (fault::NAME, "envoy.extensions.filters.http.lua.v3.Lua"),
        ("mine", "envoy.extensions.filters.http.wasm.v3.Wasm"),
    ] {
        let problem = format!("{name}: {type_name} is not implemented");
        assert_eq!(read(&[(name, type_name), router]), Err(problem.clone()));
        let cors = ("envoy.filters.http.cors", cors::FILTER);
        assert_eq!(read(&[cors, (name, type_name), router]), Err(problem));
    }
}

#[test]
fn a_limit_of_bodies_comes_after_those_of_requests_and_may_be_off_until_routes_say_otherwise() {
    let buffer = Buffer { max_request_bytes: Some(UInt32Value { value: 7 }) };
    let on = said(buffer::NAME, buffer::FILTER, &buffer);
    let off = HttpFilter { disabled: true, ..on.clone() };
    let router = said("router", ROUTER, &());
    let read = |of: &[&HttpFilter]| filters(of.iter().copied().cloned().collect()).map_err(|problem| problem.to_string());
    assert_eq!(read(&[&router]).unwrap().bodies, None);
    assert_eq!(read(&[&on, &router]).unwrap().bodies, Some(7));
    assert_eq!(read(&[&off, &router]).unwrap().bodies, Some(u64::MAX));
    let limit = said(limit::NAME, limit::FILTER, &());
    assert_eq!(read(&[&limit, &off, &router]).map(drop), Ok(()));
    for (wrong, after) in [([&off, &limit], "a limit of bodies"), ([&off, &off], "a limit of bodies")] {
        let problem = read(&[wrong[0], wrong[1], &router]).map(drop).unwrap_err();
        assert!(problem.ends_with(&format!("this filter after {after} is not implemented")), "{problem}");
    }
    let other = said("bodies", buffer::FILTER, &buffer);
    let problem = read(&[&other, &router]).map(drop).unwrap_err();
    assert_eq!(problem, "bodies: this filter under another name than envoy.filters.http.buffer is not implemented");
}

fn said(name: &str, type_name: &str, config: &impl Message) -> HttpFilter {
    let any = Any { type_url: format!("x/{type_name}"), value: config.encode_to_vec() };
    HttpFilter { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(any)), ..Default::default() }
}

#[test]
fn processors_come_after_limits_and_before_admission_and_sessions() {
    let envoy = EnvoyGrpc { cluster_name: "somebody".into(), ..Default::default() };
    let called = GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..Default::default() };
    let processor = ExternalProcessor {
        grpc_service: Some(called.clone()),
        route_cache_action: RouteCacheAction::Retain.into(),
        ..Default::default()
    };
    let processor = HttpFilter { disabled: true, ..said("processor", ext_proc::FILTER, &processor) };
    let rate_limit_service = Some(RateLimitServiceConfig { grpc_service: Some(called), transport_api_version: 2 });
    let limiter = RateLimit { domain: "d".into(), rate_limit_service, ..Default::default() };
    let limiter = said("envoy.filters.http.ratelimit", limiter::FILTER, &limiter);
    let passing = HealthCheck { pass_through_mode: Some(BoolValue { value: true }), ..Default::default() };
    let probes = said("probes", admission::PROBES, &passing);
    let often = Some(Duration { seconds: 1, nanos: 0 });
    let gradient = GradientControllerConfig {
        concurrency_limit_params: Some(ConcurrencyLimitCalculationParams {
            concurrency_update_interval: often,
            ..Default::default()
        }),
        min_rtt_calc_params: Some(MinimumRttCalculationParams { interval: often, ..Default::default() }),
        ..Default::default()
    };
    let admission = AdaptiveConcurrency {
        concurrency_controller_config: Some(ConcurrencyControllerConfig::GradientControllerConfig(gradient)),
        ..Default::default()
    };
    let admission = said("admission", admission::FILTER, &admission);
    let (sessions, router) = (said(session::NAME, session::FILTER, &()), said("router", ROUTER, &()));
    let read = |of: &[&HttpFilter]| filters(of.iter().copied().cloned().collect()).map_err(|problem| problem.to_string());
    let all = read(&[&limiter, &processor, &probes, &admission, &sessions, &router]).unwrap();
    assert_eq!((all.limiters.len(), all.processors.len(), all.sessions, all.admission.is_some()), (1, 1, true, true));
    assert!(!all.processors[0].on);
    for (wrong, problem) in [
        ([&processor, &limiter], "envoy.filters.http.ratelimit: this filter after external processing is not implemented"),
        ([&probes, &processor], "processor: external processing after health checks is not implemented"),
        ([&admission, &processor], "processor: filters other than sessions after adaptive concurrency are not implemented"),
        (
            [&admission, &limiter],
            "envoy.filters.http.ratelimit: filters other than sessions after adaptive concurrency are not implemented",
        ),
        ([&sessions, &processor], "processor: sessions before other filters are not implemented"),
        ([&sessions, &admission], "admission: sessions before adaptive concurrency are not implemented"),
    ] {
        assert_eq!(read(&[wrong[0], wrong[1], &router]).map(drop), Err(problem.to_owned()));
    }
    let off = HttpFilter { disabled: true, ..sessions };
    assert_eq!(read(&[&off, &router]).map(drop), Err(format!("{}: disabled is not implemented", session::NAME)));
}
