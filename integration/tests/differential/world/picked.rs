//! Services and requests that were thought of, rather than come upon.

use std::net::Ipv4Addr;

use serde_json::json;

use super::{HTTP2, Request, Service, service};
use crate::backend::PORTS;

/// More fields of a head than a waypoint takes.
const FIELDS: usize = 150;

/// One service whose rules say by the backend which of them was taken, with a policy on paths, and what is hard to read alike.
pub fn service_of_paths() -> Service {
    // None that is given to what has no address of its own where files alone are asked.
    let (name, address) = ("picked", Ipv4Addr::new(10, 96, 250, 11));
    let rule =
        |matches: serde_json::Value, backend: &str| json!({"matches": matches, "backendRefs": [{"name": backend, "port": 80}]});
    let prefix = |value: &str| json!([{"path": {"type": "PathPrefix", "value": value}}]);
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": name, "port": 80}],
            "rules": [
                rule(prefix("/open"), "b0"),
                rule(prefix("/open/inner"), "b1"),
                rule(json!([{"path": {"type": "Exact", "value": "/open"}, "method": "PUT"}]), "b2"),
                rule(json!([{"path": {"type": "RegularExpression", "value": "/open/[0-9]+"}}]), "b2"),
                rule(json!([{"queryParams": [{"name": "q", "value": "1"}]}]), "b1"),
                rule(json!([{"headers": [{"name": "x-one", "value": "1"}]}]), "b2"),
                rule(prefix("/"), name),
            ],
        },
    });
    let policy = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "action": "DENY", "targetRefs": [{"group": "", "kind": "Service", "name": name}],
            "rules": [{"to": [{"operation": {"paths": ["/secret", "/secret/*", "*/hidden"]}}]}],
        },
    });
    let objects = vec![service(name, address, PORTS[4]), route, policy];
    Service { name: name.to_owned(), address, objects, requests: requests(), once: false, seldom: false }
}

fn requests() -> Vec<Request> {
    let paths = [
        "/",
        "/open",
        "/open/",
        "/open//",
        "//open",
        "/open/inner",
        "/open/inner/",
        "/open/innermost",
        "/open/12",
        "/open/12/",
        "/Open",
        "/secret",
        "/secret/",
        "//secret",
        "/./secret",
        "/open/../secret",
        "/open/%2e%2e/secret",
        "/open/%2E%2E%2Fsecret",
        "/%73ecret",
        "/secret%2f",
        "/secret%00",
        "/secret?",
        "/secret?x",
        "/secret;x",
        "/secret#x",
        "/SECRET",
        "/secret/..",
        "/secret/../open",
        "\\secret",
        "/open\\..\\secret",
        "/open/..\\secret",
        "/x/hidden",
        "/x/hidden/",
        "/x/hidden?",
        "/..",
        "/../..",
        "/...",
        "/.",
        "/%",
        "/%2",
        "/%zz",
        "/open?q=1",
        "/?q=1",
        "/?q=1&q=2",
        "/?q=2&q=1",
        "/?Q=1",
        "/?q=%31",
        "/?q",
        "/?q=",
        "/?&q=1",
        "/?q=1;x",
        "/?%71=1",
        "/?x=?q=1",
        "/?",
        "/??",
        "/open?/../secret",
        "*",
        "open",
        "",
        "http://svc.shop/open",
        "http://other.example/secret",
        "https://svc.shop/open",
        "http://svc.shop",
        "http://user@svc.shop/open",
        "/caf\u{e9}",
        "/a%C3%28",
        "/a|b",
        "/a\"b",
        "/a<b>",
        "/a{b}",
        "/a^b",
        "/a`b",
        "/a:b",
        "/a@b",
        "/a,b",
        "/a+b",
        "/a b",
        "/a&b",
        "/a=b",
    ];
    let mut requests: Vec<Request> = paths.iter().map(|path| Request::new("GET", path, "svc.shop")).collect();
    let hosts = [
        "",
        "svc.shop:",
        "svc.shop:80",
        "svc.shop:99999",
        "user@svc.shop",
        "svc shop",
        "svc_shop",
        "[::1]",
        "::1",
        "svc.shop,x",
        "svc.shop/x",
    ];
    requests.extend(hosts.iter().map(|host| Request::new("GET", "/open", host)));
    let methods = ["OPTIONS", "HEAD", "TRACE", "CONNECT", "BREW", "get", "PURGE", "M-SEARCH"];
    requests.extend(methods.iter().map(|method| Request::new(method, "/open", "svc.shop")));
    let asked = || Request::new("GET", "/open", "svc.shop");
    requests.extend([
        asked().with("host", "svc.shop"),
        asked().with("x-one", "1").with("x-one", "2"),
        asked().with("x-one", " 1 "),
        asked().with("X-ONE", "1"),
        asked().with("x-one", "\u{e9}"),
        asked().with("connection", "close, x-one").with("x-one", "1"),
        asked().with("connection", "host"),
        asked().with("content-length", "0"),
        asked().with("transfer-encoding", "gzip"),
        asked().with("content-length", "5").with_body(false),
        asked().with_body(false).with("content-length", "5"),
        asked().with("upgrade", "websocket"),
        asked().with("expect", "100-continue"),
        asked().with("expect", "other"),
        asked().with("content-type", "application/grpc"),
        asked().with("proxy-connection", "keep-alive").with("proxy-authorization", "Basic eDp5"),
        asked().with("trailer", "x-one"),
        asked().with("te", "trailers, deflate"),
        Request { version: "HTTP/1.0", ..asked() },
        Request { version: "HTTP/1.0", headers: Vec::new(), ..asked() },
        Request { headers: Vec::new(), ..asked() },
        Request { method: "OPTIONS".to_owned(), target: "*".to_owned(), ..asked() },
    ]);
    let of_many =
        |version| (0..FIELDS).fold(asked().over(version), |request, field| request.with(&format!("x-many-{field}"), "1"));
    requests.extend([of_many("HTTP/1.1"), of_many(HTTP2)]);
    requests
}
