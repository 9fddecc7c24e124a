//! What VirtualServices make of requests.

use serde_json::Value;

use super::{of_waypoint, render};

const AROUND: &str = with_waypoint!(
    r#"
apiVersion: v1
kind: Service
metadata: {name: a, namespace: shop}
spec: {clusterIP: 10.96.0.10, selector: {app: a}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: b, namespace: shop}
spec: {clusterIP: 10.96.0.11, selector: {app: b}, ports: [{name: http, port: 8080}]}
"#
);
const A: &str = "inbound-vip|80|http|a.shop.svc.cluster.local";
const B: &str = "inbound-vip|8080|http|b.shop.svc.cluster.local";

/// A VirtualService of `a` with these rules.
fn service(name: &str, http: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{hosts: [a], http: {http}}}\n"
    )
}

/// The routes of `a`, with these objects besides.
fn routes(objects: &str) -> Vec<Value> {
    let resources = of_waypoint(&format!("{AROUND}{objects}"));
    let (_, table) = resources.routes.iter().find(|(known, _)| known == A).unwrap();
    render(table)["virtual_hosts"][0]["routes"].as_array().unwrap().clone()
}

#[test]
fn rules_hold_in_the_order_in_which_they_are_written() {
    let rules = "[{match: [{uri: {prefix: /a}}, {headers: {x-user: {regex: 'j.*'}}}], route: [{destination: {host: b}}]},
      {route: [{destination: {host: a}, weight: 3}, {destination: {host: b.shop.svc.cluster.local}, weight: 1}]}]";
    let routes = routes(&service("vs", rules));
    let [prefix, header, all, none] = routes.as_slice() else { panic!("{routes:#?}") };
    assert_eq!((&prefix["match"]["prefix"], &prefix["route"]["cluster"]), (&"/a".into(), &B.into()));
    assert_eq!((&header["match"]["headers"][0]["name"], &header["route"]["cluster"]), (&"x-user".into(), &B.into()));
    let clusters = all["route"]["weighted_clusters"]["clusters"].as_array().unwrap();
    let shares: Vec<_> = clusters.iter().map(|cluster| (cluster["name"].as_str().unwrap(), cluster["weight"].as_u64())).collect();
    assert_eq!(shares, [(A, Some(3)), (B, Some(1))]);
    assert_eq!(none["direct_response"]["status"], 404, "what no rule is for is not found");
}

#[test]
fn a_rule_of_which_something_is_not_carried_out_answers_with_500_and_the_others_hold() {
    for bad in [
        "delegate: {name: other}",
        "route: [{destination: {host: b}}], match: [{uri: {prefix: /x}, ignoreUriCase: true}]",
        "route: [{destination: {host: b}}], match: [{sourceLabels: {app: x}}]",
        "route: [{destination: {host: b}}], match: [{uri: {regex: '('}}]",
        "route: [{destination: {host: b}}], match: [{uri: {regex: '(x{1000}){100}'}}]",
        "route: [{destination: {host: b}}], match: [{withoutHeaders: {x-a: {regex: '('}}}]",
        "route: [{destination: {host: a}}, {destination: {host: b}}]",
        "redirect: {redirectCode: 399}",
    ] {
        let routes = routes(&service("vs", &format!("[{{{bad}}}, {{route: [{{destination: {{host: b}}}}]}}]")));
        assert_eq!(routes[0]["direct_response"]["status"], 500, "{bad}");
        assert!(routes[0]["match"].get("headers").is_none(), "{bad} narrows who is answered so: {routes:#?}");
        assert_eq!(routes[1]["route"]["cluster"], B, "{bad}");
    }
    for gone in ["{host: gone}", "{host: b, subset: v2}"] {
        let lost = routes(&service("vs", &format!("[{{route: [{{destination: {gone}}}]}}]")));
        assert_eq!(lost[0]["route"]["cluster"], "invalid-backend", "{gone}");
    }
}

#[test]
fn an_http_route_comes_before_a_virtual_service_and_what_is_not_for_the_mesh_does_nothing() {
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}\n\
                 spec: {parentRefs: [{group: '', kind: Service, name: a}], rules: [{backendRefs: [{name: b, port: 8080}]}]}\n";
    let redirect = service("vs", "[{redirect: {uri: /elsewhere}}]");
    assert_eq!(routes(&redirect)[0]["redirect"]["path_redirect"], "/elsewhere");
    assert_eq!(routes(&format!("{redirect}{route}"))[0]["route"]["cluster"], B);
    let outside = redirect.replace("hosts: [a]", "hosts: [a], gateways: [front]");
    assert_eq!(routes(&outside)[0]["route"]["cluster"], A);
    let both = redirect.replace("hosts: [a]", "hosts: [a], gateways: [front, mesh]");
    assert_eq!(routes(&both)[0]["redirect"]["path_redirect"], "/elsewhere");
}

#[test]
fn what_a_rule_says_of_a_request_is_done() {
    let rule = "[{match: [{uri: {exact: /old}, method: {exact: GET}}], route: [{destination: {host: b}}], timeout: 1.5s,
      rewrite: {uri: /new, authority: b.example}, retries: {attempts: 2, perTryTimeout: 500ms, retryOn: '5xx,409'},
      headers: {request: {set: {x-a: '1'}, remove: [X-B]}, response: {add: {x-c: '2'}}},
      mirrors: [{destination: {host: a}, percentage: {value: 50}}],
      fault: {abort: {httpStatus: 503, percentage: {value: 0.5}}}, corsPolicy: {allowOrigins: [{exact: 'https://a.example'}], maxAge: 1h}}]";
    let routes = routes(&service("vs", rule));
    assert_eq!(routes.len(), 2, "{routes:#?}");
    let action = &routes[0]["route"];
    assert_eq!((&action["timeout"], &action["host_rewrite_literal"]), (&"1.500s".into(), &"b.example".into()));
    assert_eq!(action["regex_rewrite"]["substitution"], "/new");
    assert_eq!(
        (&action["retry_policy"]["retry_on"], &action["retry_policy"]["num_retries"]),
        (&"5xx,retriable-status-codes".into(), &2.into())
    );
    assert_eq!(action["retry_policy"]["retriable_status_codes"][0], 409);
    assert_eq!(action["request_mirror_policies"][0]["cluster"], A);
    assert_eq!(routes[0]["request_headers_to_remove"][0], "x-b");
    let (told, said) =
        (r#""key":"x-envoy-expected-rq-timeout-ms","value":"500""#, routes[0]["request_headers_to_add"].to_string());
    assert!(said.contains(told), "{said}");
    let filters = routes[0]["typed_per_filter_config"].as_object().unwrap();
    assert!(filters.contains_key("envoy.filters.http.fault") && filters.contains_key("envoy.filters.http.cors"), "{filters:?}");
    let post = service("vs", "[{match: [{method: {exact: POST}}], route: [{destination: {host: b}}], retries: {attempts: 2}}]");
    let unseen = "connect-failure,refused-stream,reset-before-request";
    assert_eq!(self::routes(&post)[0]["route"]["retry_policy"]["retry_on"], unseen, "a write is sent again after it was seen");
}

#[test]
fn what_is_not_known_of_what_is_sent_again_for_is_left_out_and_the_rule_holds() {
    let of = |retries: &str| {
        let rule =
            format!("[{{match: [{{method: {{exact: GET}}}}], route: [{{destination: {{host: b}}}}], retries: {{{retries}}}}}]");
        let routes = routes(&service("vs", &rule));
        assert_eq!((routes.len(), &routes[0]["route"]["cluster"]), (2, &B.into()), "{retries}: {routes:#?}");
        routes[0]["route"]["retry_policy"].clone()
    };
    for (said, on) in [
        ("cancelled", "cancelled"),
        ("connect-failure,refused-stream,unavailable,cancelled", "connect-failure,refused-stream,unavailable,cancelled"),
        ("nonsense, 5xx,http3-post-connect-failure", "5xx"),
        ("unavailable,99,503", "unavailable,retriable-status-codes"),
    ] {
        assert_eq!(of(&format!("attempts: 2, retryOn: '{said}'"))["retry_on"], on, "{said}");
    }
    let unsaid = of("attempts: 2");
    assert_eq!(
        unsaid["retry_on"],
        "connect-failure,refused-stream,reset-before-request,unavailable,cancelled,retriable-status-codes"
    );
    assert_eq!(unsaid["retriable_status_codes"][0], 503);
    // Where nothing is left nothing is sent again, and the one try has its time.
    assert_eq!(of("attempts: 2, retryOn: nonsense"), Value::Null);
    let late = of("attempts: 2, retryOn: nonsense, perTryTimeout: 500ms");
    assert_eq!((&late["num_retries"], &late["per_try_timeout"]), (&0.into(), &"0.500s".into()));
    assert!(late.get("retry_on").is_none_or(|on| on == ""), "{late:#}");
}

#[test]
fn what_a_request_must_not_have_and_what_is_answered_are_said() {
    let rule = "[{match: [{withoutHeaders: {X-Skip: {}, x-user: {exact: jason}}, queryParams: {v: {prefix: '2'}}, sourceNamespace: front, port: 80}, {port: 81}],
      directResponse: {status: 403, body: {string: not here}}}]";
    let routes = routes(&service("vs", rule));
    assert_eq!(routes.len(), 2, "what is for another port is here: {routes:#?}");
    let header = &routes[0]["match"]["headers"][0];
    assert_eq!(
        (&header["name"], &header["invert_match"], &header["present_match"]),
        (&"x-skip".into(), &true.into(), &true.into())
    );
    let header = &routes[0]["match"]["headers"][1];
    assert_eq!((&header["name"], &header["treat_missing_header_as_empty"]), (&"x-user".into(), &true.into()));
    assert_eq!(routes[0]["match"]["query_parameters"][0]["string_match"]["prefix"], "2");
    let clients = routes[0]["match"]["filter_state"][0]["string_match"]["prefix"].as_str().unwrap();
    assert_eq!(clients, "spiffe://cluster.local/ns/front/sa/");
    assert_eq!(routes[0]["direct_response"]["body"]["inline_string"], "not here");
}

#[test]
fn a_rule_that_sends_to_one_service_keeps_the_sessions_that_it_asks_for_and_a_fault_without_a_share_is_none() {
    let sessions = "---\napiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {name: s, namespace: shop}\n\
                    spec: {targetRefs: [{group: '', kind: Service, name: b}], sessionPersistence: {sessionName: cart}}\n";
    let rules = "[{match: [{uri: {prefix: /a}, sourceNamespace: ''}], route: [{destination: {host: b}}], fault: {abort: {httpStatus: 503}}},
      {route: [{destination: {host: a}, weight: 1}, {destination: {host: b}, weight: 1}]}]";
    let routes = routes(&format!("{}{sessions}", service("vs", rules)));
    let kept = |route: &Value| route["typed_per_filter_config"].get("envoy.filters.http.stateful_session").is_some();
    assert_eq!((kept(&routes[0]), kept(&routes[1])), (true, false), "{routes:#?}");
    assert!(routes[0]["match"].get("filter_state").is_none(), "it is for clients of every namespace: {routes:#?}");
    let fault = &routes[0]["typed_per_filter_config"]["envoy.filters.http.fault"]["abort"];
    assert!(fault["percentage"].get("numerator").is_none_or(|of_hundred| of_hundred == 0), "{fault}");
    assert_eq!(fault["http_status"], 503);
}

#[test]
fn a_port_that_no_rule_is_for_has_the_routes_that_it_has_without_a_virtual_service() {
    let elsewhere = "{match: [{port: 81}, {gateways: [front]}], redirect: {uri: /elsewhere}}";
    let without = routes("");
    assert_eq!((without.len(), &without[0]["route"]["cluster"]), (1, &A.into()));
    assert_eq!(routes(&service("vs", &format!("[{elsewhere}]"))), without);
    let of_gateway = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}\n\
                      spec: {parentRefs: [{kind: Gateway, name: waypoint}], rules: [{backendRefs: [{name: b, port: 8080}]}]}\n";
    let as_all = routes(&format!("{}{of_gateway}", service("vs", &format!("[{elsewhere}]"))));
    assert_eq!(as_all[0]["route"]["cluster"], B, "{as_all:#?}");
    let some =
        routes(&service("vs", &format!("[{elsewhere}, {{match: [{{port: 80, uri: {{prefix: /a}}}}], redirect: {{uri: /b}}}}]")));
    assert_eq!((some.len(), &some[1]["direct_response"]["status"]), (2, &404.into()), "{some:#?}");
}

#[test]
fn backends_are_told_the_shortest_time_that_holds_for_them() {
    let told = |rule: &str| {
        let routes = routes(&service("vs", &format!("[{{route: [{{destination: {{host: b}}}}], {rule}}}]")));
        let added = routes[0]["request_headers_to_add"].as_array().cloned().unwrap_or_default();
        let header = added.iter().find(|option| option["header"]["key"] == "x-envoy-expected-rq-timeout-ms");
        header.map(|option| option["header"]["value"].as_str().unwrap().to_owned())
    };
    for (rule, expected) in [
        ("headers: {}", None),
        ("timeout: 1.5s", Some("1500")),
        ("timeout: 2s, retries: {attempts: 2, perTryTimeout: 500ms}", Some("500")),
        ("timeout: 2s, retries: {attempts: 2, perTryTimeout: 3s}", Some("2000")),
        ("timeout: 2s, retries: {attempts: 0, perTryTimeout: 500ms}", Some("2000")),
        ("retries: {attempts: 2, perTryTimeout: 500ms}", Some("500")),
        ("timeout: 2s, headers: {request: {set: {X-Envoy-Expected-Rq-Timeout-Ms: '7'}}}", None),
    ] {
        assert_eq!(told(rule).as_deref(), expected, "{rule}");
    }
}
