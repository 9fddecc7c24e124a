//! Requests of a session go on with the endpoint that their client was told.

use std::collections::BTreeSet;

use ambit_api::envoy::pb::{
    envoy::{
        config::core::v3::TypedExtensionConfig,
        extensions::{
            filters::http::stateful_session::v3::{
                StatefulSession, StatefulSessionPerRoute, stateful_session_per_route::Override,
            },
            http::stateful_session::{cookie::v3::CookieBasedSessionState, header::v3::HeaderBasedSessionState},
        },
        r#type::http::v3::Cookie,
    },
    google::protobuf::Duration,
};
use ambit_model::route::{Carrier, Claim, Cookie as Told, EndpointName, Session};
use http::{HeaderMap, Request};
use prost::{Message, Name};
use waypoint::explain::{Question, explain, request};

use super::support::{
    BILLING, Mesh, WEB,
    client::{Body, once},
    endpoint::{self, CLOSED, HTTP},
    id,
    resources::{self, Ep, Service},
};

/// A route with sessions.
fn keeping<M: Message + Name>(service: &Service, name: &str, state: &M, strict: bool) -> resources::Route {
    let typed_config = Some(resources::any(&M::full_name(), state));
    let session_state = Some(TypedExtensionConfig { name: name.into(), typed_config });
    let session = StatefulSession { session_state, strict, ..Default::default() };
    let per_route = StatefulSessionPerRoute { r#override: Some(Override::StatefulSession(session)) };
    let mut route = resources::to(&service.cluster());
    route.typed_per_filter_config =
        [("envoy.filters.http.stateful_session".to_owned(), resources::any(&StatefulSessionPerRoute::full_name(), &per_route))]
            .into();
    route
}

fn by_cookie(service: &Service, strict: bool) -> resources::Route {
    let ttl = Some(Duration { seconds: 600, nanos: 0 });
    let state =
        CookieBasedSessionState { cookie: Some(Cookie { name: "cart".into(), ttl, path: "/".into(), ..Default::default() }) };
    keeping(service, "envoy.http.stateful_session.cookie", &state, strict)
}

/// The endpoints `v1` to `v3`, of which the last is reached in clear.
async fn mesh(number: u8) -> (Mesh, Service, Vec<Ep>) {
    let mesh = Mesh::start(number).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    endpoint::start(&mesh, 1, "v1", BILLING).await;
    endpoint::start(&mesh, 2, "v2", BILLING).await;
    endpoint::start_clear(mesh.socket(3, HTTP), "v3").await;
    let all =
        vec![Ep::Hbone(mesh.socket(1, HTTP), BILLING), Ep::Hbone(mesh.socket(2, HTTP), BILLING), Ep::Clear(mesh.socket(3, HTTP))];
    mesh.endpoints(&service.cluster(), all.clone());
    (mesh, service, all)
}

fn asking(sent: Option<(&str, &str)>) -> Request<Body> {
    let request = Request::get("/a?b").header("host", "billing.shop");
    let request = sent.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    request.body(Body::default()).unwrap()
}

/// Who answered, and what the client is told of its session.
async fn ask(mesh: &Mesh, service: &Service, sent: Option<(&str, &str)>) -> (String, Option<String>) {
    let (status, headers, text) = once(mesh, WEB, service.vip, asking(sent)).await;
    assert_eq!(status, 200, "{text}");
    let told = headers.get("set-cookie").or(headers.get("x-session")).map(|value| value.to_str().unwrap().to_owned());
    (headers["x-from"].to_str().unwrap().to_owned(), told)
}

/// What a client that was told of this endpoint says, in a cookie.
fn naming(endpoint: EndpointName) -> String {
    let ttl = Some(std::time::Duration::from_secs(600));
    let cookie = Told { name: "cart".into(), ttl, ..Told::default() };
    let mut headers = HeaderMap::new();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    Session { carrier: Carrier::Cookie(cookie), strict: false }.tell(&mut headers, Claim::Nothing, endpoint, now);
    pair(headers["set-cookie"].to_str().unwrap())
}

/// What a client sends back of a cookie.
fn pair(cookie: &str) -> String {
    cookie.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn requests_of_a_session_go_to_one_endpoint_and_all_others_to_any() {
    let (mesh, service, _) = mesh(90).await;
    mesh.route(&service, vec![by_cookie(&service, false)]);
    let mut seen = BTreeSet::new();
    for _ in 0..9 {
        let (first, told) = ask(&mesh, &service, None).await;
        let told = told.expect("a cookie");
        assert!(told.ends_with("; Max-Age=600; Path=/; HttpOnly"), "{told}");
        let cookie = pair(&told);
        for _ in 0..5 {
            assert_eq!(ask(&mesh, &service, Some(("cookie", &cookie))).await, (first.clone(), None));
        }
        seen.insert(first);
    }
    assert_eq!(seen.len(), 3, "requests of sessions take nobody's turn: {seen:?}");
    let state = HeaderBasedSessionState { name: "X-Session".into() };
    mesh.route(&service, vec![keeping(&service, "envoy.http.stateful_session.header", &state, false)]);
    let (first, told) = ask(&mesh, &service, None).await;
    let value = told.expect("a header");
    for _ in 0..5 {
        assert_eq!(ask(&mesh, &service, Some(("x-session", &value))).await, (first.clone(), None));
    }
}

#[tokio::test]
async fn a_session_whose_endpoint_is_gone_or_was_never_there_begins_anew_and_a_strict_one_is_refused() {
    let (mesh, service, all) = mesh(224).await;
    mesh.route(&service, vec![by_cookie(&service, false)]);
    // It listens, and is no endpoint.
    endpoint::start_clear(mesh.socket(9, HTTP), "other").await;
    let of = |host: u8, tunnelled| EndpointName { address: mesh.socket(host, HTTP), tunnelled };
    for made_up in [naming(of(9, false)), naming(of(9, true)), naming(of(1, false)), naming(of(3, true)), "cart=x".into()] {
        let (from, told) = ask(&mesh, &service, Some(("cookie", &made_up))).await;
        assert!(from.starts_with('v') && told.is_some(), "{made_up}: {from} {told:?}");
    }
    let second = naming(of(2, true));
    assert_eq!(ask(&mesh, &service, Some(("cookie", &second))).await, ("v2".to_owned(), None));
    mesh.endpoints(&service.cluster(), vec![all[0]]);
    let (from, told) = ask(&mesh, &service, Some(("cookie", &second))).await;
    assert_eq!(from, "v1");
    assert_eq!(ask(&mesh, &service, Some(("cookie", &pair(&told.unwrap())))).await, ("v1".to_owned(), None));
    mesh.route(&service, vec![by_cookie(&service, true)]);
    for refused in [second.as_str(), "cart=x"] {
        let (status, headers, _) = once(&mesh, WEB, service.vip, asking(Some(("cookie", refused)))).await;
        assert_eq!((status, headers["x-ambit-reason"].to_str().unwrap()), (503, "no_healthy_endpoint"));
    }
    assert_eq!(ask(&mesh, &service, None).await.0, "v1");
}

#[tokio::test]
async fn an_endpoint_of_a_session_that_is_not_reached_has_others_tried_after_it_and_the_answer_names_the_one_that_gave_it() {
    let (mesh, service, all) = mesh(225).await;
    let closed = EndpointName { address: mesh.socket(2, CLOSED), tunnelled: true };
    mesh.endpoints(&service.cluster(), vec![Ep::Hbone(closed.address, BILLING), all[0]]);
    mesh.route(&service, vec![by_cookie(&service, false)]);
    let (from, told) = ask(&mesh, &service, Some(("cookie", &naming(closed)))).await;
    assert_eq!(from, "v1");
    assert_eq!(ask(&mesh, &service, Some(("cookie", &pair(&told.unwrap())))).await, ("v1".to_owned(), None));
}

#[tokio::test]
async fn an_explanation_says_that_the_session_decides() {
    let (mesh, service, _) = mesh(226).await;
    let told = |strict: bool, cookie: &str| {
        mesh.route(&service, vec![by_cookie(&service, strict)]);
        let headers = vec![("cookie".to_owned(), cookie.to_owned())];
        let request = request("GET", "billing.shop", "/a", &headers, false).unwrap();
        let question = Question { identity: id(WEB), address: [127, 0, 0, 1].into(), destination: service.vip, request };
        let told = explain(&mesh.store.snapshot(), &question);
        (told.status, serde_json::to_string(&told).unwrap())
    };
    let here = EndpointName { address: mesh.socket(2, HTTP), tunnelled: true };
    let away = EndpointName { address: mesh.socket(9, HTTP), tunnelled: true };
    for (cookie, says) in [
        (naming(here), "its session decides: the cookie cart names this endpoint"),
        (naming(away), "the cookie cart names no endpoint that takes requests"),
        ("a=b".to_owned(), "it has no session yet"),
    ] {
        let (status, text) = told(false, &cookie);
        assert!(status.is_none() && text.contains(says), "{cookie}: {text}");
    }
    assert!(told(false, &naming(here)).1.contains(&format!("at {}", here.address)));
    assert_eq!(told(true, &naming(away)).0, Some(503));
}
