//! How long answers may take, and how long streams may be silent and last. Each of these requests takes as long as its time: they are few.

use serde_json::json;

use super::requests::{HTTP2, Request};
use super::{Service, http_route, picked_address, request_policy, rule, service};
use crate::backend::{DELAY, PORTS, STATUS};

const NAME: &str = "timed";
/// Longer than any time here.
const LATE: &str = "1500";

pub fn picked() -> Service {
    let retry = json!({"attempts": 1, "codes": [503, 504], "backoff": "10ms"});
    let rules = vec![
        rule("whole", "b0", &json!({"timeouts": {"request": "250ms"}})),
        rule("each", "b1", &json!({"timeouts": {"request": "2s", "backendRequest": "200ms"}, "retry": retry})),
        rule("one", "b1", &json!({"timeouts": {"backendRequest": "200ms"}})),
        rule("silent", "b2", &json!({})),
        rule("lasting", "b2", &json!({})),
        // The time of a route begins when the fault is over.
        rule("delayed", "b0", &json!({"timeouts": {"request": "600ms"}})),
    ];
    let objects = vec![
        service(NAME, picked_address(14), PORTS[4]),
        http_route(NAME, rules),
        request_policy(NAME, "silent", json!({"timeouts": {"idle": "250ms"}})),
        request_policy(NAME, "lasting", json!({"timeouts": {"idle": "1h", "stream": "250ms"}})),
        request_policy(NAME, "delayed", json!({"fault": {"delay": {"fixed": "400ms"}}})),
    ];
    Service::picked(NAME, 14, objects, requests())
}

fn requests() -> Vec<Request> {
    let get = |path: &str| Request::new("GET", path, "svc.shop");
    let late = |path: &str| get(path).with(DELAY, LATE);
    let mut requests = Vec::new();
    for path in ["/whole", "/each", "/one", "/silent", "/lasting"] {
        requests.extend([get(path), late(path)]);
    }
    requests.extend([
        late("/whole").over(HTTP2),
        late("/silent").over(HTTP2),
        late("/lasting").over(HTTP2),
        Request::new("POST", "/whole", "svc.shop").with(DELAY, LATE).with_body(true),
        Request::new("POST", "/silent", "svc.shop").with(DELAY, LATE).with_body(true),
        get("/whole").with(STATUS, "404"),
        get("/each").with(STATUS, "503,200"),
        get("/delayed").with(DELAY, "300"),
    ]);
    requests
}
