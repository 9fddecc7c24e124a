//! What is in force of objects that are not as they should be.

use serde_json::{Value, json};

use super::{made, problems};
use crate::index::{Index, MeshConfig};
use crate::source::crd::tokens::RequestAuthentication;
use crate::source::object::{Event, Kind, NamespacedName, Object};
use crate::source::testing::objects;
use crate::translate::authorization::policies_of_pod;

fn policy(spec: Value) -> Value {
    json!({"metadata": {"namespace": "shop", "name": "it"}, "spec": spec})
}

#[test]
fn a_configuration_of_the_mesh_that_cannot_be_read_leaves_the_last_one_in_force() {
    let kind = Kind::MeshSettings;
    let map = |mesh: &str| {
        let metadata = json!({"namespace": "istio-system", "name": "istio", "resourceVersion": "7"});
        json!({"metadata": metadata, "data": {"mesh": mesh, "meshNetworks": "x"}, "binaryData": {}, "immutable": false})
    };
    let good = made(kind, &map("extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: a.b, port: 1}}]"), None);
    assert!(good.object.is_some() && good.problems.is_empty(), "{:?}", good.problems);
    let broken = made(kind, &map("["), good.object.as_ref());
    assert_eq!(broken.object, good.object);
    assert!(problems(&broken)[0].contains("data.mesh: not valid YAML"), "{:?}", problems(&broken));
    assert_eq!(made(kind, &map("["), None).object, None);
}

#[test]
fn a_policy_that_cannot_be_read_leaves_the_last_one_or_the_strictest_in_force() {
    let kind = Kind::AuthorizationPolicy;
    let good =
        policy(json!({"selector": {"matchLabels": {"app": "web"}}, "rules": [{"from": [{"source": {"namespaces": ["a"]}}]}]}));
    let held = made(kind, &good, None);
    assert!(held.problems.is_empty(), "{:?}", held.problems);
    // A field that narrows what is allowed and that we do not know must not be passed over.
    let source = json!({"namespaces": ["a"], "moonPhases": ["full"]});
    let newer = policy(json!({"selector": {"matchLabels": {"app": "web"}}, "rules": [{"from": [{"source": source}]}]}));
    let after = made(kind, &newer, held.object.as_ref());
    assert_eq!(after.object, held.object);
    assert_eq!(
        problems(&after),
        [
            "cluster: AuthorizationPolicy shop/it: spec.rules[0].from[0].source.moonPhases: unknown field; until it is mended what was in \
          force before stays"
        ]
    );
    let alone = made(kind, &newer, None);
    let Some(Object::AuthorizationPolicy(strict)) = &alone.object else { panic!("{alone:?}") };
    assert_eq!(
        serde_json::to_value(&strict.spec).unwrap(),
        json!({
            "selector": {"matchLabels": {"app": "web"}}, "action": "DENY", "rules": [{}]
        })
    );
    // What it selects cannot be read either: all of the namespace.
    let narrower = policy(json!({"selector": {"matchExpressions": []}}));
    let Some(Object::AuthorizationPolicy(strict)) = made(kind, &narrower, None).object else { panic!() };
    assert_eq!(serde_json::to_value(&strict.spec).unwrap(), json!({"action": "DENY", "rules": [{}]}));
    assert_eq!(made(kind, &policy(json!({"action": "AUDIT", "rules": 3})), None).object, None);
    let Some(Object::PeerAuthentication(strict)) =
        made(Kind::PeerAuthentication, &policy(json!({"mtls": {"mode": "ODD"}})), None).object
    else {
        panic!()
    };
    assert_eq!(serde_json::to_value(&strict.spec).unwrap(), json!({"mtls": {"mode": "STRICT"}}));
}

#[test]
fn a_grant_with_a_condition_that_we_do_not_know_grants_nothing() {
    let kind = Kind::ReferenceGrant;
    let from = json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "web"});
    let to = json!([{"group": "", "kind": "Service"}]);
    let good = made(kind, &policy(json!({"from": [from], "to": to})), None);
    assert!(good.problems.is_empty() && good.object.is_some(), "{good:?}");
    let mut narrower = from;
    narrower["moonPhases"] = json!(["full"]);
    let narrower = policy(json!({"from": [narrower], "to": to}));
    let read = made(kind, &narrower, None);
    assert_eq!(read.object, None);
    let told = problems(&read);
    assert!(told.len() == 1 && told[0].contains("spec.from[0].moonPhases") && told[0].ends_with("it has no effect"), "{told:?}");
    assert_eq!(made(kind, &narrower, good.object.as_ref()).object, good.object);
}

#[test]
fn what_is_not_understood_elsewhere_is_told_or_passed_over() {
    let route =
        json!({"metadata": {"namespace": "shop", "name": "it"}, "spec": {"rules": [], "sorcery": 1}, "status": {"parents": 7}});
    let read = made(Kind::HttpRoute, &route, None);
    assert!(read.object.is_some());
    let told = problems(&read);
    assert!(told.iter().any(|problem| problem.contains("spec.sorcery: unknown field, without effect")), "{told:?}");
    assert!(
        told.iter().any(|problem| problem.contains("status.parents") && problem.contains("the status is not read")),
        "{told:?}"
    );
    assert!(read.problems.iter().all(|problem| !problem.is_error()));
    let pod = json!({"metadata": {"namespace": "shop", "name": "it"}, "spec": {"containers": [], "fromTheFuture": {}}});
    assert!(made(Kind::Pod, &pod, None).problems.is_empty());
}

#[test]
fn a_peer_authentication_that_cannot_be_read_is_strict_whatever_is_older_or_closer_to_the_pod() {
    let pod = objects(
        "{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {containers: []}}",
    );
    let [Object::Pod(pod)] = pod.as_slice() else { panic!("{pod:?}") };
    let readable = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: all, namespace: shop, creationTimestamp: '2020-01-01T00:00:00Z'}
spec: {mtls: {mode: PERMISSIVE}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: web, namespace: shop, creationTimestamp: '2020-01-01T00:00:00Z'}
spec: {selector: {matchLabels: {app: web}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {80: {mode: STRICT}}}
";
    let mut index = Index::new(MeshConfig::new("cluster.local".parse().unwrap(), "Kubernetes"));
    for object in objects(readable) {
        index.apply(Event::Upsert(object));
    }
    let before = ["shop/converted_peer_authentication_web"];
    assert_eq!(policies_of_pod(&index, pod), before);
    let odd = json!({"mode": "ODD"});
    let strict = ["istio-system/istio_converted_static_strict"];
    for (spec, expected) in [
        (json!({ "mtls": odd }), strict),
        (json!({"selector": {"matchLabels": {"app": "web"}}, "mtls": odd}), strict),
        // What it selects cannot be read.
        (json!({"selector": {"matchExpressions": []}, "mtls": {"mode": "PERMISSIVE"}}), strict),
        (json!({"selector": {"matchLabels": {"app": "api"}}, "mtls": odd}), before),
    ] {
        let object = made(Kind::PeerAuthentication, &policy(spec.clone()), None).object.unwrap();
        let key = object.key();
        index.apply(Event::Upsert(object));
        assert_eq!(policies_of_pod(&index, pod), expected, "{spec}");
        index.apply(Event::Delete(key));
        assert_eq!(policies_of_pod(&index, pod), before, "after {spec}");
    }
}

#[test]
fn a_request_authentication_that_cannot_be_read_refuses_every_request_to_its_targets() {
    let kind = Kind::RequestAuthentication;
    let service = json!({"group": "", "kind": "Service", "name": "a"});
    let odd = json!([{"issuer": "i", "fromTheFuture": "x"}]);
    let text = "
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gate, namespace: shop}, spec: {gatewayClassName: istio-waypoint, listeners: []}}
---
{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {ports: [{port: 80}]}}
";
    let mut index = Index::new(MeshConfig::new("cluster.local".parse().unwrap(), "Kubernetes"));
    objects(text).into_iter().for_each(|object| _ = index.apply(Event::Upsert(object)));
    let name = |name: &str| NamespacedName::new("shop", name);
    for (spec, at_service, at_gateway) in [
        (json!({"targetRefs": [service], "jwtRules": odd}), true, false),
        (json!({"targetRef": service, "jwtRules": odd}), true, false),
        // What it is for cannot be read either: all of the namespace.
        (json!({"targetRefs": [{"kind": "Service", "name": "a", "moonPhase": "full"}]}), true, true),
    ] {
        let object = made(kind, &policy(spec.clone()), None).object.unwrap();
        index.apply(Event::Upsert(object));
        let holds = |policies: Vec<&std::sync::Arc<RequestAuthentication>>| policies.iter().any(|policy| policy.stand_in);
        assert_eq!(holds(index.token_policies_of_service(&name("a"))), at_service, "{spec}");
        assert_eq!(holds(index.token_policies_of_waypoint(&name("gate"))), at_gateway, "{spec}");
        assert!(!holds(index.token_policies_of_service(&NamespacedName::new("bank", "a"))), "{spec}");
    }
    // Without targets it holds nowhere, be it readable or not.
    assert_eq!(made(kind, &policy(json!({"jwtRules": odd})), None).object, None);
}

#[test]
fn of_a_secret_nothing_is_kept_but_a_certificate_and_its_key() {
    let secret = json!({
        "metadata": {
            "namespace": "shop", "name": "it", "resourceVersion": "7",
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "hidden"},
        },
        "type": "kubernetes.io/tls",
        "data": {"tls.crt": "", "tls.key": "", "ca.crt": "aGlkZGVu"},
    });
    let read = made(Kind::TlsSecret, &secret, None);
    let Some(Object::TlsSecret(held)) = &read.object else { panic!("{read:?}") };
    assert_eq!((held.metadata.name.as_deref(), held.metadata.annotations.as_ref()), (Some("it"), None));
    assert!(held.pair.is_err() && read.problems.is_empty(), "its Gateways say what is wrong: {:?}", read.problems);
}
