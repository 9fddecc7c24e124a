//! Golden tests: `golden/<case>/in.yaml` through the directory source and the index, against `out.yaml` beside it.
//! `UPDATE_GOLDEN=1 cargo test -p istiod-lite golden` writes what the code gives now; read the difference before keeping it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ambit_identity::TrustDomain;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Map, Value};

use super::{Any, Resources, translate};
use crate::index::{Index, MeshConfig};
use crate::source::{Directory, NamespacedName, Source as _};

/// These objects, and a waypoint for their namespace.
macro_rules! with_waypoint {
    ($objects:literal) => {
        concat!(
            r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
"#,
            $objects
        )
    };
}

mod carried;
mod certificate;
mod edge;
mod fields;
mod hashes;
mod limiters;
mod logs;
mod memories;
mod of_all_kinds;
mod orders;
mod places;
mod processors;
mod secure;
mod sizes;
mod subsets;
mod tokens;
mod traces;
mod traffic;
mod upgrades;
mod virtual_service;
mod writes;

/// An index of the objects in some YAML.
pub(super) fn index(yaml: &str) -> Index {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("in.yaml"), yaml).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut source = {
        let _inside = runtime.enter();
        Directory::new(vec![directory.path().to_owned()]).unwrap()
    };
    let events = runtime.block_on(source.next()).unwrap();
    assert!(!source.problems().iter().any(|problem| problem.is_error()), "the fixture has errors: {:?}", source.problems());
    let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
    let mut index = Index::new(MeshConfig::new(trust_domain, "Kubernetes"));
    for event in events {
        index.apply(event);
    }
    index
}

pub(super) fn of_waypoint(yaml: &str) -> Resources {
    let index = index(yaml);
    // The only one, or the one at the edge.
    let gateway = index.objects().gateways.keys().next().unwrap();
    translate(&index, gateway).unwrap()
}

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/translate/waypoint/golden").join(name)
}

fn input(name: &str) -> String {
    std::fs::read_to_string(case(name).join("in.yaml")).unwrap()
}

/// Compares what the input of a case gives, reduced to what the case is about.
fn check(name: &str, look: impl Fn(&str, &str) -> bool) {
    let resources = of_waypoint(&input(name));
    let mut shown = Map::new();
    for (kind, of_kind) in kinds(&resources) {
        let chosen = of_kind.iter().filter(|(name, _)| look(kind, name));
        let rendered: Vec<Value> = chosen.map(|(_, resource)| render(resource)).collect();
        if !rendered.is_empty() {
            shown.insert(kind.into(), Value::Array(rendered));
        }
    }
    let got = serde_saphyr::to_string(&Value::Object(shown)).unwrap();
    let path = case(name).join("out.yaml");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &got).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    let first = wanted.lines().zip(got.lines()).position(|(wanted, got)| wanted != got);
    assert!(wanted == got, "{name}: out.yaml differs from line {:?} on; got\n{got}", first.map(|line| line + 1));
}

fn kinds(resources: &Resources) -> [(&'static str, &[(String, Any)]); 5] {
    [
        ("listeners", &resources.listeners),
        ("routes", &resources.routes),
        ("clusters", &resources.clusters),
        ("endpoints", &resources.endpoints),
        ("secrets", &resources.secrets),
    ]
}

/// A resource as Envoy's documentation writes it.
pub(super) fn render(resource: &Any) -> Value {
    let pool = descriptors();
    let any = pool.get_message_by_name("google.protobuf.Any").unwrap();
    let mut message = DynamicMessage::new(any);
    message.set_field_by_name("type_url", prost_reflect::Value::String(resource.type_url.clone()));
    message.set_field_by_name("value", prost_reflect::Value::Bytes(resource.value.clone().into()));
    let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
    sorted(message.serialize_with_options(serde_json::value::Serializer, &options).unwrap())
}

/// Maps in the order of their keys, so that a rendering has one form.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|one, other| one.0.cmp(&other.0));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(sorted).collect()),
        other => other,
    }
}

/// What describes Envoy's messages.
fn descriptors() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(ambit_api::ENVOY_DESCRIPTORS).unwrap())
}

#[test]
fn golden_whole_waypoint() {
    check("whole", |_, _| true);
}

#[test]
fn golden_routes() {
    check("routes", |kind, _| kind == "routes");
}

#[test]
fn golden_request_policies() {
    check("requests", |kind, _| kind == "routes");
}

#[test]
fn golden_secure_edge() {
    check("https", |kind, _| matches!(kind, "listeners" | "routes"));
}

#[test]
fn golden_traces() {
    check("traces", |kind, name| name == "main_internal" || kind == "clusters" && name.starts_with("tracing|"));
}

#[test]
fn golden_policies() {
    check("policies", |kind, name| name == "connect_terminate" && kind == "routes" || name == "main_internal");
}

#[test]
fn authorizers_are_asked_before_all_rules_and_those_of_nobody_deny() {
    let resources = of_waypoint(&input("authorizers"));
    let (_, listener) = resources.listeners.iter().find(|(name, _)| name == "main_internal").unwrap();
    let listener = render(listener);
    let chains = listener["filter_chains"].as_array().unwrap();
    let chain = |name: &str| chains.iter().find(|chain| chain["name"] == name).unwrap();
    let requests = &chain("inbound-vip|80|http|orders.shop.svc.cluster.local")["filters"][0]["typed_config"]["http_filters"];
    let filters = requests.as_array().unwrap();
    let names: Vec<&str> = filters.iter().map(|filter| filter["name"].as_str().unwrap().rsplit('.').next().unwrap()).collect();
    assert_eq!(
        names,
        ["rbac", "ext_authz", "rbac", "ext_authz", "rbac", "cors", "fault", "local_ratelimit", "stateful_session", "router"]
    );
    for (at, prefix) in [(0, "istio_ext_authz_guard_"), (2, "istio_ext_authz_portal_")] {
        let marks = &filters[at]["typed_config"];
        assert_eq!((&marks["rules"], &marks["shadow_rules_stat_prefix"]), (&Value::Null, &Value::from(prefix)));
        let key = &filters[at + 1]["typed_config"]["filter_enabled_metadata"]["path"][0]["key"];
        assert_eq!(*key, format!("{prefix}shadow_engine_result"));
    }
    let guard = &filters[1]["typed_config"]["grpc_service"]["envoy_grpc"];
    assert_eq!(guard["cluster_name"], "ext-authz|9000|grpc|guard.tools.svc.cluster.local");
    assert_eq!(guard["authority"], "guard.tools.svc.cluster.local");
    let portal = &filters[3]["typed_config"];
    assert_eq!(
        (&portal["failure_mode_allow"], &portal["http_service"]["path_prefix"]),
        (&Value::from(true), &Value::from("/check"))
    );
    let denied = filters[4]["typed_config"]["rules"]["policies"].to_string();
    assert!(denied.contains("policy[by-nobody]") && !denied.contains("by-guard"), "{denied}");
    // Of bytes nobody is asked.
    let connections = chain("inbound-vip|5432|tcp|orders.shop.svc.cluster.local").to_string();
    assert!(connections.contains("policy[by-guard]") && !connections.contains("ext_authz"), "{connections}");
    let named = |of_kind: &[(String, Any)], part: &str| of_kind.iter().any(|(name, _)| name == part);
    for (cluster, endpoints) in [
        ("ext-authz|9000|grpc|guard.tools.svc.cluster.local", "inbound-vip|9000|http|guard.tools.svc.cluster.local"),
        ("ext-authz|8000|http|tools/portal.example.com", "inbound-vip|8000|http|tools/portal.example.com"),
    ] {
        assert!(named(&resources.clusters, cluster) && named(&resources.endpoints, endpoints), "{cluster}");
    }
}

#[test]
fn administrators_are_told_to_the_inner_listener_alone_and_where_there_are_none_nothing_is() {
    let (yaml, key) = (input("authorizers"), "ambitExplain:");
    assert!(yaml.contains(key));
    for (yaml, some) in [(yaml.clone(), true), (yaml.replace(key, "ambitOther:"), false)] {
        for (name, listener) in &of_waypoint(&yaml).listeners {
            let metadata = render(listener)["metadata"].clone();
            if name != "main_internal" || !some {
                assert_eq!(metadata, Value::Null, "{name}");
                continue;
            }
            let expected = ["cluster.local/ns/ops/sa/debug", "cluster.local/ns/tools/sa/debug", "other.example/ns/ops/sa/debug"];
            let expected = expected.map(|rest| format!("spiffe://{rest}"));
            assert_eq!(metadata["filter_metadata"]["io.ambit"]["explain_administrators"], Value::from(expected.to_vec()));
        }
    }
}

#[test]
fn golden_waypoint_for_workloads() {
    check("direct", |kind, name| kind == "routes" || name == "main_internal");
}

#[test]
fn the_same_index_gives_the_same_bytes() {
    for name in
        ["whole", "routes", "policies", "requests", "direct", "kinds", "edge", "authorizers", "https", "processors", "logs"]
    {
        let first = of_waypoint(&input(name));
        for _ in 0..4 {
            assert_eq!(first, of_waypoint(&input(name)), "{name}");
        }
    }
}

#[test]
fn a_gateway_of_another_class_is_no_waypoint() {
    let yaml = input("direct").replace("istio-waypoint", "nginx");
    assert_eq!(translate(&index(&yaml), &NamespacedName::new("shop", "waypoint")), None);
}

/// A waypoint for an HTTP and a TCP service, with a route that another namespace writes.
fn with_foreign_route(parent: &str, gateway_listener: &str) -> String {
    let yaml = format!(
        r"
apiVersion: v1
kind: Namespace
metadata: {{name: shop, labels: {{istio.io/use-waypoint: waypoint}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: waypoint, namespace: shop}}
spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE{gateway_listener}}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: billing, namespace: shop}}
spec: {{clusterIP: 10.96.0.10, selector: {{app: billing}}, ports: [{{name: http, port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: storage, namespace: shop}}
spec: {{clusterIP: 10.96.0.11, selector: {{app: storage}}, ports: [{{name: tcp, port: 5432}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: trap, namespace: other}}
spec: {{clusterIP: 10.96.0.12, selector: {{app: trap}}, ports: [{{name: http, port: 80}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: steal, namespace: other}}
spec:
  parentRefs: [{parent}]
  rules: [{{backendRefs: [{{name: trap, port: 80}}]}}]
"
    );
    let resources = of_waypoint(&yaml);
    let all = kinds(&resources).into_iter().flat_map(|(_, list)| list);
    all.map(|(_, resource)| render(resource).to_string()).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_route_of_another_namespace_holds_on_a_gateway_only_when_the_gateway_takes_it() {
    let parent = "{kind: Gateway, name: waypoint, namespace: shop}";
    assert!(!with_foreign_route(parent, "").contains("trap.other"));
    assert!(!with_foreign_route(parent, ", allowedRoutes: {namespaces: {from: Same}}").contains("trap.other"));
    assert!(with_foreign_route(parent, ", allowedRoutes: {namespaces: {from: All}}").contains("trap.other"));
}

#[test]
fn a_route_of_another_namespace_does_not_make_a_tcp_port_http() {
    let rendered = with_foreign_route("{group: '', kind: Service, name: storage, namespace: shop}", "");
    assert!(rendered.contains("inbound-vip|5432|tcp|storage.shop.svc.cluster.local"), "{rendered}");
    assert!(!rendered.contains("inbound-vip|5432|http|storage.shop.svc.cluster.local"), "{rendered}");
}
