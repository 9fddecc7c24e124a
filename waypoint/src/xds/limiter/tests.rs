//! What is taken of the filter for rate limit servers, and what is rejected and by which name.

use ambit_api::envoy::pb::{
    envoy::{
        config::{
            core::v3::{
                GrpcService, RuntimeFractionalPercent,
                grpc_service::{EnvoyGrpc, TargetSpecifier},
            },
            ratelimit::v3::RateLimitServiceConfig,
            route::v3::{
                RateLimit as OfRoute,
                rate_limit::{
                    Action, Override,
                    action::{ActionSpecifier, DestinationCluster, GenericKey, RemoteAddress, RequestHeaders},
                },
            },
        },
        r#type::v3::HttpStatus,
    },
    google::protobuf::Duration as ProtoDuration,
};
use ambit_model::route::{Part, Source};
use prost::Message;

use super::*;

/// Without anything that need not be said.
fn config() -> RateLimit {
    let envoy = EnvoyGrpc { cluster_name: "limiter".into(), ..Default::default() };
    let grpc_service = Some(GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..Default::default() });
    let service = RateLimitServiceConfig { grpc_service, transport_api_version: ApiVersion::V3.into() };
    RateLimit { domain: "shop".into(), rate_limit_service: Some(service), ..Default::default() }
}

#[test]
fn what_is_not_said_of_a_rate_limit_server_is_as_in_envoy() {
    let read = filter(NAME, config()).unwrap();
    assert_eq!((&*read.cluster, &*read.authority, read.timeout), ("limiter", "limiter", Duration::from_millis(20)));
    assert_eq!((read.status.as_u16(), read.status_on_error.as_u16()), (429, 500));
    assert_eq!((read.failure_mode_deny, read.exhausted, read.tells, read.tells_when), (false, false, true, false));
    let of_code = |code| filter(NAME, RateLimit { rate_limited_status: Some(HttpStatus { code }), ..config() });
    assert_eq!((of_code(503).unwrap().status.as_u16(), of_code(200).unwrap().status.as_u16()), (503, 429));
    for name in ["envoy.filters.http.ratelimit", "envoy.filters.http.ratelimit.mine"] {
        assert!(is_name(name), "{name}");
    }
    for name in ["envoy.filters.http.ratelimits", "envoy.filters.http.local_ratelimit", "ratelimit"] {
        assert!(!is_name(name), "{name}");
    }
}

#[test]
fn what_is_not_implemented_of_rate_limit_servers_is_rejected_by_name() {
    let rejected = |change: fn(&mut RateLimit), part: &str| {
        let mut config = config();
        change(&mut config);
        let problem = filter(NAME, config).unwrap_err().to_string();
        assert!(problem.contains(part), "{part}: {problem}");
    };
    rejected(|config| config.rate_limit_service = None, "rate_limit_service is missing");
    rejected(|config| config.domain.clear(), "domain: it must not be empty");
    rejected(|config| config.stage = 1, "stage is not implemented");
    rejected(|config| config.request_type = "internal".into(), "request_type is not implemented");
    rejected(|config| config.enable_x_ratelimit_headers = 1, "enable_x_ratelimit_headers is not implemented");
    rejected(|config| config.filter_enforced = Some(RuntimeFractionalPercent::default()), "filter_enforced is not implemented");
    rejected(|config| config.rate_limits = vec![OfRoute::default()], "rate_limits is not implemented");
    rejected(|config| config.timeout = Some(ProtoDuration { seconds: 0, nanos: 0 }), "timeout: to wait for ever");
    rejected(|config| config.status_on_error = Some(HttpStatus { code: 7 }), "status_on_error: 7 is not a status");
    let within = |config: &mut RateLimit| {
        let service = config.rate_limit_service.as_mut().and_then(|service| service.grpc_service.as_mut());
        service.unwrap().timeout = Some(ProtoDuration { seconds: 1, nanos: 0 });
    };
    rejected(within, "rate_limit_service.grpc_service: timeout is not implemented");
}

fn said(config: &RateLimitPerRoute) -> Result<Arc<GlobalLimit>, String> {
    let any = Any { type_url: format!("type.googleapis.com/{OF_ROUTES}"), value: config.encode_to_vec() };
    of_routes(&any).map_err(|problem| problem.to_string())
}

fn descriptor(actions: Vec<ActionSpecifier>) -> OfRoute {
    let actions = actions.into_iter().map(|action| Action { action_specifier: Some(action) }).collect();
    OfRoute { actions, ..Default::default() }
}

#[test]
fn a_route_says_what_is_counted_and_what_it_says_besides_is_rejected_by_name() {
    let plan = ActionSpecifier::GenericKey(GenericKey { descriptor_value: "gold".into(), ..Default::default() });
    let user = ActionSpecifier::RequestHeaders(RequestHeaders {
        header_name: "X-User".into(),
        descriptor_key: "user".into(),
        skip_if_absent: true,
    });
    let whole = descriptor(vec![plan.clone(), user, ActionSpecifier::RemoteAddress(RemoteAddress {})]);
    let config = RateLimitPerRoute { rate_limits: vec![whole], domain: "other".into(), ..Default::default() };
    let part = |key: &str, source, may_miss| Part { key: key.into(), source, may_miss };
    let descriptors = vec![vec![
        part("generic_key", Source::Text("gold".into()), false),
        part("user", Source::Header("x-user".into()), true),
        part("remote_address", Source::Remote, false),
    ]];
    assert_eq!(said(&config), Ok(Arc::new(GlobalLimit { domain: Some("other".into()), descriptors })));
    let of_cluster = descriptor(vec![ActionSpecifier::DestinationCluster(DestinationCluster {})]);
    for (config, part) in [
        (RateLimitPerRoute { vh_rate_limits: 1, ..Default::default() }, "vh_rate_limits is not implemented"),
        (RateLimitPerRoute { override_option: 1, ..Default::default() }, "override_option is not implemented"),
        (RateLimitPerRoute { rate_limits: vec![of_cluster], ..Default::default() }, "an action other than"),
        (
            RateLimitPerRoute {
                rate_limits: vec![OfRoute { limit: Some(Override::default()), ..descriptor(vec![plan.clone()]) }],
                ..Default::default()
            },
            "limit is not implemented",
        ),
        (
            RateLimitPerRoute {
                rate_limits: vec![OfRoute { apply_on_stream_done: true, ..descriptor(vec![plan]) }],
                ..Default::default()
            },
            "apply_on_stream_done is not implemented",
        ),
    ] {
        let problem = said(&config).unwrap_err();
        assert!(problem.contains(part), "{part}: {problem}");
    }
}
