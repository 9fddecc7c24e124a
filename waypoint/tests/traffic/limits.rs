//! What a waypoint is held to without anybody asking for it (`docs/limits.md`), with limits that are reached sooner.

use std::{sync::Arc, time::Duration};

use http::Request;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    resilience::until,
    support::{
        BILLING, Limits, Mesh, WEB,
        client::{Body, get, http1, http2, once, read, tunnel},
        endpoint::{self, HTTP, Seen},
        resources::{Ep, Service},
    },
};

/// More than anything takes here.
const PATIENCE: Duration = Duration::from_secs(20);

/// A service of one endpoint behind a waypoint of these limits.
async fn limited(number: u8, limits: Limits) -> (Mesh, Service, Arc<Seen>) {
    let mesh = Mesh::start_with(number, limits).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    let seen = endpoint::start(&mesh, 1, "v1", BILLING).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(1, HTTP), BILLING)]);
    (mesh, service, seen)
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_refused_and_the_one_that_is_open_goes_on() {
    let (mesh, service, _seen) = limited(253, Limits { connections: 1, ..Limits::default() }).await;
    let mut sender = http1(&mesh, WEB, service.vip).await;
    assert!(tunnel(&mesh, WEB, service.vip).await.is_err());
    mesh.logged(&["reason=connection_limit"]).await;
    assert_eq!(read(sender.send_request(get("/")).await.unwrap()).await.0, 200);
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_refused_and_one_that_ends_makes_room() {
    let (mesh, service, seen) = limited(254, Limits { requests: 1, ..Limits::default() }).await;
    let mut sender = http1(&mesh, WEB, service.vip).await;
    let held = tokio::spawn(async move { read(sender.send_request(get("/held")).await.unwrap()).await.0 });
    until("the request does not come", || seen.requests() == 1).await;
    let (status, headers, _) = once(&mesh, WEB, service.vip, get("/")).await;
    assert_eq!((status, headers["x-ambit-reason"].to_str().unwrap()), (503, "request_limit"));
    mesh.logged(&["status=503", "reason=request_limit"]).await;
    seen.answer.notify_one();
    assert_eq!(held.await.unwrap(), 200);
    let room = async {
        while once(&mesh, WEB, service.vip, get("/")).await.0 != 200 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, room).await.expect("room for another one");
}

#[tokio::test]
async fn a_client_of_http_2_waits_with_more_requests_than_it_may_have_at_once() {
    let (mesh, service, seen) = limited(255, Limits { http2_streams: 2, ..Limits::default() }).await;
    let sender = http2(&mesh, WEB, service.vip).await;
    let ask = |path: &str| {
        let (mut sender, target) = (sender.clone(), format!("http://billing.shop{path}"));
        tokio::spawn(async move {
            let request = Request::get(target).body(Body::default()).unwrap();
            read(sender.send_request(request).await.unwrap()).await.0
        })
    };
    // With the first answer it knows how many it may have.
    assert_eq!(ask("/").await.unwrap(), 200);
    let held: Vec<_> = (0..3).map(|_| ask("/held")).collect();
    until("the requests do not come", || seen.requests() == 3).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(seen.requests(), 3, "more than two are under way");
    seen.answer.notify_one();
    until("the last one does not come", || seen.requests() == 4).await;
    seen.answer.notify_one();
    sleep(Duration::from_millis(100)).await;
    seen.answer.notify_one();
    for held in held {
        assert_eq!(timeout(PATIENCE, held).await.expect("an answer").unwrap(), 200);
    }
}

#[tokio::test]
async fn a_connection_whose_handshake_does_not_end_is_cut_off() {
    let limits = Limits { handshake: Duration::from_millis(300), ..Limits::default() };
    let mesh = Mesh::start_with(28, limits).await;
    let mut silent = TcpStream::connect(mesh.address).await.unwrap();
    let read = timeout(PATIENCE, silent.read(&mut [0; 1])).await.expect("an end");
    assert_eq!(read.unwrap_or(0), 0);
    mesh.logged(&["reason=tls_handshake_timeout"]).await;
}
