//! What is kept from one translation to the next is a matter of time alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use ambit_api::envoy::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use gateway_api::experimental::httproutes::HttpRoute;

use super::{index, input};
use crate::index::Index;
use crate::source::testing::objects;
use crate::source::{Event, NamespacedName, Object};
use crate::translate::waypoint::names::Layer;
use crate::translate::waypoint::wire::{bool_value, in_order};
use crate::translate::waypoint::{RouteMemory, route, scope, translate, translate_with};

macro_rules! with_billing {
    ($objects:literal) => {
        concat!(
            with_waypoint!(
                r#"
apiVersion: v1
kind: Service
metadata: {name: billing, namespace: shop}
spec: {clusterIP: 10.96.0.10, selector: {app: billing}, ports: [{name: http, port: 80}]}
"#
            ),
            $objects
        )
    };
}

/// A Service with routes of its own namespace and of another one.
const ROUTES: &str = with_billing!(
    r#"---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: billing}]
  rules:
    - {matches: [{path: {type: PathPrefix, value: /a}}, {path: {type: Exact, value: /a/b}}], backendRefs: [{name: billing, port: 80}]}
    - {backendRefs: [{name: billing, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: b, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: billing}]
  rules: [{matches: [{path: {type: PathPrefix, value: /b}}], backendRefs: [{name: billing, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: theirs, namespace: other}
spec:
  parentRefs: [{group: "", kind: Service, name: billing, namespace: shop}]
  rules: [{backendRefs: [{name: billing, namespace: shop, port: 80}]}]
"#
);

/// One of [`TWINS`], made in this second.
macro_rules! twin {
    ($name:literal, $second:literal) => {
        concat!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: ",
            $name,
            ", namespace: shop, creationTimestamp: \"2026-01-01T00:00:0",
            $second,
            r#"Z"}
spec:
  parentRefs: [{group: "", kind: Service, name: billing}]
  rules:
    - matches: [{path: {type: PathPrefix, value: /twice}}]
      filters: [{type: CORS, cors: {allowOrigins: ["https://"#,
            $name,
            r#".example"]}}]
      sessionPersistence: {type: Header, sessionName: x-session}
      retry: {attempts: 2}
      backendRefs: [{name: billing, port: 80}]
    - backendRefs: [{name: billing, port: 80}]
"#
        )
    };
}

/// A Service with two routes that match the same, of which the first by name is the younger one. Of each a match is two routes, of which two
/// filters are told something.
const TWINS: &str = concat!(with_billing!(""), twin!("a", "1"), twin!("b", "0"));

/// Holds what follows by what is remembered of each Gateway against what is made of nothing.
fn assert_same(index: &Index, gateways: &mut [(NamespacedName, RouteMemory)], after: &str) {
    for (gateway, memory) in gateways {
        let remembered = translate_with(index, gateway, &[], memory);
        assert!(remembered == translate(index, gateway), "{gateway}, after {after}");
    }
}

#[test]
fn the_bytes_are_the_same_with_a_memory_whatever_comes_and_goes() {
    let golden = ["whole", "routes", "policies", "requests", "hashes", "kinds", "edge", "authorizers", "processors", "logs"];
    let own = [("two", ROUTES.to_owned()), ("twins", TWINS.to_owned())];
    for (case, text) in golden.map(|case| (case, input(case))).into_iter().chain(own) {
        let mut index = index(&text);
        let gateways = index.objects().gateways.keys().cloned();
        let mut gateways: Vec<_> = gateways.map(|gateway| (gateway, RouteMemory::default())).collect();
        assert_same(&index, &mut gateways, case);
        let keys: Vec<_> = index.objects().keys().collect();
        for key in keys {
            let object = index.objects().get(&key).unwrap();
            if let Object::HttpRoute(route) = &object {
                let mut other = HttpRoute::clone(route);
                other.spec.rules.iter_mut().for_each(|rules| rules.reverse());
                index.apply(Event::Upsert(Object::HttpRoute(Arc::new(other))));
                assert_same(&index, &mut gateways, &format!("{case}: {key} has its rules in another order"));
            }
            index.apply(Event::Delete(key.clone()));
            assert_same(&index, &mut gateways, &format!("{case}: {key} is gone"));
            index.apply(Event::Upsert(object));
            assert_same(&index, &mut gateways, &format!("{case}: {key} is back"));
        }
    }
}

#[test]
fn only_what_is_other_than_before_is_translated_again() {
    let gateway = NamespacedName::new("shop", "waypoint");
    let (mut index, mut memory) = (index(ROUTES), RouteMemory::default());
    let mut translated = |index: &Index| {
        let before = memory.translated();
        assert!(translate_with(index, &gateway, &[], &mut memory).is_some());
        memory.translated() - before
    };
    assert_eq!(translated(&index), 3);
    assert_eq!(translated(&index), 0);
    let of = |name: &str| ROUTES.split("---\n").find(|text| text.contains(&format!("{{name: {name}, "))).unwrap().to_owned();
    let put = |index: &mut Index, text: &str| {
        let object = objects(text).remove(0);
        assert!(index.objects().get(&object.key()).as_ref() != Some(&object), "it is no change");
        index.apply(Event::Upsert(object));
    };
    let grpc =
        of("b").replace("HTTPRoute", "GRPCRoute").replace("{path: {type: PathPrefix, value: /b}}", "{method: {service: b}}");
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop, labels: {app: billing}}\nspec: {containers: []}\n";
    let named = |group: &str, kind: &str, spec: &str| {
        format!("apiVersion: {group}.istio.io/v1\nkind: {kind}\nmetadata: {{name: n, namespace: shop}}\nspec: {spec}\n")
    };
    let security = |kind: &str, spec: &str| named("security", kind, spec);
    let routing = |kind: &str, spec: &str| named("networking", kind, spec);
    for (text, expected) in [
        (of("b").replace("value: /b", "value: /c"), 1),
        (of("b").replace("name: b,", "name: c,"), 1),
        (of("theirs").replace("rules: [{", "rules: [{timeouts: {request: 1s}, "), 1),
        // Nothing that a route says.
        (of("a").replace("namespace: shop}", "namespace: shop, labels: {app: a}}"), 0),
        (pod.to_owned(), 0),
        ("apiVersion: v1\nkind: Node\nmetadata: {name: n}\n".to_owned(), 0),
        // What listeners are made by, and what is carried out in the place of routes.
        (security("AuthorizationPolicy", "{rules: [{}]}"), 0),
        (security("PeerAuthentication", "{mtls: {mode: STRICT}}"), 0),
        (security("RequestAuthentication", "{jwtRules: [{issuer: a}]}"), 0),
        (routing("VirtualService", "{hosts: [a], http: [{directResponse: {status: 403}}]}"), 0),
        // In the place of the HTTPRoutes of that namespace.
        (grpc.clone(), 1),
        (grpc.replace("name: b,", "name: c,"), 1),
        // A Service may be what a route leads to.
        (of("billing").replace("name: billing, namespace: shop", "name: other, namespace: shop"), 3),
        (of("billing").replace("port: 80", "port: 80, appProtocol: http"), 3),
    ] {
        put(&mut index, &text);
        assert_eq!(translated(&index), expected, "after\n{text}");
    }
}

#[test]
fn what_is_put_together_of_routes_is_the_table_that_is_made_of_them_at_once() {
    let index = index(TWINS);
    let waypoint = index.waypoint(&NamespacedName::new("shop", "waypoint")).unwrap();
    let ports = scope::ports(&index, &waypoint);
    let [port] = ports.as_slice() else { panic!("{ports:?}") };
    let routes = route::for_everyone(&index, port, &mut BTreeSet::new());
    let routes: Vec<_> = routes.into_iter().map(route::deadline::of_calls).collect();
    let names: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
    let expected = ["b/rule[0]", "b/rule[0]", "a/rule[0]", "a/rule[0]", "b/rule[1]", "a/rule[1]"];
    assert_eq!(names, expected.map(|name| format!("shop/{name}/match[0]")));
    let name = port.chain(Layer::Http);
    let whole = RouteConfiguration {
        name: name.clone(),
        virtual_hosts: vec![VirtualHost { name, domains: vec!["*".into()], routes, ..Default::default() }],
        validate_clusters: bool_value(false),
        most_specific_header_mutations_wins: true,
        ..Default::default()
    };
    let made = route::configuration(&index, port, &mut BTreeSet::new(), &mut RouteMemory::default());
    assert!(made.resource == in_order(whole));
}
