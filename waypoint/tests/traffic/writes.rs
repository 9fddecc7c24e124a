//! Requests that write, which are sent again after an endpoint has seen them only as far as their route says so.

use std::{collections::HashMap, sync::atomic::Ordering};

use ambit_api::envoy::pb::{
    envoy::config::{
        core::v3::Metadata,
        route::v3::{RetryPolicy, Route, route::Action},
    },
    google::protobuf::{Struct, UInt32Value, Value, value::Kind},
};
use bytes::Bytes;
use http::Request;

use super::{
    billing,
    explained::explained,
    support::{
        WEB,
        client::{Body, once},
        resources,
    },
};

/// What is sent for writes where no policy speaks of them.
const UNSEEN: &str = "connect-failure,refused-stream,reset-before-request";
/// And what is where one says that they may arrive twice.
const ALLOWED: &str = "connect-failure,refused-stream,reset,retriable-status-codes";
/// What Istio's routes ask for where they do not say.
const CALLS: &str = "connect-failure,refused-stream,unavailable,cancelled";

/// A route that retries twice, and says by which policy it does so for writes.
fn retrying(cluster: &str, retry_on: &str) -> Route {
    let mut route = resources::to(cluster);
    let Some(Action::Route(action)) = &mut route.action else { panic!("a route that forwards") };
    action.retry_policy = Some(RetryPolicy {
        retry_on: retry_on.into(),
        retriable_status_codes: if retry_on == ALLOWED { vec![503] } else { vec![] },
        num_retries: Some(UInt32Value { value: 2 }),
        ..Default::default()
    });
    if retry_on == ALLOWED {
        let policy = Value { kind: Some(Kind::StringValue("shop/twice".into())) };
        let said = Struct { fields: HashMap::from([("retries".to_owned(), policy)]) };
        route.metadata =
            Some(Metadata { filter_metadata: HashMap::from([("ambit.dev".to_owned(), said)]), ..Default::default() });
    }
    route
}

#[tokio::test]
async fn a_write_is_sent_again_after_an_endpoint_has_seen_it_only_where_its_route_says_so() {
    let (mesh, service, seen) = billing(197).await;
    for (method, retry_on, answers, status, came) in [
        ("POST", UNSEEN, "503,200", 503, 1),
        ("POST", UNSEEN, "reset,200", 503, 1),
        ("POST", ALLOWED, "503,200", 200, 2),
        ("POST", ALLOWED, "reset,200", 200, 2),
        ("PATCH", ALLOWED, "reset,503,200", 200, 3),
        ("POST", ALLOWED, "503,503,503,200", 503, 3),
        ("POST", ALLOWED, "502,200", 502, 1),
    ] {
        mesh.route(&service, vec![retrying(&service.cluster(), retry_on)]);
        seen.flaky.store(0, Ordering::SeqCst);
        let request = Request::builder().method(method).uri("/flaky").header("host", "billing.shop").header("x-answers", answers);
        let request = request.body(Body::new(Bytes::from_static(b"an order"))).unwrap();
        let (got, _, text) = once(&mesh, WEB, service.vip, request).await;
        assert_eq!((got, seen.flaky.load(Ordering::SeqCst)), (status, came), "{method} {retry_on} {answers}: {text}");
        if status == 200 {
            assert_eq!(text, "8", "{method} {answers}: its body was not sent whole again");
        }
    }
}

#[tokio::test]
async fn whose_word_it_is_that_writes_are_sent_again_is_explained() {
    let (mesh, service, _) = billing(198).await;
    for (retry_on, said) in [(UNSEEN, false), (ALLOWED, true)] {
        mesh.route(&service, vec![retrying(&service.cluster(), retry_on)]);
        let told = explained(&mesh, &service, WEB, "POST", "billing.shop", "/", "1");
        let grounds: Vec<&String> = told.steps.iter().flat_map(|step| &step.because).collect();
        assert!(
            grounds.iter().any(|ground| ground.starts_with("it is sent again up to 2 times on connect-failure")),
            "{grounds:#?}"
        );
        let named = "writes too, also after an endpoint has seen them, by RequestPolicy shop/twice";
        assert_eq!(grounds.iter().any(|ground| *ground == named), said, "{grounds:#?}");
    }
}

#[tokio::test]
async fn a_call_is_sent_again_after_a_status_in_the_head_of_its_answer_that_its_route_names() {
    let (mesh, service, seen) = billing(195).await;
    for (retry_on, answers, status, came) in [
        (CALLS, "grpc-14,grpc-0", Some("0"), 2),
        (CALLS, "grpc-1,grpc-14,grpc-0", Some("0"), 3),
        (CALLS, "grpc-14,grpc-14,grpc-14,grpc-0", Some("14"), 3),
        (CALLS, "grpc-13,grpc-0", Some("13"), 1),
        (CALLS, "grpc-0", Some("0"), 1),
        (CALLS, "grpc-14,200", None, 2),
        (CALLS, "503,200", None, 1),
        // The client has the head by then.
        (CALLS, "behind-14,grpc-0", None, 1),
        (UNSEEN, "grpc-14,grpc-0", Some("14"), 1),
        ("5xx", "grpc-14,grpc-0", Some("14"), 1),
        ("cancelled", "grpc-1,grpc-0", Some("0"), 2),
        ("deadline-exceeded", "grpc-4,grpc-0", Some("0"), 2),
        ("internal", "grpc-13,grpc-0", Some("0"), 2),
        ("unavailable", "grpc-14,grpc-0", Some("0"), 2),
        ("resource-exhausted", "grpc-8,grpc-0", Some("0"), 2),
        ("resource-exhausted", "grpc-8-limited,grpc-0", Some("8"), 1),
    ] {
        mesh.route(&service, vec![retrying(&service.cluster(), retry_on)]);
        seen.flaky.store(0, Ordering::SeqCst);
        let call = Request::post("/flaky").header("host", "billing.shop").header("content-type", "application/grpc");
        let call = call.header("te", "trailers").header("x-answers", answers).body(Body::new(Bytes::from_static(b"a call")));
        let (_, headers, _) = once(&mesh, WEB, service.vip, call.unwrap()).await;
        let got = headers.get("grpc-status").map(|status| status.to_str().unwrap());
        assert_eq!((got, seen.flaky.load(Ordering::SeqCst)), (status, came), "{retry_on} {answers}: {headers:?}");
    }
    mesh.route(&service, vec![retrying(&service.cluster(), CALLS)]);
    let told = explained(&mesh, &service, WEB, "POST", "billing.shop", "/", "1");
    let grounds: Vec<&String> = told.steps.iter().flat_map(|step| &step.because).collect();
    let named = "it is sent again up to 2 times on connect-failure, refused-stream, cancelled, unavailable;";
    assert!(grounds.iter().any(|ground| ground.starts_with(named)), "{grounds:#?}");
}
