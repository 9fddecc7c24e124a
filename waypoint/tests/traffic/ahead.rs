//! Faults and limits, as a control plane says them for routes.

use std::time::{Duration, Instant};

use ambit_api::{
    envoy::pb::{
        envoy::{
            config::{
                core::v3::{HeaderValue, HeaderValueOption, RuntimeFractionalPercent},
                route::v3::{
                    HeaderMatcher, RateLimit,
                    header_matcher::HeaderMatchSpecifier,
                    rate_limit::{
                        Action,
                        action::{ActionSpecifier, RequestHeaders},
                    },
                },
            },
            extensions::{
                common::ratelimit::v3::XRateLimitHeadersRfcVersion,
                filters::{
                    common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier},
                    http::{
                        fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType},
                        local_ratelimit::v3::LocalRateLimit,
                        ratelimit::v3::RateLimitPerRoute,
                    },
                },
            },
            r#type::v3::{FractionalPercent, HttpStatus, TokenBucket},
        },
        google::protobuf::{Duration as ProtoDuration, UInt32Value},
    },
    type_url,
};
use http::{HeaderMap, Request};
use waypoint::explain::{Question, explain, request};

use super::{
    billing,
    support::{
        Mesh, WEB,
        client::{Body, once},
        id,
        resources::{self, Route, Service, any},
    },
};

const FAULT: (&str, &str) = ("envoy.filters.http.fault", "envoy.extensions.filters.http.fault.v3.HTTPFault");
const LIMIT: (&str, &str) =
    ("envoy.filters.http.local_ratelimit", "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit");

fn saying<M: prost::Message>(mut route: Route, (filter, name): (&str, &str), config: &M) -> Route {
    route.typed_per_filter_config.insert(filter.to_owned(), any(name, config));
    route
}

async fn ask(mesh: &Mesh, service: &Service, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, String) {
    let request = Request::builder().uri(path).header("host", "billing.shop");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    once(mesh, WEB, service.vip, request.body(Body::default()).unwrap()).await
}

const ALL: Option<FractionalPercent> = Some(FractionalPercent { numerator: 100, denominator: 0 });

fn share() -> Option<RuntimeFractionalPercent> {
    Some(RuntimeFractionalPercent { default_value: ALL, runtime_key: "some.key".into() })
}

fn limit(most: u32) -> LocalRateLimit {
    let fill_interval = Some(ProtoDuration { seconds: 3600, nanos: 0 });
    LocalRateLimit {
        stat_prefix: "limit".into(),
        token_bucket: Some(TokenBucket { max_tokens: most, tokens_per_fill: Some(UInt32Value { value: 1 }), fill_interval }),
        filter_enabled: share(),
        filter_enforced: share(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_fault_delays_and_answers_those_requests_that_have_its_headers() {
    let (mesh, service, seen) = billing(211).await;
    let header = HeaderMatcher {
        name: "x-fault".into(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..Default::default()
    };
    let delay = FaultDelay {
        percentage: ALL,
        fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(ProtoDuration { seconds: 0, nanos: 300_000_000 })),
    };
    let abort = FaultAbort { percentage: ALL, error_type: Some(ErrorType::HttpStatus(418)), ..Default::default() };
    let (to, away) = (resources::to(&service.cluster()), resources::prefix_to("/away", &service.cluster()));
    let late = HttpFault { delay: Some(delay), headers: vec![header.clone()], ..Default::default() };
    let both = HttpFault { abort: Some(abort), ..late.clone() };
    mesh.route(&service, vec![saying(away, FAULT, &both), saying(to, FAULT, &late)]);
    let began = Instant::now();
    let (status, headers, body) = ask(&mesh, &service, "/away", &[("x-fault", "")]).await;
    assert_eq!(
        (status, body.as_str(), &headers["x-ambit-reason"]),
        (418, "fault filter abort", &"fault_injected".parse().unwrap())
    );
    assert!(began.elapsed() >= Duration::from_millis(300), "the answer comes after the delay");
    assert_eq!(ask(&mesh, &service, "/away", &[]).await.0, 200);
    let said = |headers: &[(String, String)]| {
        let request = request("GET", "billing.shop", "/away", headers, false).unwrap();
        let question = Question { identity: id(WEB), address: [127, 0, 0, 1].into(), destination: service.vip, request };
        serde_json::to_string(&explain(&mesh.store.snapshot(), &question)).unwrap()
    };
    let with_fault = said(&[("x-fault".to_owned(), String::new())]);
    assert!(
        with_fault.contains("of such requests all wait 300ms") && with_fault.contains("all are answered with 418"),
        "{with_fault}"
    );
    assert!(!said(&[]).contains("a fault is put in its way"));
    let began = Instant::now();
    assert_eq!(ask(&mesh, &service, "/", &[("x-fault", "")]).await.0, 200);
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(seen.requests(), 2);
    mesh.logged(&["path=/away", "status=418", "reason=fault_injected"]).await;
}

#[tokio::test]
async fn what_comes_too_often_is_refused_with_what_is_said_of_it_and_a_change_elsewhere_begins_no_count_anew() {
    let (mesh, service, seen) = billing(212).await;
    let header = HeaderValue { key: "x-limit".into(), value: "yes".into(), ..Default::default() };
    let limit = LocalRateLimit {
        status: Some(HttpStatus { code: 503 }),
        response_headers_to_add: vec![HeaderValueOption { header: Some(header), ..Default::default() }],
        enable_x_ratelimit_headers: XRateLimitHeadersRfcVersion::DraftVersion03.into(),
        ..limit(2)
    };
    let limited = || saying(resources::prefix_to("/limited", &service.cluster()), LIMIT, &limit);
    mesh.route(&service, vec![limited(), resources::to(&service.cluster())]);
    let (status, headers, _) = ask(&mesh, &service, "/limited", &[]).await;
    let told = |headers: &HeaderMap, name: &str| headers[name].to_str().unwrap().to_owned();
    let left = ["limit", "remaining", "reset"].map(|name| told(&headers, &format!("x-ratelimit-{name}")));
    assert_eq!((status, left), (200, ["2".to_owned(), "1".to_owned(), "0".to_owned()]));
    assert_eq!(ask(&mesh, &service, "/limited", &[]).await.0, 200);
    mesh.route(&service, vec![limited(), resources::prefix_to("/new", &service.cluster()), resources::to(&service.cluster())]);
    let (status, headers, body) = ask(&mesh, &service, "/limited", &[]).await;
    assert_eq!((status, body.as_str(), told(&headers, "x-limit")), (503, "local_rate_limited", "yes".to_owned()));
    assert_eq!((told(&headers, "x-ratelimit-remaining"), told(&headers, "x-ambit-reason")), ("0".into(), "rate_limited".into()));
    assert_eq!(ask(&mesh, &service, "/new", &[]).await.0, 200);
    assert_eq!(seen.requests(), 3);
    mesh.logged(&["path=/limited", "status=503", "reason=rate_limited"]).await;
}

#[tokio::test]
async fn a_limit_that_is_not_enforced_lets_pass_and_one_of_the_virtual_host_is_for_all_of_its_routes() {
    let (mesh, service, seen) = billing(213).await;
    let noted = LocalRateLimit { filter_enforced: None, ..limit(1) };
    let (name, mut table) = resources::routes(
        &service.chain(),
        vec![
            saying(resources::prefix_to("/noted", &service.cluster()), LIMIT, &noted),
            resources::prefix_to("/one", &service.cluster()),
            resources::to(&service.cluster()),
        ],
    );
    table.virtual_hosts[0].typed_per_filter_config.insert(LIMIT.0.to_owned(), any(LIMIT.1, &limit(2)));
    mesh.deliver(type_url::ROUTE, vec![(name, table)]);
    for _ in 0..4 {
        assert_eq!(ask(&mesh, &service, "/noted", &[]).await.0, 200);
    }
    let mut statuses = Vec::new();
    for path in ["/one", "/two", "/one", "/two"] {
        statuses.push(ask(&mesh, &service, path, &[]).await.0);
    }
    assert_eq!(statuses, [200, 200, 429, 429]);
    assert_eq!(seen.requests(), 6);
}

#[tokio::test]
async fn what_of_faults_and_limits_is_not_carried_out_is_rejected_by_name() {
    let (mesh, service, _) = billing(214).await;
    let refused = |route: Route| {
        let rejected = mesh.offer(type_url::ROUTE, vec![resources::routes(&service.chain(), vec![route])]);
        rejected.first().map(|rejected| rejected.reason.clone()).unwrap_or_default()
    };
    let to = || resources::to(&service.cluster());
    for (fault, part) in [
        (HttpFault { upstream_cluster: "c".into(), ..Default::default() }, "upstream_cluster is not implemented"),
        (HttpFault { downstream_nodes: vec!["n".into()], ..Default::default() }, "downstream_nodes is not implemented"),
        (
            HttpFault { response_rate_limit: Some(Default::default()), ..Default::default() },
            "response_rate_limit is not implemented",
        ),
    ] {
        let reason = refused(saying(to(), FAULT, &fault));
        assert!(reason.contains(part) && reason.contains(FAULT.0), "{reason}");
    }
    for (limit, part) in [
        (
            LocalRateLimit { token_bucket: None, filter_enabled: None, filter_enforced: None, ..limit(1) },
            "token_bucket is missing",
        ),
        (
            LocalRateLimit { local_rate_limit_per_downstream_connection: true, ..limit(1) },
            "local_rate_limit_per_downstream_connection",
        ),
        (LocalRateLimit { stage: 1, ..limit(1) }, "stage is not implemented"),
        (LocalRateLimit { local_cluster_rate_limit: Some(Default::default()), ..limit(1) }, "local_cluster_rate_limit"),
    ] {
        let reason = refused(saying(to(), LIMIT, &limit));
        assert!(reason.contains(part) && reason.contains(LIMIT.0), "{reason}");
    }
}

#[tokio::test]
async fn a_limit_of_calls_tells_grpc_clients_that_it_is_exhausted() {
    let (mesh, service, seen) = billing(215).await;
    let unavailable = resources::prefix_to("/unavailable", &service.cluster());
    let exhausted = LocalRateLimit { rate_limited_as_resource_exhausted: true, ..limit(0) };
    mesh.route(
        &service,
        vec![saying(unavailable, LIMIT, &limit(0)), saying(resources::to(&service.cluster()), LIMIT, &exhausted)],
    );
    for (path, expected) in [("/unavailable/Get", "14"), ("/shop.Orders/Get", "8")] {
        let (status, headers, _) = ask(&mesh, &service, path, &[("content-type", "application/grpc")]).await;
        assert_eq!((status, &headers["grpc-status"]), (200, &expected.parse().unwrap()), "{path}");
    }
    assert_eq!(seen.requests(), 0);
}

#[tokio::test]
async fn without_an_answer_a_limit_that_a_server_counts_refuses_only_where_it_is_to_hold() {
    let (mesh, service, seen) = billing(216).await;
    let user = RequestHeaders { header_name: "x-user".into(), descriptor_key: "user".into(), skip_if_absent: false };
    let actions = vec![Action { action_specifier: Some(ActionSpecifier::RequestHeaders(user)) }];
    let counted = RateLimitPerRoute {
        rate_limits: vec![RateLimit { actions, ..Default::default() }],
        domain: "shop".into(),
        ..Default::default()
    };
    let of_routes = "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute";
    let strict = resources::prefix_to("/strict", &service.cluster());
    let strict = saying(strict, ("envoy.filters.http.ratelimit.strict", of_routes), &counted);
    let open = resources::to(&service.cluster());
    let open = saying(open, ("envoy.filters.http.ratelimit.open", of_routes), &counted);
    mesh.route(&service, vec![strict, open]);
    let ann = [("x-user", "ann")];
    let (status, headers, body) = ask(&mesh, &service, "/strict", &ann).await;
    assert_eq!((status, body.as_str(), &headers["x-ambit-reason"]), (500, "", &"rate_limit_error".parse().unwrap()));
    assert!(!headers.contains_key("x-envoy-ratelimited"));
    assert_eq!(ask(&mesh, &service, "/strict", &[]).await.0, 200, "nobody is to be asked");
    assert_eq!(ask(&mesh, &service, "/", &ann).await.0, 200);
    assert_eq!(seen.requests(), 2);
    let said = |path: &str| {
        let request = request("GET", "billing.shop", path, &[("x-user".to_owned(), "ann".to_owned())], false).unwrap();
        let question = Question { identity: id(WEB), address: [127, 0, 0, 1].into(), destination: service.vip, request };
        serde_json::to_string(&explain(&mesh.store.snapshot(), &question)).unwrap()
    };
    for (path, otherwise) in [("/strict", "the request is refused"), ("/", "the request passes")] {
        let said = said(path);
        assert!(said.contains("it counts user ann in the domain shop") && said.contains(otherwise), "{said}");
    }
    mesh.logged(&["path=/strict", "status=500", "reason=rate_limit_error"]).await;
}
