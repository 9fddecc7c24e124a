//! How long a client waits bounds how long its answer may take, and endpoints are told what is left of it.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use ambit_api::envoy::pb::{
    envoy::config::route::v3::{RetryPolicy, Route, route::Action},
    google::protobuf::{Duration as ProtoDuration, UInt32Value},
};
use http::{HeaderMap, Request};
use waypoint::explain::{Question, explain, request};

use super::{
    billing,
    support::{
        Mesh, WEB,
        client::{Body, once},
        id,
        resources::{self, Service},
    },
};

const EXPECTED: &str = "x-envoy-expected-rq-timeout-ms";
const CALL: &str = "grpc-timeout";
const IS_CALL: (&str, &str) = ("content-type", "application/grpc");

/// A route of which calls have their deadline, up to its own time if it has one.
#[allow(deprecated)]
fn heeding(cluster: &str, seconds: i64) -> Route {
    let mut route = resources::to(cluster);
    let Some(Action::Route(action)) = &mut route.action else { panic!("a route that forwards") };
    action.timeout = Some(ProtoDuration { seconds, nanos: 0 });
    action.max_grpc_timeout = Some(ProtoDuration { seconds, nanos: 0 });
    route
}

async fn ask(mesh: &Mesh, service: &Service, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, String) {
    let request = Request::post(path).header("host", "billing.shop");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    once(mesh, WEB, service.vip, request.body(Body::default()).unwrap()).await
}

/// What an endpoint says that it was told in a header.
fn told(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
}

#[tokio::test]
async fn a_call_has_as_much_time_as_its_client_and_its_endpoint_is_told_what_is_left() {
    let (mesh, service, seen) = billing(205).await;
    mesh.route(&service, vec![heeding(&service.cluster(), 0)]);
    let (status, _, text) = ask(&mesh, &service, "/", &[IS_CALL, (CALL, "1H")]).await;
    let left: u64 = told(&text, CALL).unwrap().trim_end_matches('m').parse().unwrap();
    assert!(status == 200 && (3_000_000..=3_600_000).contains(&left), "{status} {text}");

    let began = Instant::now();
    let (status, headers, _) = ask(&mesh, &service, "/slower", &[IS_CALL, (CALL, "300m")]).await;
    assert_eq!((status, &headers["grpc-status"]), (200, &"4".parse().unwrap()));
    assert_eq!(headers["x-ambit-reason"], "request_timeout");
    assert!(began.elapsed() < Duration::from_secs(9), "it waited for its endpoint");

    let before = seen.requests();
    let (_, headers, _) = ask(&mesh, &service, "/", &[IS_CALL, (CALL, "0n")]).await;
    assert_eq!((headers["grpc-status"].as_bytes(), seen.requests()), (&b"4"[..], before), "nobody waits for it");
    mesh.logged(&["reason=request_timeout", "flags=UT"]).await;

    // What a call cannot say is passed on, and heeded by nobody.
    for malformed in ["300", "300s", "-1S", "999999999S", "1.5S"] {
        let (status, _, text) = ask(&mesh, &service, "/", &[IS_CALL, (CALL, malformed)]).await;
        assert_eq!((status, told(&text, CALL).as_deref()), (200, Some(malformed)));
    }
    let (status, _, text) = ask(&mesh, &service, "/slow", &[(CALL, "1m")]).await;
    assert_eq!((status, told(&text, CALL).as_deref()), (200, Some("1m")), "it is no call");
}

#[tokio::test]
async fn a_route_gives_no_more_time_than_it_has_whatever_a_client_says() {
    let (mesh, service, _) = billing(206).await;
    // Long enough for an answer on a machine that has much else to do.
    mesh.route(&service, vec![heeding(&service.cluster(), 2)]);
    for said in [[IS_CALL, (CALL, "1H")], [("x-other", ""), (EXPECTED, "3600000")]] {
        let began = Instant::now();
        let (status, headers, _) = ask(&mesh, &service, "/slower", &said).await;
        // It was the route's time: the same as without a deadline.
        let of_call = headers.get("grpc-status").map(|status| status.as_bytes());
        assert!(status == 504 || (status, of_call) == (200, Some(&b"14"[..])), "{said:?}: {status} {headers:?}");
        assert!(began.elapsed() < Duration::from_secs(9), "{said:?}");
        let (_, _, text) = ask(&mesh, &service, "/", &said).await;
        assert_eq!(told(&text, CALL).as_deref(), (said[0] == IS_CALL).then_some("2000m"), "{text}");
    }
}

#[tokio::test]
async fn what_the_proxy_before_waits_for_holds_and_is_told_on() {
    let (mesh, service, seen) = billing(207).await;
    let (status, _, text) = ask(&mesh, &service, "/", &[(EXPECTED, "3600000")]).await;
    let left: u64 = told(&text, EXPECTED).unwrap().parse().unwrap();
    assert!(status == 200 && (3_000_000..=3_600_000).contains(&left), "{text}");

    let (status, headers, _) = ask(&mesh, &service, "/slower", &[(EXPECTED, "300")]).await;
    assert_eq!((status, &headers["x-ambit-reason"]), (504, &"request_timeout".parse().unwrap()));

    // None of these is a time, or one that ends.
    for other in ["0", "-5", "soon", "99999999999999999999"] {
        let (status, _, text) = ask(&mesh, &service, "/", &[(EXPECTED, other)]).await;
        assert_eq!((status, told(&text, EXPECTED)), (200, None), "{other}");
    }

    // A further try is told what the one before has left.
    let mut route = resources::to(&service.cluster());
    let Some(Action::Route(action)) = &mut route.action else { panic!("a route that forwards") };
    action.retry_policy = Some(RetryPolicy {
        retry_on: "retriable-status-codes".into(),
        retriable_status_codes: vec![503],
        num_retries: Some(UInt32Value { value: 1 }),
        ..Default::default()
    });
    mesh.route(&service, vec![route]);
    let mut left = Vec::new();
    for answers in ["200", "503,200"] {
        seen.flaky.store(0, Ordering::SeqCst);
        let (status, headers, _) = ask(&mesh, &service, "/flaky", &[(EXPECTED, "3600000"), ("x-answers", answers)]).await;
        assert_eq!(status, 200);
        left.push(headers["x-told"].to_str().unwrap().parse::<u64>().unwrap());
    }
    // The least wait before it is 25 ms.
    assert!(left[0] <= 3_600_000 && left[1] <= 3_600_000 - 25 && left[1] >= 3_000_000, "{left:?}");
}

#[tokio::test]
async fn an_explanation_says_the_deadline() {
    let (mesh, service, _) = billing(208).await;
    mesh.route(&service, vec![heeding(&service.cluster(), 9)]);
    let headers = [IS_CALL, (CALL, "2S"), (EXPECTED, "5000")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let request = request("POST", "billing.shop", "/", &headers, false).unwrap();
    let question = Question { identity: id(WEB), address: [127, 0, 0, 1].into(), destination: service.vip, request };
    let told = serde_json::to_string(&explain(&mesh.store.snapshot(), &question)).unwrap();
    for part in ["within 9s of the end", "waits for 5s after its end", "waits for 2s after its beginning", "what is left of that"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
}
