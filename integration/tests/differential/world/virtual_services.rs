//! A service whose requests a VirtualService routes: by headers, and with copies of all requests and of none.

use serde_json::{Value, json};

use super::requests::{HTTP2, Request};
use super::{Service, picked_address, service};
use crate::backend::{PORTS, STATUS};

const NAME: &str = "virtual";

pub fn picked() -> Service {
    let to = |backend: &str| json!([{"destination": {"host": backend}}]);
    let below = |path: &str| json!([{"uri": {"prefix": path}}]);
    let of_header = |name: &str, test: Value| json!([{"headers": {name: test}}]);
    let copies = json!({"host": "b3"});
    let changes = json!({
        "request": {"set": {"x-new": "1"}, "remove": ["x-two"]}, "response": {"add": {"x-answer": "2"}, "remove": ["x-remove-me"]},
    });
    // The first that matches holds, whatever the others ask for.
    let rules = json!([
        {
            "name": "copied", "match": below("/copied"), "route": to("b0"), "mirror": copies,
            "mirrorPercentage": {"value": 100.0},
        },
        {
            "name": "never", "match": below("/never"), "route": to("b0"), "mirror": copies,
            "mirrorPercentage": {"value": 0.0},
        },
        {"name": "whole", "match": below("/whole"), "route": to("b1"), "mirror": copies},
        {"name": "both", "match": [{"uri": {"exact": "/both"}, "headers": {"version": {"prefix": "v"}}}], "route": to("b2")},
        {"name": "without", "match": [{"uri": {"prefix": "/without"}, "withoutHeaders": {"x-one": {"exact": "1"}}}], "route": to("b2")},
        {"name": "exact", "match": of_header("x-one", json!({"exact": "1"})), "route": to("b1"), "headers": changes},
        {"name": "expression", "match": of_header("x-two", json!({"regex": "v[0-9]+"})), "route": to("b2")},
        {"name": "others", "route": to(NAME)},
    ]);
    let routes = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": NAME, "namespace": "shop"},
        "spec": {"hosts": [NAME], "http": rules},
    });
    Service::picked(NAME, 20, vec![service(NAME, picked_address(20), PORTS[4]), routes], requests())
}

fn requests() -> Vec<Request> {
    let get = |path: &str| Request::new("GET", path, "svc.shop");
    let mut requests = Vec::new();
    for path in ["/copied", "/never", "/whole"] {
        requests.extend([
            get(path),
            get(&format!("{path}/below?q=1")).with("x-one", "1"),
            get(path).over(HTTP2),
            get(path).with(STATUS, "500"),
            Request::new("POST", path, "svc.shop").with_body(true),
        ]);
    }
    for value in ["1", "2", "1,1", "v1", "v22", "V1", ""] {
        requests.extend(["/", "/both", "/both/below", "/without"].map(|path| get(path).with("x-one", value)));
        requests.push(get("/").with("X-Two", value));
        requests.push(get("/both").with("version", value));
    }
    requests.extend([
        get("/"),
        get("/both"),
        get("/without/below"),
        get("/").with("x-one", "1").with("x-two", "v1"),
        get("/").with("x-one", "1").with("x-two", "v1").over(HTTP2),
        get("/").with("x-two", "v1").with("x-two", "v2"),
        get("/").with("x-one", "1").call(),
    ]);
    requests
}
