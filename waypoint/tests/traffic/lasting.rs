//! Streams that are silent for too long, or last for too long, by their route: before their response and in the middle of it, in uploads, and
//! after upgrades.

use std::time::{Duration, Instant};

use ambit_api::envoy::pb::{
    envoy::config::route::v3::{Route, route::Action, route_action::MaxStreamDuration},
    google::protobuf::Duration as ProtoDuration,
};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};
use waypoint::explain::{Question, explain, request};

use super::{
    billing,
    support::{
        WEB,
        client::{get, http1, http2, once, tunnel},
        id,
        resources::{self, Service},
    },
};

/// Longer than anything here takes that ends by its own.
const LONG: Duration = Duration::from_secs(9);

fn millis(millis: i32) -> Option<ProtoDuration> {
    Some(ProtoDuration { seconds: (millis / 1000).into(), nanos: millis % 1000 * 1_000_000 })
}

/// A route whose streams may be silent, and last, for so many milliseconds.
fn route(service: &Service, idle: Option<i32>, longest: Option<i32>) -> Route {
    let mut route = resources::to(&service.cluster());
    let Some(Action::Route(action)) = &mut route.action else { panic!("a route that forwards") };
    action.idle_timeout = idle.and_then(millis);
    let lasting = |longest| MaxStreamDuration { max_stream_duration: millis(longest), ..Default::default() };
    action.max_stream_duration = longest.map(lasting);
    route
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_for_the_time_of_a_stream_is_not_waited_for() {
    let (mesh, service, _) = billing(243).await;
    for (idle, longest, reason, flags) in
        [(Some(700), None, "stream_idle_timeout", "flags=SI"), (None, Some(700), "stream_timeout", "status=504")]
    {
        mesh.route(&service, vec![route(&service, idle, longest)]);
        let began = Instant::now();
        let (status, headers, _) = once(&mesh, WEB, service.vip, get("/slower")).await;
        assert_eq!((status, headers["x-ambit-reason"].to_str().unwrap()), (504, reason));
        assert!(began.elapsed() >= Duration::from_millis(700) && began.elapsed() < LONG, "{:?}", began.elapsed());
        mesh.logged(&["path=/slower", "status=504", &format!("reason={reason}"), flags]).await;
        // A call is told whose time it was.
        let mut call = get("/slower");
        call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        let (status, headers, _) = once(&mesh, WEB, service.vip, call).await;
        let expected = if idle.is_some() { "14" } else { "4" };
        assert_eq!((status, headers["grpc-status"].to_str().unwrap()), (200, expected), "{reason}");
        assert_eq!(once(&mesh, WEB, service.vip, get("/")).await.0, 200, "what does not take so long passes");
    }
}

#[tokio::test]
async fn a_client_that_stops_in_its_upload_is_answered_and_one_that_trickles_is_not_cut() {
    let (mesh, service, _) = billing(244).await;
    mesh.route(&service, vec![route(&service, Some(1000), None)]);
    let head = "PUT /echo HTTP/1.1\r\nhost: billing.shop\r\ncontent-length: 8\r\nconnection: close\r\n\r\n";
    for (pieces, pause, starts) in [(4, Duration::ZERO, "HTTP/1.1 408 "), (8, Duration::from_millis(300), "HTTP/1.1 200 ")] {
        let mut stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..pieces {
            sleep(pause).await;
            stream.write_all(b"x").await.unwrap();
        }
        let mut answer = Vec::new();
        // What matters is what came before the end, however that is.
        let _end = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("an end");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with(starts), "{pieces} pieces: {answer}");
    }
    mesh.logged(&["path=/echo", "status=408", "reason=stream_idle_timeout", "flags=SI"]).await;
}

#[tokio::test]
async fn a_response_that_stops_breaks_off_and_one_that_trickles_does_not() {
    let (mesh, service, _) = billing(245).await;
    // Pieces come every 300 ms, the last after 600. The first turn leaves connections at hand.
    for (idle, longest, whole, reason) in [
        (Some(2000), None, true, "ok"),
        (Some(220), None, false, "stream_idle_timeout"),
        (Some(2000), Some(450), false, "stream_timeout"),
    ] {
        mesh.route(&service, vec![route(&service, idle, longest)]);
        let mut one = http1(&mesh, WEB, service.vip).await;
        let mut other = http2(&mesh, WEB, service.vip).await;
        let request = http::Request::get("http://billing.shop/drip").body(Default::default()).unwrap();
        let responses = [one.send_request(get("/drip")).await.unwrap(), other.send_request(request).await.unwrap()];
        for response in responses {
            assert_eq!(response.status(), 200);
            let body = timeout(LONG, response.into_body().collect()).await.expect("an end");
            assert_eq!(body.is_ok(), whole, "{idle:?} {longest:?}");
        }
        mesh.logged(&["path=/drip", "status=200", &format!("reason={reason}")]).await;
    }
}

#[tokio::test]
async fn a_websocket_is_ended_when_it_is_silent_or_has_lasted_and_not_while_it_trickles() {
    let (mesh, service, _) = billing(246).await;
    for (idle, longest, reason) in [(Some(1000), None, "stream_idle_timeout"), (Some(9000), Some(1500), "stream_timeout")] {
        mesh.route(&service, vec![route(&service, idle, longest)]);
        let mut sender = http1(&mesh, WEB, service.vip).await;
        let mut request = get("/ws");
        request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
        request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 101);
        let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        let (mut came, most) = (0, if longest.is_some() { 40 } else { 6 });
        while came < most {
            sleep(Duration::from_millis(300)).await;
            let sent = io.write_all(b"x").await;
            let back = timeout(LONG, io.read_u8()).await.expect("a byte, or the end");
            if sent.is_err() || back.is_err() {
                break;
            }
            came += 1;
        }
        match longest {
            None => assert_eq!(came, 6, "it was cut while bytes passed"),
            Some(_) => assert!((1..40).contains(&came), "{came}"),
        }
        assert!(timeout(LONG, io.read_u8()).await.expect("an end").is_err(), "{reason}");
        mesh.logged(&["path=/ws", "status=101", &format!("reason={reason}")]).await;
    }
}

#[tokio::test]
async fn an_explanation_says_the_times_of_a_stream() {
    let (mesh, service, _) = billing(247).await;
    mesh.route(&service, vec![route(&service, Some(5000), Some(60_000))]);
    let request = request("GET", "billing.shop", "/", &[], false).unwrap();
    let question = Question { identity: id(WEB), address: [127, 0, 0, 1].into(), destination: service.vip, request };
    let told = serde_json::to_string(&explain(&mesh.store.snapshot(), &question)).unwrap();
    for part in ["no byte has passed in either direction for 5s", "it ends 60s after its beginning"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}
