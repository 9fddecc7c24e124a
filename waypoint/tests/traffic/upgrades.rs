//! Upgrades of HTTP/1.1: those that the configuration names are passed on, and who asks for another one is told which it was.

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint::explain::{Question, explain, request};

use super::{
    billing,
    support::{
        WEB,
        client::{Body, get, http1, once},
        id,
    },
};

fn upgrade(name: &str) -> http::Request<Body> {
    let mut request = get("/ws");
    request.headers_mut().insert("connection", "keep-alive, Upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", name.parse().unwrap());
    request
}

#[tokio::test]
async fn an_upgrade_that_is_not_passed_on_is_refused_by_its_name() {
    let (mesh, service, seen) = billing(138).await;
    for (asked, named) in [
        ("spdy/3.1", "spdy/3.1".to_owned()),
        ("IRC/6.9", "irc/6.9".to_owned()),
        // Of several one would have to be chosen.
        ("websocket, other", "websocket, other".to_owned()),
        // It is no more than a part of what a client may say.
        (&*"x".repeat(1000), "x".repeat(64)),
    ] {
        let (status, headers, text) = once(&mesh, WEB, service.vip, upgrade(asked)).await;
        assert_eq!((status, &headers["x-ambit-reason"]), (403, &"request_invalid".parse().unwrap()), "{asked}");
        assert_eq!(text, format!("an upgrade to {named} is not passed on"));
    }
    assert_eq!(seen.requests(), 0, "what is refused was sent on");
    mesh.logged(&["path=/ws", "status=403", "reason=request_invalid", "an upgrade to spdy/3.1 is not passed on"]).await;
    let asked = [("connection", "upgrade"), ("upgrade", "spdy/3.1")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let request = request("GET", "billing.shop", "/ws", &asked, false).unwrap();
    let question = Question { identity: id(WEB), address: [127, 0, 0, 1].into(), destination: service.vip, request };
    let told = explain(&mesh.store.snapshot(), &question);
    assert_eq!(told.status, Some(403));
    let told = serde_json::to_string(&told).unwrap();
    assert!(told.contains("an upgrade to spdy/3.1 is not passed on"), "{told}");
}

#[tokio::test]
async fn a_websocket_is_known_however_it_is_spelled_and_an_offer_of_http_2_in_clear_is_ignored() {
    let (mesh, service, seen) = billing(139).await;
    let mut sender = http1(&mesh, WEB, service.vip).await;
    let response = sender.send_request(upgrade("WebSocket")).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    io.write_all(b"one").await.unwrap();
    let mut buffer = [0; 3];
    io.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"one");
    let (status, _, text) = once(&mesh, WEB, service.vip, upgrade("h2c")).await;
    assert!(status == 200 && text.starts_with("v1 GET /ws HTTP/1.1\n"), "{status} {text}");
    assert!(!text.contains("\nupgrade: "), "{text}");
    assert_eq!(seen.requests(), 2);
}
