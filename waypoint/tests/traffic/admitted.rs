//! How many requests are let in at once: who is done has no place any more, however that came.

use std::time::{Duration, Instant};

use http::Request;

use super::support::{
    BILLING, Mesh, WEB,
    client::{Body, get, http1, http2, once},
    endpoint::{self, HTTP},
    resources::{Ep, Service},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until it holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn who_gives_up_has_no_place_any_more_and_a_websocket_has_none() {
    let mesh = Mesh::start(150).await;
    let service = Service { at_once: Some(1), ..Service::http("billing", mesh.socket(100, 80)) };
    mesh.serve(std::slice::from_ref(&service));
    let seen = endpoint::start(&mesh, 1, "v1", BILLING).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(1, HTTP), BILLING)]);

    let mut sender = http2(&mesh, WEB, service.vip).await;
    let held = sender.send_request(Request::get("http://billing.shop/held").body(Body::default()).unwrap());
    let held = tokio::spawn(held);
    until("it comes to the endpoint", async || seen.requests() == 1).await;
    let (status, headers, _) = once(&mesh, WEB, service.vip, get("/")).await;
    assert_eq!((status, headers["x-ambit-reason"].to_str().unwrap()), (503, "overloaded"));
    held.abort();
    until("another is let in", async || once(&mesh, WEB, service.vip, get("/")).await.0 == 200).await;

    let mut request = get("/ws");
    request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    let response = http1(&mesh, WEB, service.vip).await.send_request(request).await.unwrap();
    assert_eq!(response.status(), 101);
    let websocket = hyper::upgrade::on(response).await.unwrap();
    until("one is let in beside a WebSocket", async || once(&mesh, WEB, service.vip, get("/")).await.0 == 200).await;
    drop(websocket);
}
