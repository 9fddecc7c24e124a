//! Endpoints that end in the place of an answer. All requests here are such as may not arrive twice: others ours sends once more where the
//! connection was at hand, which depends on what was asked before.

use serde_json::json;

use super::requests::{HTTP2, Request};
use super::{Service, http_route, picked_address, rule, service};
use crate::backend::{ENDS, PORTS, STATUS};

const NAME: &str = "broken";

pub fn picked() -> Service {
    let retry = json!({"retry": {"attempts": 2, "codes": [503], "backoff": "10ms"}});
    let rules = vec![rule("again", "b0", &retry), rule("plain", "b1", &json!({}))];
    let objects = vec![service(NAME, picked_address(22), PORTS[4]), http_route(NAME, rules)];
    Service::picked(NAME, 22, objects, requests())
}

fn requests() -> Vec<Request> {
    let post = |path: &str| Request::new("POST", path, "svc.shop").with(STATUS, ENDS);
    let mut requests = Vec::new();
    for path in ["/again", "/plain"] {
        requests.extend([
            post(path).with_body(true),
            post(path).with_body(false),
            post(path).with_body(true).over(HTTP2),
            post(path).call(),
            post(path).call().over(HTTP2),
        ]);
    }
    requests
}
