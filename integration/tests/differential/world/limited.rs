//! How often requests may come: so few in an hour that which of them pass is known. Each is asked once, as it counts.

use serde_json::{Value, json};

use super::requests::{HTTP2, Request};
use super::{ACCOUNTS, Service, http_route, picked_address, request_policy, rule, service};
use crate::backend::PORTS;

const NAME: &str = "limited";

pub fn picked() -> Service {
    let redirect = json!({"filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "new.example"}}]});
    // Two matches are two routes to a waypoint, and one rule.
    let paths = ["/total", "/total-too"].map(|value| json!({"path": {"type": "PathPrefix", "value": value}}));
    let rules = vec![
        rule("total", "b0", &json!({"matches": paths})),
        rule("client", "b0", &json!({})),
        rule("header", "b1", &json!({})),
        rule("redirected", "", &redirect),
        rule("faulty", "b1", &json!({})),
        rule("plain", "b2", &json!({})),
    ];
    let local = |local: Value| json!({"rateLimit": {"local": local}});
    let mut faulty = local(json!({"requests": 1, "per": "hour"}));
    faulty["fault"] = json!({"abort": {"status": 503}, "headers": [{"name": "x-fault", "value": "abort"}]});
    let objects = vec![
        service(NAME, picked_address(15), PORTS[4]),
        http_route(NAME, rules),
        request_policy(NAME, "total", local(json!({"requests": 1, "per": "hour", "burst": 3}))),
        request_policy(NAME, "client", local(json!({"requests": 1, "per": "hour", "by": "Identity"}))),
        request_policy(NAME, "header", local(json!({"requests": 2, "per": "hour", "by": "Header", "header": "X-User"}))),
        request_policy(NAME, "redirected", local(json!({"requests": 1, "per": "hour"}))),
        request_policy(NAME, "faulty", faulty),
    ];
    Service { once: true, ..Service::picked(NAME, 15, objects, requests()) }
}

fn requests() -> Vec<Request> {
    let get = |path: &str| Request::new("GET", path, "svc.shop");
    let user = |name: &str| get("/header").with("x-user", name);
    vec![
        get("/total"),
        get("/total-too/below?q=1"),
        Request::new("POST", "/total", "svc.shop").with_body(true),
        get("/total"),
        get("/total-too").over(HTTP2),
        Request::new("HEAD", "/total", "svc.shop"),
        Request::new("POST", "/total", "svc.shop").with_body(true),
        get("/total").by(ACCOUNTS[1]),
        get("/total").call(),
        get("/total").call().over(HTTP2),
        get("/plain"),
        get("/client"),
        get("/client"),
        get("/client").by(ACCOUNTS[1]),
        get("/client").by(ACCOUNTS[1]).over(HTTP2),
        get("/client").by(ACCOUNTS[2]),
        user("ann"),
        user("bob"),
        user("ann").over(HTTP2),
        user("ann"),
        user("bob").by(ACCOUNTS[1]),
        user("bob").by(ACCOUNTS[2]),
        user("ANN"),
        get("/header"),
        get("/header"),
        get("/header"),
        get("/redirected"),
        get("/redirected"),
        // What a fault answers takes no token.
        get("/faulty").with("x-fault", "abort"),
        get("/faulty"),
        get("/faulty").with("x-fault", "abort"),
        get("/faulty"),
    ]
}
