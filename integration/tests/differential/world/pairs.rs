//! Services with two endpoints, and which of them requests reach: by their session, or by their hash.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::requests::{HTTP2, Request};
use super::{Service, http_route, picked_address, rule, selecting};
use crate::backend::{PORTS, STATUS};

pub const SESSIONS: &str = "sessions";
/// By how many users requests are hashed.
const USERS: usize = 10;

pub fn picked() -> [Service; 3] {
    [sessions(), hashed("hashed-ring", 17, "RingHash"), hashed("hashed-table", 18, "Maglev")]
}

fn pair(name: &str, octet: u8) -> Value {
    selecting(name, picked_address(octet), PORTS[4], &json!({"pair": "yes"}))
}

/// Those without an end: an Envoy reckons ends by when its machine was started.
fn sessions() -> Service {
    let cookie = json!({"sessionPersistence": {"sessionName": "cart"}});
    let header = json!({"sessionPersistence": {"type": "Header", "sessionName": "x-session"}});
    let rules = vec![
        rule("cookie", SESSIONS, &cookie),
        rule("header", SESSIONS, &header),
        rule("one", "b0", &cookie),
        rule("one-by-header", "b0", &header),
        rule("closed", "closed", &header),
        rule("plain", "b1", &json!({})),
    ];
    let get = |path: &str| Request::new("GET", path, "svc.shop");
    let requests = ["/cookie", "/header", "/one", "/one-by-header"].into_iter();
    let mut requests: Vec<Request> = requests.flat_map(|path| [get(path), get(path).with(STATUS, "500")]).collect();
    requests.extend([
        get("/one/below?q=1").over(HTTP2),
        get("/one-by-header").over(HTTP2),
        get("/one-by-header").call(),
        Request::new("HEAD", "/one", "svc.shop"),
        get("/one").with("cookie", "cart="),
        get("/cookie").with("cookie", "cart=x"),
        get("/header").with("x-session", "nobody"),
        // Which nobody can be reached by: who answers tells of no endpoint.
        get("/closed"),
        get("/plain"),
    ]);
    Service::picked(SESSIONS, 16, vec![pair(SESSIONS, 16), http_route(SESSIONS, rules)], requests)
}

/// Requests that go on with a session with each of these, which are the two endpoints.
pub fn of_sessions(addresses: [IpAddr; 2]) -> Vec<Request> {
    let get = |path: &str| Request::new("GET", path, "svc.shop");
    let mut requests = Vec::new();
    for address in addresses {
        let name = name(SocketAddr::new(address, PORTS[4]));
        let (cookie, header) = (cookie(&name), BASE64_STANDARD.encode(&name));
        let by_cookie = |path: &str| get(path).with("cookie", &format!("cart=\"{cookie}\""));
        let by_header = |path: &str| get(path).with("x-session", &header);
        requests.extend([
            by_cookie("/cookie"),
            by_cookie("/cookie/below?q=1"),
            by_cookie("/cookie").over(HTTP2),
            by_cookie("/cookie").with(STATUS, "500"),
            get("/cookie").with("cookie", &format!("a=b; cart={cookie}; c=d")),
            by_header("/header"),
            by_header("/header").over(HTTP2),
            by_header("/header").with(STATUS, "503"),
            by_header("/header").call(),
            // Of another service: it is no endpoint of this one, and a new session begins.
            by_cookie("/one"),
            by_header("/one-by-header"),
            by_cookie("/plain"),
        ]);
    }
    requests
}

/// What both call an endpoint behind a tunnel.
fn name(address: SocketAddr) -> String {
    format!("envoy://connect_originate/{address}")
}

/// A message with the text as its first field (`source/extensions/http/stateful_session/cookie/cookie.proto`).
fn cookie(name: &str) -> String {
    let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
    BASE64_STANDARD.encode([&[10, length][..], name.as_bytes()].concat())
}

fn hashed(name: &str, octet: u8, policy: &str) -> Service {
    let policy = json!({
        "apiVersion": "ambit.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": name}],
            "loadBalancing": {"policy": policy, "hashOn": [{"header": "x-user"}, {"queryParameter": "user"}]},
        },
    });
    let get = |path: &str| Request::new("GET", path, "svc.shop");
    let mut requests = Vec::new();
    for user in 0..USERS {
        let user = format!("user-{user}");
        requests.push(get("/").with("x-user", &user));
        requests.push(get(&format!("/?user={user}")));
    }
    requests.extend([
        get("/?user=user-2").with("x-user", "user-1"),
        get("/").with("x-user", "user-1").with("x-user", "user-2"),
        get("/").with("X-USER", "user-3").over(HTTP2),
        get("/x?q=1&user=user-4"),
        get("/"),
    ]);
    Service::picked(name, octet, vec![pair(name, octet), policy], requests)
}
