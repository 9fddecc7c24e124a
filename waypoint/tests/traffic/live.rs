//! Requests that ask what becomes of them.

use std::convert::Infallible;

use ambit_api::{
    envoy::pb::{
        envoy::config::core::v3::Metadata,
        google::protobuf::{ListValue, Struct, Value as Pb, value::Kind},
    },
    type_url,
};
use ambit_runtime::telemetry::metrics_handle;
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use super::{
    billing,
    explained::{OTHER, explained, mesh, none},
    support::{
        BILLING, Mesh, WEB,
        client::{Body, http2, once, read, tunnel},
        endpoint::{self, HTTP},
        resources::{self, Ep, Service},
    },
};

/// Has the waypoint tell these what becomes of requests of theirs.
fn administrators(mesh: &Mesh, services: &[Service], identities: &[&str]) {
    let text = |identity: &&str| Pb { kind: Some(Kind::StringValue((*identity).to_owned())) };
    let list = Pb { kind: Some(Kind::ListValue(ListValue { values: identities.iter().map(text).collect() })) };
    let own = Struct { fields: [("explain_administrators".to_owned(), list)].into() };
    let metadata = Metadata { filter_metadata: [("io.ambit".to_owned(), own)].into(), ..Default::default() };
    let mut listeners = resources::listeners(services);
    for (_, listener) in listeners.iter_mut().filter(|(name, _)| name == "main_internal") {
        listener.metadata = Some(metadata.clone());
    }
    mesh.deliver(type_url::LISTENER, listeners);
}

#[tokio::test]
async fn who_asks_after_the_body_is_not_passed_on_either() {
    let (mesh, service, _) = billing(236).await;
    let stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
    let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut trailers = HeaderMap::new();
    for name in ["x-ambit-explain", "x-kept", "x-forwarded-client-cert", "x-forwarded_client-cert"] {
        trailers.insert(name, "answer".parse().unwrap());
    }
    let frames = [Frame::data(Bytes::from_static(b"message")), Frame::trailers(trailers)];
    let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, Infallible>)));
    let request = Request::post("http://billing.shop/trailers").header("te", "trailers").body(body).unwrap();
    let collected = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    let told = collected.trailers().unwrap();
    assert_eq!((&told["x-kept"], told.get("x-ambit-explain")), (&"answer".parse().unwrap(), None));
    let of_clients = told.keys().filter(|name| name.as_str().starts_with("x-forwarded"));
    assert_eq!(of_clients.count(), 0, "nor who a client says that it is: {told:?}");
}

fn asking(method: &str, path: &str, how: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("host", "billing.shop").header("x-version", "2");
    request.header("x-ambit-explain", how).body(Body::default()).unwrap()
}

/// What is told beside a response.
fn beside(headers: &HeaderMap) -> Value {
    serde_json::from_str(headers["x-ambit-explained"].to_str().unwrap()).unwrap()
}

#[tokio::test]
async fn an_administrator_is_answered_what_the_admin_page_answers_and_nobody_else_is() {
    let (mesh, service) = mesh(65).await;
    administrators(&mesh, &[service.clone(), none(&mesh)], &[WEB]);
    for (method, path) in [("GET", "/known?a=1"), ("POST", "/known/./x"), ("DELETE", "/known"), ("GET", "/none"), ("GET", "/")] {
        let (status, headers, text) = once(&mesh, WEB, service.vip, asking(method, path, "answer")).await;
        let said = ["x-ambit-explained", "content-type"].map(|name| headers[name].to_str().unwrap());
        assert_eq!((status, said), (200, ["answer", "application/json"]));
        assert!(!headers.contains_key("x-from"), "{method} {path} was sent");
        let told: Value = serde_json::from_str(&text).unwrap();
        let page = explained(&mesh, &service, WEB, method, "billing.shop", path, "2");
        assert_eq!(told, json!({ "explanation": page }), "{method} {path}");

        let (status, headers, text) = once(&mesh, OTHER, service.vip, asking(method, path, "answer")).await;
        let page = explained(&mesh, &service, OTHER, method, "billing.shop", path, "2");
        assert_eq!((Some(status), headers.get("x-ambit-explained")), (page.status, None), "{text}");
    }
    mesh.logged(&["path=/known", "method=POST", "status=200", "nothing was sent"]).await;
}

#[tokio::test]
async fn beside_a_response_an_administrator_is_told_what_has_happened() {
    let (mesh, service) = mesh(66).await;
    administrators(&mesh, &[service.clone(), none(&mesh)], &[WEB]);
    let (status, headers, text) = once(&mesh, WEB, service.vip, asking("GET", "/known", "beside")).await;
    let (told, address) = (beside(&headers), mesh.socket(1, HTTP).to_string());
    assert!(status == 200 && text.starts_with("v1 GET /known"), "{text}");
    let expected = json!({
        "chain": service.chain(),
        "route": "versioned",
        "rules": ["ALLOW shop/only-web, rules[1]"],
        "cluster": service.cluster(),
        "endpoint": {"address": address, "workload": "shop/billing", "identity": BILLING},
        "tried": [address],
        "attempts": 1,
        "status": 200,
    });
    assert_eq!(told, expected);
    for (method, path, status, reason, rule) in [
        ("DELETE", "/known", 403, "policy_denied_explicit", "DENY shop/no-delete, rules[0]"),
        ("GET", "/none", 503, "no_healthy_endpoint", "ALLOW shop/only-web, rules[1]"),
        ("GET", "/busy", 503, "route_direct_response", "ALLOW shop/only-web, rules[1]"),
        ("GET", "/", 404, "route_not_found", "ALLOW shop/only-web, rules[1]"),
    ] {
        let (got, headers, _) = once(&mesh, WEB, service.vip, asking(method, path, "beside")).await;
        let told = beside(&headers);
        assert_eq!(
            (got, &told["status"], &told["reason"], &told["rules"]),
            (status, &json!(status), &json!(reason), &json!([rule]))
        );
        assert!(told.get("endpoint").is_none(), "{told}");
        let (got, headers, _) = once(&mesh, OTHER, service.vip, asking(method, path, "beside")).await;
        assert!(got >= 400 && !headers.contains_key("x-ambit-explained"), "{got} {headers:?}");
    }
}

#[tokio::test]
async fn the_endpoint_that_is_named_has_answered_and_no_endpoint_sees_the_header() {
    let (mesh, service, seen) = billing(67).await;
    let second = endpoint::start(&mesh, 2, "v2", BILLING).await;
    let both = [1, 2].map(|host| Ep::Hbone(mesh.socket(host, HTTP), BILLING));
    mesh.endpoints(&service.cluster(), both.to_vec());
    let services = [service.clone()];
    administrators(&mesh, &services, &[WEB]);
    for _ in 0..6 {
        let (_, headers, text) = once(&mesh, WEB, service.vip, asking("GET", "/who", "beside")).await;
        let host = if text.starts_with("v1 ") { 1 } else { 2 };
        assert_eq!(beside(&headers)["endpoint"]["address"], mesh.socket(host, HTTP).to_string(), "{text}");
        assert!(!text.contains("x-ambit-explain"), "{text}");
    }
    let mut sender = http2(&mesh, WEB, service.vip).await;
    let request = Request::get("http://billing.shop/two").header("x-ambit-explain", "beside").body(Body::default()).unwrap();
    let (status, headers, text) = read(sender.send_request(request).await.unwrap()).await;
    assert_eq!((status, &beside(&headers)["status"]), (200, &json!(200)));
    assert!(!text.contains("x-ambit-explain"), "{text}");

    // Whoever else asks is served as if he had not, however he asks.
    for how in ["answer", "beside", "Answer"] {
        let mut nominated = asking("GET", "/other", how);
        nominated.headers_mut().insert("connection", "x-ambit-explain".parse().unwrap());
        for request in [asking("GET", "/other", how), nominated] {
            let (status, headers, text) = once(&mesh, OTHER, service.vip, request).await;
            assert!(status == 200 && text.contains(" GET /other "), "{status} {text}");
            assert!(!text.contains("x-ambit-explain") && !headers.contains_key("x-ambit-explained"), "{headers:?} {text}");
        }
    }
    assert!(metrics_handle().unwrap().render().contains("ambit_explain_requests_total{result=\"denied\"}"));

    // Who may, and has mistyped it, has nothing sent.
    let before = seen.requests() + second.requests();
    let (status, _, text) = once(&mesh, WEB, service.vip, asking("POST", "/typo", "anwser")).await;
    assert!(status == 400 && text.contains("answer or beside"), "{status} {text}");
    assert_eq!(seen.requests() + second.requests(), before);

    administrators(&mesh, &services, &[]);
    let (status, headers, text) = once(&mesh, WEB, service.vip, asking("GET", "/after", "answer")).await;
    assert!(status == 200 && text.contains(" GET /after ") && !headers.contains_key("x-ambit-explained"), "{status} {text}");
}
