//! What filters and policies of routes do to requests.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use ambit_api::{
    envoy::pb::{
        envoy::{
            config::{
                cluster::v3::{CircuitBreakers, circuit_breakers::Thresholds},
                core::v3::RuntimeFractionalPercent,
                route::v3::{RedirectAction, RetryPolicy, route::Action, route_action::RequestMirrorPolicy},
            },
            extensions::filters::{
                http::cors::v3::CorsPolicy,
                network::http_connection_manager::v3::{HttpFilter, http_filter::ConfigType},
            },
            r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
        },
        google::protobuf::{BoolValue, Duration as ProtoDuration, UInt32Value},
    },
    type_url,
};
use http::{HeaderMap, Request};

use super::{
    billing,
    support::{
        Limits, Mesh, WEB,
        client::{Body, once},
        endpoint::{self, HTTP},
        resources::{self, Ep, Service},
    },
};

fn asking(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("host", "billing.shop");
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(Body::default()).unwrap()
}

const ORIGIN: (&str, &str) = ("origin", "https://shop.example");
const ASKED: (&str, &str) = ("access-control-request-method", "PUT");

/// The headers of an answer that are about other origins.
fn crossing(headers: &HeaderMap) -> Vec<String> {
    let about = headers.iter().filter(|(name, _)| name.as_str().starts_with("access-control-"));
    let mut about: Vec<_> = about.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    about.sort();
    about
}

#[tokio::test]
async fn a_preflight_is_answered_by_the_waypoint_and_other_answers_say_who_may_read_them() {
    let (mesh, service, seen) = billing(40).await;
    let nobody = Service::http("nobody", mesh.socket(101, 80));
    mesh.serve(&[service.clone(), nobody.clone()]);
    mesh.endpoints(&nobody.cluster(), vec![]);
    let origin = StringMatcher { match_pattern: Some(MatchPattern::Exact(ORIGIN.1.into())), ..Default::default() };
    let policy = CorsPolicy {
        allow_origin_string_match: vec![origin],
        allow_methods: "GET,PUT".into(),
        expose_headers: "x-from".into(),
        max_age: "5".into(),
        forward_not_matching_preflights: Some(BoolValue { value: false }),
        ..Default::default()
    };
    let with_policy = |mut route: resources::Route| {
        let policy = resources::any("envoy.extensions.filters.http.cors.v3.CorsPolicy", &policy);
        route.typed_per_filter_config = [("envoy.filters.http.cors".to_owned(), policy)].into();
        route
    };
    let redirect = RedirectAction { host_redirect: "new.example".into(), ..Default::default() };
    let moved =
        resources::Route { action: Some(Action::Redirect(redirect)), ..resources::prefix_to("/moved", &service.cluster()) };
    mesh.route(
        &service,
        vec![
            resources::prefix_to("/plain", &service.cluster()),
            with_policy(moved),
            with_policy(resources::prefix_to("/away", &nobody.cluster())),
            with_policy(resources::to(&service.cluster())),
        ],
    );
    let ask = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        let before = seen.requests();
        let (status, headers, _) = once(&mesh, WEB, service.vip, asking(method, path, headers)).await;
        (status, crossing(&headers), seen.requests() - before)
    };
    let allowed =
        ["access-control-allow-origin: https://shop.example".to_owned(), "access-control-expose-headers: x-from".to_owned()];
    let (age, methods) = ("access-control-max-age: 5".to_owned(), "access-control-allow-methods: GET,PUT".to_owned());
    let preflight = vec![methods.clone(), allowed[0].clone(), allowed[1].clone(), age.clone()];
    assert_eq!(ask("OPTIONS", "/", &[ORIGIN, ASKED]).await, (200, preflight.clone(), 0));
    assert_eq!(ask("OPTIONS", "/moved", &[ORIGIN, ASKED]).await, (200, preflight, 0));
    assert_eq!(ask("GET", "/moved", &[ORIGIN]).await, (301, allowed.to_vec(), 0), "a page may be led elsewhere");
    assert_eq!(ask("OPTIONS", "/", &[("origin", "https://evil.example"), ASKED]).await, (200, vec![methods, age], 0));
    assert_eq!(ask("GET", "/", &[ORIGIN]).await, (200, allowed.to_vec(), 1));
    assert_eq!(ask("OPTIONS", "/", &[ORIGIN]).await, (200, allowed.to_vec(), 1));
    assert_eq!(ask("GET", "/", &[("origin", "https://evil.example")]).await, (200, vec![], 1));
    assert_eq!(ask("GET", "/", &[]).await, (200, vec![], 1));
    assert_eq!(ask("GET", "/away", &[ORIGIN]).await, (503, allowed.to_vec(), 0), "a page may read why it failed");
    assert_eq!(ask("OPTIONS", "/plain", &[ORIGIN, ASKED]).await, (200, vec![], 1));
    mesh.logged(&["method=OPTIONS", "status=200", "route=shop/billing//", "reason=ok"]).await;
}

#[tokio::test]
async fn what_is_said_for_other_filters_is_rejected_by_name() {
    let (mesh, service, _) = billing(41).await;
    let mut route = resources::to(&service.cluster());
    route.typed_per_filter_config = [("envoy.filters.http.lua".to_owned(), resources::any("any", &()))].into();
    let rejected = mesh.offer(type_url::ROUTE, vec![resources::routes(&service.chain(), vec![route])]);
    assert!(rejected[0].reason.contains("typed_per_filter_config: envoy.filters.http.lua is not implemented"), "{rejected:?}");
}

#[tokio::test]
async fn filters_of_lua_and_wasm_are_rejected_by_name_and_what_is_in_force_stays() {
    let (mesh, service, _) = billing(49).await;
    let name = "ingress|80";
    for (called, of) in [
        ("envoy.filters.http.lua", "envoy.extensions.filters.http.lua.v3.Lua"),
        ("envoy.filters.http.wasm", "envoy.extensions.filters.http.wasm.v3.Wasm"),
    ] {
        let config_type = Some(ConfigType::TypedConfig(resources::any(of, &())));
        let filter = HttpFilter { name: called.to_owned(), config_type, ..Default::default() };
        let listener = resources::edge_with(80, name, |manager| manager.http_filters.insert(0, filter.clone()));
        let rejected = mesh.offer(type_url::LISTENER, vec![(name.to_owned(), listener)]);
        let [rejected] = &rejected[..] else { panic!("one is rejected: {rejected:?}") };
        assert_eq!(rejected.name, name);
        assert!(rejected.reason.contains(&format!("{called}: {of} is not implemented")), "{rejected:?}");
    }
    assert_eq!(once(&mesh, WEB, service.vip, asking("GET", "/", &[])).await.0, 200);
}

/// A route to a cluster that asks for two retries on a broken connection, a late response, 500 and 503.
fn retrying(cluster: &str) -> resources::Route {
    let mut route = resources::to(cluster);
    let Some(Action::Route(action)) = &mut route.action else { panic!("a route that forwards") };
    action.retry_policy = Some(RetryPolicy {
        retry_on: "connect-failure,reset,retriable-status-codes".into(),
        retriable_status_codes: vec![500, 503],
        num_retries: Some(UInt32Value { value: 2 }),
        ..Default::default()
    });
    route
}

#[tokio::test]
async fn a_request_is_sent_again_with_its_body_as_often_as_the_route_says() {
    let (mesh, service, seen) = billing(42).await;
    mesh.route(&service, vec![retrying(&service.cluster())]);
    let kept = vec![b'x'; 300_000];
    let too_much = vec![b'x'; (1 << 20) + 1];
    for (answers, body, status, tries) in [
        ("503,500", &kept[..], 200, 3),
        ("503,500,503", &kept[..], 503, 3),
        ("reset,200", &[], 200, 2),
        ("reset,503", &kept[..], 200, 3),
        ("502,200", &kept[..], 502, 1),
        ("503,200", &too_much[..], 503, 1),
    ] {
        let before = seen.flaky.swap(0, Ordering::SeqCst);
        let mut request = asking("PUT", "/flaky", &[("x-answers", answers)]);
        *request.body_mut() = Body::new(bytes::Bytes::from(body.to_vec()));
        let (got, _, text) = once(&mesh, WEB, service.vip, request).await;
        assert_eq!((got, seen.flaky.load(Ordering::SeqCst)), (status, tries), "{answers}, after {before}: {text}");
        if status == 200 {
            assert_eq!(text, body.len().to_string(), "{answers}");
        }
    }
    assert_eq!(mesh.proxy.kept_bodies.available_permits(), Limits::default().kept_bodies, "bodies are kept for ever");
    mesh.logged(&["path=/flaky", "status=503", "flags=URX", "attempts=3"]).await;
}

#[tokio::test]
async fn each_try_has_its_time() {
    let (mesh, service, seen) = billing(43).await;
    let mut route = retrying(&service.cluster());
    let Some(Action::Route(action)) = &mut route.action else { panic!("a route that forwards") };
    let policy = action.retry_policy.as_mut().unwrap();
    policy.per_try_timeout = Some(ProtoDuration { seconds: 1, nanos: 0 });
    mesh.route(&service, vec![route]);
    // What a connection takes is no part of what is looked at here.
    assert_eq!(once(&mesh, WEB, service.vip, asking("GET", "/", &[])).await.0, 200);
    let before = seen.requests();
    let began = Instant::now();
    let (status, headers, _) = once(&mesh, WEB, service.vip, asking("GET", "/slower", &[])).await;
    assert_eq!((status, &headers["x-ambit-reason"]), (504, &"request_timeout".parse().unwrap()));
    assert_eq!(seen.requests() - before, 3);
    assert!(began.elapsed() >= Duration::from_millis(3 * 1000 + 25 + 50), "{:?}", began.elapsed());
}

#[tokio::test]
async fn no_more_is_sent_again_at_once_than_the_cluster_bears() {
    let (mesh, service, seen) = billing(44).await;
    mesh.route(&service, vec![retrying(&service.cluster())]);
    let mut cluster = resources::cluster(&service.cluster(), &service);
    let none = Thresholds { max_retries: Some(UInt32Value { value: 0 }), ..Default::default() };
    cluster.circuit_breakers = Some(CircuitBreakers { thresholds: vec![none], ..Default::default() });
    mesh.deliver(type_url::CLUSTER, vec![(service.cluster(), cluster)]);
    let (status, ..) = once(&mesh, WEB, service.vip, asking("GET", "/flaky", &[("x-answers", "503")])).await;
    assert_eq!((status, seen.requests()), (503, 1));
}

#[tokio::test]
async fn what_is_not_implemented_of_retries_is_rejected_by_name() {
    type Edit = fn(&mut RetryPolicy);
    let (mesh, service, _) = billing(45).await;
    let edits: [(Edit, &str); 3] = [
        (|policy| policy.retry_on = "5xx,envoy-ratelimited".into(), "retry_on: envoy-ratelimited is not implemented"),
        (|policy| policy.retriable_headers = vec![Default::default()], "retriable_headers is not implemented"),
        (|policy| policy.retry_back_off = Some(Default::default()), "retry_back_off: base_interval is missing"),
    ];
    for (edit, reason) in edits {
        let mut route = retrying(&service.cluster());
        let Some(Action::Route(action)) = &mut route.action else { panic!("a route that forwards") };
        edit(action.retry_policy.as_mut().unwrap());
        let rejected = mesh.offer(type_url::ROUTE, vec![resources::routes(&service.chain(), vec![route])]);
        assert!(rejected[0].reason.contains("retry_policy") && rejected[0].reason.contains(reason), "{rejected:?}");
    }
    let mut cluster = resources::cluster(&service.cluster(), &service);
    let limit = Thresholds { max_connection_pools: Some(UInt32Value { value: 9 }), ..Default::default() };
    cluster.circuit_breakers = Some(CircuitBreakers { thresholds: vec![limit], ..Default::default() });
    let rejected = mesh.offer(type_url::CLUSTER, vec![(service.cluster(), cluster)]);
    assert!(rejected[0].reason.contains("circuit_breakers.thresholds: max_connection_pools is not implemented"), "{rejected:?}");
}

/// A route to a cluster with a mirror.
fn mirrored(cluster: &str, mirror: RequestMirrorPolicy) -> resources::Route {
    let mut route = resources::to(cluster);
    let Some(Action::Route(action)) = &mut route.action else { panic!("a route that forwards") };
    action.request_mirror_policies = vec![mirror];
    route
}

/// Waits until an endpoint has seen as many requests, and some time longer that it has not seen more.
async fn settled(seen: &endpoint::Seen, requests: usize) {
    let began = Instant::now();
    while seen.requests() < requests {
        assert!(began.elapsed() < Duration::from_secs(60), "{} of {requests} requests arrived", seen.requests());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(seen.requests(), requests);
}

const COPIES: &str = "inbound-vip|80|http|copies.shop.svc.cluster.local";

#[tokio::test]
async fn a_copy_of_a_request_goes_to_the_mirror_and_its_answer_to_nobody() {
    let (mesh, service, seen) = billing(46).await;
    let copies = endpoint::start(&mesh, 2, "copies", "spiffe://cluster.local/ns/shop/sa/copies").await;
    mesh.deliver(type_url::CLUSTER, vec![(COPIES.to_owned(), resources::cluster(COPIES, &service))]);
    mesh.endpoints(COPIES, vec![Ep::Hbone(mesh.socket(2, HTTP), "spiffe://cluster.local/ns/shop/sa/copies")]);
    let to_copies = RequestMirrorPolicy { cluster: COPIES.into(), ..Default::default() };
    mesh.route(&service, vec![mirrored(&service.cluster(), to_copies.clone())]);
    // The mirror breaks the connection of this one, and takes its time for the next.
    for (path, answers) in [("/flaky", "200,reset"), ("/slow", ""), ("/a?b=c", "")] {
        let (status, ..) = once(&mesh, WEB, service.vip, asking("PUT", path, &[("x-answers", answers)])).await;
        assert_eq!(status, 200, "{path}");
    }
    settled(&seen, 3).await;
    settled(&copies, 3).await;
    let log = copies.log.lock().unwrap().clone();
    assert!(log.contains(&"PUT /a?b=c billing.shop-shadow".to_owned()), "{log:?}");

    let same_host = RequestMirrorPolicy { disable_shadow_host_suffix_append: true, ..to_copies };
    mesh.route(&service, vec![mirrored(&service.cluster(), same_host)]);
    let mut long = asking("POST", "/echo", &[]);
    *long.body_mut() = Body::new(vec![b'x'; 1_000_000].into());
    assert_eq!(once(&mesh, WEB, service.vip, long).await.2.len(), 1_000_000);
    settled(&copies, 4).await;
    assert_eq!(copies.log.lock().unwrap()[3], "POST /echo billing.shop");
    let mut too_long = asking("POST", "/echo", &[]);
    *too_long.body_mut() = Body::new(vec![b'x'; (1 << 20) + 1].into());
    assert_eq!(once(&mesh, WEB, service.vip, too_long).await.2.len(), (1 << 20) + 1);
    settled(&copies, 4).await;
}

#[tokio::test]
async fn a_mirror_that_is_not_there_and_a_place_that_is_not_left_change_nothing() {
    let mesh = Mesh::start_with(47, Limits { mirrors: 1, ..Limits::default() }).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    let seen = endpoint::start(&mesh, 1, "v1", super::BILLING).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(1, HTTP), super::BILLING)]);
    let nowhere = RequestMirrorPolicy { cluster: "nowhere".into(), ..Default::default() };
    mesh.route(&service, vec![mirrored(&service.cluster(), nowhere)]);
    assert_eq!(once(&mesh, WEB, service.vip, asking("GET", "/", &[])).await.0, 200);
    settled(&seen, 1).await;
    // Nobody answers the copy of the first, so that there is no place for that of the second.
    let silent = tokio::net::TcpListener::bind(mesh.socket(2, HTTP)).await.unwrap();
    mesh.deliver(type_url::CLUSTER, vec![(COPIES.to_owned(), resources::cluster(COPIES, &service))]);
    mesh.endpoints(COPIES, vec![Ep::Clear(mesh.socket(2, HTTP))]);
    let to_nobody = RequestMirrorPolicy { cluster: COPIES.into(), ..Default::default() };
    mesh.route(&service, vec![mirrored(&service.cluster(), to_nobody)]);
    assert_eq!(once(&mesh, WEB, service.vip, asking("GET", "/", &[])).await.0, 200);
    let _held = tokio::time::timeout(Duration::from_secs(60), silent.accept()).await.expect("the first copy").unwrap();
    assert_eq!(once(&mesh, WEB, service.vip, asking("GET", "/", &[])).await.0, 200);
    assert!(tokio::time::timeout(Duration::from_millis(300), silent.accept()).await.is_err(), "a second copy");
    settled(&seen, 3).await;
}

#[tokio::test]
async fn an_answer_of_a_mirror_that_breaks_off_ends_the_copy() {
    let mesh = Mesh::start_with(52, Limits { mirrors: 1, ..Limits::default() }).await;
    let service = Service { protocol: "http2", ..Service::http("billing", mesh.socket(100, 80)) };
    mesh.serve(std::slice::from_ref(&service));
    let seen = endpoint::start(&mesh, 1, "v1", super::BILLING).await;
    let copies = endpoint::start(&mesh, 2, "copies", super::BILLING).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(1, HTTP), super::BILLING)]);
    mesh.deliver(type_url::CLUSTER, vec![(COPIES.to_owned(), resources::cluster(COPIES, &service))]);
    mesh.endpoints(COPIES, vec![Ep::Hbone(mesh.socket(2, HTTP), super::BILLING)]);
    let policy = RequestMirrorPolicy { cluster: COPIES.into(), ..Default::default() };
    mesh.route(&service, vec![mirrored(&service.cluster(), policy)]);
    let began = Instant::now();
    // The only place is given back, so that there is another copy.
    while copies.requests() < 2 {
        assert!(began.elapsed() < Duration::from_secs(60), "{} copies arrived", copies.requests());
        let mut sender = super::http2(&mesh, WEB, service.vip).await;
        let request = Request::get("http://billing.shop/break").body(Body::default()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(seen.requests() >= 2);
}

#[tokio::test]
async fn what_is_not_implemented_of_mirrors_is_rejected_by_name() {
    let (mesh, service, _) = billing(48).await;
    let by_header = RequestMirrorPolicy { cluster_header: "x-to".into(), ..Default::default() };
    let by_key = RequestMirrorPolicy {
        cluster: "c".into(),
        runtime_fraction: Some(RuntimeFractionalPercent { runtime_key: "k".into(), ..Default::default() }),
        ..Default::default()
    };
    for (policy, reason) in [
        (by_header, "cluster_header is not implemented"),
        (by_key, "runtime_fraction: runtime_key is not implemented"),
        (RequestMirrorPolicy::default(), "cluster is missing"),
    ] {
        let route = mirrored(&service.cluster(), policy);
        let rejected = mesh.offer(type_url::ROUTE, vec![resources::routes(&service.chain(), vec![route])]);
        assert!(rejected[0].reason.contains("request_mirror_policies") && rejected[0].reason.contains(reason), "{rejected:?}");
    }
}
