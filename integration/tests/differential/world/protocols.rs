//! A service that says that it speaks HTTP/2 in clear, whatever its clients speak.

use serde_json::json;

use super::requests::{HTTP2, Request};
use super::{Service, http_route, picked_address, rule, service};
use crate::backend::{PORTS, STATUS};

const NAME: &str = "h2c";

pub fn picked() -> Service {
    let mut own = service(NAME, picked_address(21), PORTS[4]);
    own["spec"]["ports"][0]["appProtocol"] = "kubernetes.io/h2c".into();
    let retry = json!({"retry": {"attempts": 2, "codes": [503], "backoff": "10ms"}});
    let rules = vec![rule("again", NAME, &retry), rule("plain", NAME, &json!({})), rule("other", "b0", &json!({}))];
    Service::picked(NAME, 21, vec![own, http_route(NAME, rules)], requests())
}

fn requests() -> Vec<Request> {
    let get = |path: &str| Request::new("GET", path, "svc.shop");
    let post = |path: &str| Request::new("POST", path, "svc.shop");
    let mut requests = Vec::new();
    for path in ["/again", "/plain", "/other"] {
        requests.extend([
            get(path),
            get(&format!("{path}/below?q=1")).over(HTTP2),
            get(path).with(STATUS, "503,200"),
            get(path).with(STATUS, "404"),
            get(path).with("connection", "close, x-one").with("x-one", "1"),
            post(path).with_body(true),
            post(path).with_body(false),
            post(path).with_body(true).over(HTTP2),
            post(path).call(),
            post(path).call().over(HTTP2),
            Request::new("HEAD", path, "svc.shop"),
        ]);
    }
    requests
}
