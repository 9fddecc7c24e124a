//! Faults that RequestPolicies put in the way of requests: of all of those that they are for, so that nothing depends on chance.

use serde_json::{Value, json};

use super::requests::{HTTP2, Request};
use super::routes::Route;
use super::{HEADERS, Service, VALUES, http_route, picked_address, request_policy, rule, service};
use crate::backend::{PORTS, STATUS};
use crate::dice::Dice;

const NAME: &str = "faulty";

/// Mostly none; else one for its first route, or for the whole Service, and for requests with a header that others write as well.
pub fn of_service(dice: &mut Dice, service: &str, routes: &[Route]) -> Option<Value> {
    if !dice.one_in(5) {
        return None;
    }
    let own = routes.iter().find(|route| route.consumer.is_none()).filter(|_| dice.one_in(2));
    let target = match own {
        Some(route) => json!({
            "group": "gateway.networking.k8s.io", "kind": route.object["kind"], "name": route.object["metadata"]["name"],
        }),
        None => json!({"group": "", "kind": "Service", "name": service}),
    };
    let header = match dice.below(3) {
        0 => json!({"type": "RegularExpression", "name": dice.of(&HEADERS), "value": dice.of(&["v[0-9]+", ".*", "1|a b"])}),
        _ => json!({"name": dice.of(&HEADERS), "value": dice.of(&VALUES)}),
    };
    let mut fault = json!({"headers": [header]});
    let both = dice.one_in(4);
    if both || dice.one_in(2) {
        fault["delay"] = json!({"fixed": "20ms"});
    }
    if both || fault["delay"].is_null() {
        fault["abort"] = json!({"status": 500, "percent": 100});
    }
    Some(json!({
        "apiVersion": "ambit.dev/v1alpha1", "kind": "RequestPolicy", "metadata": {"name": service, "namespace": "shop"},
        "spec": {"targetRefs": [target], "fault": fault},
    }))
}

/// A service with a rule for each kind.
pub fn picked() -> Service {
    let retry = json!({"retry": {"attempts": 2, "codes": [503], "backoff": "10ms"}});
    let redirect = json!({"filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "new.example"}}]});
    let changed = json!({"filters": [
        {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-fault", "value": "abort"}]}},
        {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-answer", "value": "1"}]}},
    ]});
    let rules = vec![
        rule("aborted", "b0", &retry),
        rule("always", "b0", &json!({})),
        rule("delayed", "b0", &json!({})),
        rule("both", "b0", &json!({})),
        rule("never", "b0", &json!({})),
        rule("redirected", "", &redirect),
        rule("changed", "b0", &changed),
        rule("plain", "b1", &json!({})),
    ];
    let header = |value: &str| json!([{"name": "X-Fault", "value": value}]);
    let policy = |rule: &str, fault: Value| request_policy(NAME, rule, json!({"fault": fault}));
    let objects = vec![
        service(NAME, picked_address(12), PORTS[4]),
        http_route(NAME, rules),
        policy("aborted", json!({"abort": {"status": 503, "percent": 100}, "headers": header("abort")})),
        policy("always", json!({"abort": {"status": 418}})),
        policy("delayed", json!({"delay": {"fixed": "120ms"}})),
        policy("both", json!({"delay": {"fixed": "80ms"}, "abort": {"status": 429}, "headers": header("both")})),
        policy("never", json!({"delay": {"fixed": "9s", "percent": 0}, "abort": {"status": 503, "percent": 0}})),
        policy("redirected", json!({"abort": {"status": 503}, "headers": header("abort")})),
        policy("changed", json!({"abort": {"status": 500}, "headers": header("abort")})),
    ];
    Service::picked(NAME, 12, objects, requests())
}

fn requests() -> Vec<Request> {
    let get = |path: &str| Request::new("GET", path, "svc.shop");
    let mut requests = Vec::new();
    for path in ["/aborted", "/redirected/x?q=1", "/changed", "/plain"] {
        requests.extend([get(path), get(path).with("x-fault", "abort"), get(path).with("x-fault", "other")]);
    }
    requests.extend([
        get("/aborted").with("X-FAULT", "abort"),
        get("/aborted").with("x-fault", "abort").with("x-fault", "abort"),
        get("/aborted").with("x-fault", "abort").over(HTTP2),
        get("/aborted").with("x-fault", "abort").call(),
        get("/aborted").with("x-fault", "abort").call().over(HTTP2),
        Request::new("POST", "/aborted", "svc.shop").with("x-fault", "abort").with_body(true),
        Request::new("POST", "/aborted", "svc.shop").with("x-fault", "abort").with_body(false),
        Request::new("HEAD", "/aborted", "svc.shop").with("x-fault", "abort"),
        // What a backend answers is tried again, and what a fault does is not.
        get("/aborted").with(STATUS, "503,200"),
        get("/aborted").with("x-fault", "abort").with(STATUS, "503,200"),
        get("/always"),
        get("/always/below").over(HTTP2),
        get("/always").call(),
        Request::new("PUT", "/always", "svc.shop").with_body(true),
        get("/delayed"),
        get("/delayed").over(HTTP2),
        get("/delayed").with(STATUS, "500"),
        get("/delayed").call(),
        get("/both"),
        get("/both").with("x-fault", "both"),
        get("/both").with("x-fault", "both").over(HTTP2),
        get("/both").with("x-fault", "both").call(),
        get("/never"),
        get("/never").with(STATUS, "503"),
    ]);
    requests
}
