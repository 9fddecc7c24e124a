//! How large requests may be. An Envoy collects a body whole before it sends anything on, and has no limit of heads for a route; what of that
//! is seen is in `known.yaml`.

use serde_json::{Value, json};

use super::requests::{BODY, HTTP2, Request};
use super::{Service, http_route, picked_address, request_policy, rule, service};
use crate::backend::{PORTS, STATUS};

const NAME: &str = "sized";
/// The most that a head may take where there is a limit, beside which those of the others here are small.
const HEAD: usize = 800;

pub fn picked() -> Service {
    let redirect = json!({"filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "new.example"}}]});
    let retry = json!({"retry": {"attempts": 1, "codes": [503], "backoff": "10ms"}});
    let rules = vec![
        rule("small", "b0", &json!({})),
        rule("just", "b0", &retry),
        rule("heads", "b0", &json!({})),
        rule("redirected", "", &redirect),
        rule("plain", "b1", &json!({})),
    ];
    let policy = |rule: &str, limits: Value| request_policy(NAME, rule, json!({"limits": limits}));
    let objects = vec![
        service(NAME, picked_address(13), PORTS[4]),
        http_route(NAME, rules),
        policy("small", json!({"maxBodyBytes": BODY.len() - 1})),
        policy("just", json!({"maxBodyBytes": BODY.len()})),
        policy("heads", json!({"maxHeaderBytes": HEAD})),
        policy("redirected", json!({"maxBodyBytes": BODY.len() - 1})),
    ];
    Service::picked(NAME, 13, objects, requests())
}

fn requests() -> Vec<Request> {
    let get = |path: &str| Request::new("GET", path, "svc.shop");
    let post = |path: &str| Request::new("POST", path, "svc.shop");
    let mut requests = Vec::new();
    for path in ["/small", "/just", "/redirected", "/plain"] {
        requests.extend([
            get(path),
            get(path).over(HTTP2),
            post(path).with_body(true),
            post(path).with_body(true).over(HTTP2),
            post(path).with("content-length", "0"),
        ]);
    }
    let large = "l".repeat(HEAD);
    requests.extend([
        post("/small").with_body(false),
        post("/just").with_body(false),
        post("/plain").with_body(false),
        get("/small").call(),
        get("/just").call(),
        get("/small").call().over(HTTP2),
        Request::new("PUT", "/small", "svc.shop").with_body(true),
        Request::new("DELETE", "/small", "svc.shop").with_body(true),
        post("/just").with(STATUS, "503,200").with_body(true),
        get("/heads/under").with("x-large", &large[..HEAD / 8]),
        post("/heads/under").with_body(true),
        get("/heads/over").with("x-large", &large),
        get("/heads/over").with("x-large", &large).over(HTTP2),
        get("/heads/over").with("x-large", &large[..HEAD / 2]).with("x-other", &large[..HEAD / 2]),
        get("/plain").with("x-large", &large),
    ]);
    requests
}
