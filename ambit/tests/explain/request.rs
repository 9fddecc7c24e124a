//! `ambit explain request` as a user runs it, on the demonstration's files.

use std::process::Command;

use serde_json::Value;

use super::{Demo, run};

impl Demo {
    fn request(&self, from: &str, asked: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ambit"));
        command.args(["explain", "request", "--from", from, "--dir"]).arg(self.0.path()).args(asked);
        run(command)
    }

    fn json(&self, from: &str, asked: &[&str]) -> (i32, Value) {
        let (code, said, error) = self.request(from, &[asked, &["--json"]].concat());
        (code, serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}\n{error}")))
    }
}

const BILLING: &str = "http://billing.billing:8080/invoices/1";
/// A route for the new version before the one of the demonstration, with all that a route can say.
const TRIED: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: tried, namespace: billing}
spec:
  parentRefs: [{group: "", kind: Service, name: billing, port: 8080}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /invoices}, headers: [{name: x-tried, value: "yes"}]}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-set, value: one}]}
    - type: URLRewrite
      urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /bills}}
    backendRefs: [{name: billing-v2, port: 8080}]
    timeouts: {request: 3s}
  - matches: [{path: {type: Exact, value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example, statusCode: 302}}]
"#;

#[test]
fn a_request_is_told_to_its_clusters_and_their_endpoints() {
    let (code, said, error) = Demo::new().request("shop/api-1", &["GET", BILLING]);
    assert_eq!(code, 0, "{said}{error}");
    assert!(said.starts_with(&format!("shop/api-1 -> GET {BILLING}\nALLOWED\n")), "{said}");
    for part in [
        "assumed: the waypoint billing/waypoint runs and is ready",
        "shop/api-1 is captured, as spiffe://cluster.local/ns/shop/sa/api",
        "through the waypoint billing/waypoint, HBONE to ",
        "its requests are for the filter chain inbound-vip|8080|http|billing.billing.svc.cluster.local",
        "because the ALLOW rule billing/who-may-bill, rules[0] matches",
        "the route billing/billing/rule[0]/match[0] takes it",
        "because inbound-vip|8080|http|billing-v1.billing.svc.cluster.local has 95 of 100",
        "because inbound-vip|8080|http|billing-v2.billing.svc.cluster.local has 5 of 100",
        "because billing/billing-v1 at ",
        "HBONE, must prove spiffe://cluster.local/ns/billing/sa/billing",
        "billing/billing-v2 lets spiffe://cluster.local/ns/billing/sa/waypoint in",
    ] {
        assert!(said.contains(part), "{part}:\n{said}");
    }
}

#[test]
fn a_refused_request_names_the_rule_that_decided_and_where_the_others_differ() {
    let demo = Demo::new();
    let (code, told) = demo.json("shop/web-1", &["GET", BILLING]);
    assert_eq!((code, &told["verdict"], &told["status"]), (1, &"refused".into(), &403.into()), "{told:#}");
    assert_eq!(told["reason"], "policy_denied_no_allow_match", "{told:#}");
    let said = demo.request("shop/web-1", &["GET", BILLING]).1;
    let differs = "the ALLOW rule billing/who-may-bill, rules[0] does not match: it asks that the client's identity is \
                   \"spiffe://cluster.local/ns/shop/sa/api\", and it is \"spiffe://cluster.local/ns/shop/sa/web\"";
    assert!(said.contains(differs) && said.contains("\nREFUSED (policy_denied_no_allow_match, answered with 403)\n"), "{said}");

    let (code, told) = demo.json("shop/api-1", &["DELETE", BILLING]);
    let differs = &told["ways"][0]["decided"]["policies"][0]["differs"];
    assert_eq!((code, &differs["field"], &differs["seen"]), (1, &"method".into(), &"DELETE".into()), "{told:#}");

    demo.switch_on("deny-billing.yaml");
    assert_eq!(demo.request("shop/api-1", &["GET", BILLING]).0, 0);
    let (code, told) = demo.json("shop/api-1", &["POST", BILLING]);
    assert_eq!((code, &told["reason"]), (1, &"policy_denied_explicit".into()), "{told:#}");
    assert_eq!(told["ways"][0]["policy"], "billing/no-invoices", "{told:#}");
}

#[test]
fn routes_that_were_left_and_what_the_one_that_was_taken_does_are_told() {
    let demo = Demo::new();
    std::fs::write(demo.0.path().join("tried.yaml"), TRIED).unwrap();
    let (code, said, _) = demo.request("shop/api-1", &["GET", BILLING]);
    let left =
        "the route billing/tried/rule[0]/match[0] is not for it: it asks that the header x-tried is \"yes\", and there is none";
    assert!(code == 0 && said.contains(left), "{said}");
    assert!(said.contains("the route billing/billing/rule[0]/match[0] takes it"), "{said}");

    let (code, said, _) = demo.request("shop/api-1", &["GET", BILLING, "-H", "x-tried: yes"]);
    for part in [
        "the route billing/tried/rule[0]/match[0] takes it",
        "because the path becomes \"/bills/1\"",
        "because the header x-set becomes \"one\"",
        "because the response must end within 3s of the end of the request",
    ] {
        assert!(code == 0 && said.contains(part), "{part}:\n{said}");
    }
    let (code, told) = demo.json("shop/api-1", &["GET", "http://billing.billing:8080/old"]);
    assert_eq!((code, &told["status"]), (0, &302.into()), "{told:#}");
}

#[test]
fn an_endpoint_that_refuses_the_waypoint_refuses_the_request() {
    let demo = Demo::new();
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: nobody, namespace: billing}\n\
                  spec: {selector: {matchLabels: {app: billing, version: v1}}, action: DENY, rules: [{}]}\n";
    std::fs::write(demo.0.path().join("nobody.yaml"), policy).unwrap();
    let (code, told) = demo.json("shop/api-1", &["GET", BILLING]);
    assert_eq!((code, &told["verdict"]), (2, &"unknown".into()), "one of two versions refuses: {told:#}");
    let (code, told) = demo.json("shop/api-1", &["GET", "http://billing-v1.billing:8080/"]);
    assert_eq!((code, &told["reason"], &told["status"]), (1, &"policy_denied_explicit".into(), &503.into()), "{told:#}");
}

#[test]
fn where_there_is_no_waypoint_the_connection_is_the_answer() {
    let demo = Demo::new();
    let (code, said, _) = demo.request("shop/web-1", &["GET", "http://api:8080/"]);
    assert!(code == 0 && said.starts_with("shop/web-1 -> GET http://api:8080/\nALLOWED\n  no waypoint handles it"), "{said}");
    demo.switch_on("deny-web.yaml");
    let (code, told) = demo.json("shop/web-1", &["GET", "http://api:8080/"]);
    assert_eq!((code, &told["reason"]), (1, &"policy_denied_explicit".into()), "{told:#}");
}

#[test]
fn what_is_no_request_is_said() {
    let demo = Demo::new();
    for (asked, why) in [
        (&["GET", "https://billing.billing:8080/"][..], "inside TLS"),
        (&["GET", "billing.billing/x"][..], "it is not of the form http://"),
        (&["G T", BILLING][..], "is no method"),
        (&["GET", BILLING, "-H", "x"][..], "is not of the form NAME:VALUE"),
        (&["GET", "http://biling.billing:8080/"][..], "near are "),
    ] {
        let (code, said, error) = demo.request("shop/api-1", asked);
        assert!(code == 2 && said.is_empty() && error.contains(why), "{asked:?}: {said}{error}");
    }
}
