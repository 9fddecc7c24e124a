//! Upgrades of HTTP/1.1: those that the chain or the route names are passed on, and who asks for another one is told which it was.

use std::collections::HashMap;

use ambit_api::envoy::pb::{
    envoy::config::{
        core::v3::Metadata,
        route::v3::{Route, route::Action, route_action::UpgradeConfig},
    },
    google::protobuf::{BoolValue, Struct, Value, value::Kind},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint::explain::{Question, explain, request};

use super::{
    billing,
    support::{
        WEB,
        client::{Body, get, http1, once},
        id, resources,
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

/// A route that says of these upgrades whether they are passed on, and by which policy it does so.
fn said_by_route(cluster: &str, upgrades: &[(&str, Option<bool>)]) -> Route {
    let mut route = resources::to(cluster);
    let Some(Action::Route(action)) = &mut route.action else { panic!("a route that forwards") };
    let said = |(name, enabled): &(&str, Option<bool>)| UpgradeConfig {
        upgrade_type: (*name).into(),
        enabled: enabled.map(|value| BoolValue { value }),
        ..Default::default()
    };
    action.upgrade_configs = upgrades.iter().map(said).collect();
    let policy = Value { kind: Some(Kind::StringValue("shop/irc".into())) };
    let said = Struct { fields: HashMap::from([("upgrades".to_owned(), policy)]) };
    route.metadata = Some(Metadata { filter_metadata: HashMap::from([("ambit.dev".to_owned(), said)]), ..Default::default() });
    route
}

#[tokio::test]
async fn what_a_route_says_of_an_upgrade_goes_before_what_its_chain_says() {
    let (mesh, service, seen) = billing(140).await;
    mesh.route(&service, vec![said_by_route(&service.cluster(), &[("irc/6.9", None), ("b", Some(false)), ("h2c", None)])]);
    for asked in ["IRC/6.9", "irc/6.9", "websocket"] {
        let mut sender = http1(&mesh, WEB, service.vip).await;
        let response = sender.send_request(upgrade(asked)).await.unwrap();
        assert_eq!(response.status(), 101, "{asked}");
        let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        io.write_all(b"\x00\xff\r\n\r\n").await.unwrap();
        let mut buffer = [0; 6];
        io.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"\x00\xff\r\n\r\n", "{asked}");
    }
    assert_eq!(seen.requests(), 3);
    for asked in ["b", "irc/7", "irc", "irc/6.9, websocket"] {
        let (status, _, text) = once(&mesh, WEB, service.vip, upgrade(asked)).await;
        assert_eq!((status, text), (403, format!("an upgrade to {asked} is not passed on")));
    }
    assert_eq!(seen.requests(), 3, "what is refused was sent on");
    // Requests would come after it that nobody looks at.
    let (status, _, text) = once(&mesh, WEB, service.vip, upgrade("h2c")).await;
    assert!(status == 200 && !text.contains("\nupgrade: "), "{status} {text}");
    // And a route may refuse what its chain would pass on.
    mesh.route(&service, vec![said_by_route(&service.cluster(), &[("WebSocket", Some(false))])]);
    let (status, _, text) = once(&mesh, WEB, service.vip, upgrade("websocket")).await;
    assert_eq!((status, &*text), (403, "an upgrade to websocket is not passed on"));
}

#[tokio::test]
async fn whose_word_it_is_that_an_upgrade_is_passed_on_is_explained() {
    let (mesh, service, _) = billing(141).await;
    mesh.route(&service, vec![said_by_route(&service.cluster(), &[("irc/6.9", None)])]);
    for (asked, said) in [
        ("IRC/6.9", "an upgrade to irc/6.9 is passed on by RequestPolicy shop/irc: no retries, and no copies"),
        ("websocket", "an upgrade to websocket is passed on: no retries, and no copies"),
    ] {
        let headers = [("connection", "upgrade"), ("upgrade", asked)].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let request = request("GET", "billing.shop", "/ws", &headers, false).unwrap();
        let question = Question { identity: id(WEB), address: [127, 0, 0, 1].into(), destination: service.vip, request };
        let told = serde_json::to_string(&explain(&mesh.store.snapshot(), &question)).unwrap();
        assert!(told.contains(said), "{told}");
    }
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
