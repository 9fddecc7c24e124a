//! What routes take in a waypoint: those that the measurements have, as a control plane sends them.

use std::fs;

use ambit_api::type_url;
use ambit_xds::{Any, Resource, client::Subscriptions};
use istiod_lite::{
    index::{Index, MeshConfig},
    source::{Directory, NamespacedName, Source as _},
    translate::waypoint::{Resources, translate},
};
use perf::routes::{MANY, routes};
use waypoint::xds::Store;

use crate::{ONE_AT_A_TIME, count::Held};

const NAMESPACE: &str = "bench";
/// The most that a route may take, bytes, with the message that it came in, its part of all indexes and what the allocator adds.
const ROUTE: f64 = 440.0;

/// A service with a waypoint, for which the routes are.
const SERVICE: &str = "apiVersion: v1
kind: Namespace
metadata: {name: bench, labels: {istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: bench}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: bench}
spec: {clusterIP: 10.96.0.10, selector: {app: server}, ports: [{name: http, port: 80}]}
---
";

/// What the waypoint is sent.
fn resources() -> Resources {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("mesh.yaml"), format!("{SERVICE}{}", routes(NAMESPACE, MANY, "of-many"))).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let events = runtime.block_on(async {
        let mut source = Directory::new(vec![directory.path().to_owned()]).unwrap();
        let events = source.next().await.unwrap();
        assert!(source.problems().iter().all(|problem| !problem.is_error()), "{:?}", source.problems());
        events
    });
    let mut index = Index::new(MeshConfig::new("cluster.local".parse().unwrap(), "Kubernetes"));
    for event in events {
        index.apply(event);
    }
    translate(&index, &NamespacedName::new(NAMESPACE, "waypoint")).unwrap()
}

fn deliver<'a>(store: &Store, type_url: &str, resources: impl IntoIterator<Item = &'a (String, Any)>) {
    let named = |(name, body): &(String, Any)| Resource { name: name.clone(), version: "1".to_owned(), body: body.clone() };
    let rejected = store.apply(type_url, resources.into_iter().map(named).collect(), Vec::new());
    assert!(rejected.is_empty(), "{rejected:?}");
}

#[test]
fn five_thousand_routes_take_less_than_half_a_kilobyte_each() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let sent = resources();
    let (table, others) = sent.routes.split_last().unwrap();
    let store = Store::new(Subscriptions::new());
    deliver(&store, type_url::CLUSTER, &sent.clusters);
    deliver(&store, type_url::ENDPOINT, &sent.endpoints);
    deliver(&store, type_url::LISTENER, &sent.listeners);
    deliver(&store, type_url::ROUTE, others);
    let before = Held::now();
    deliver(&store, type_url::ROUTE, [table]);
    let held = Held::now() - before;
    let snapshot = store.snapshot();
    let compiled = snapshot.routes.get(table.0.as_str()).unwrap();
    assert_eq!(compiled.hosts.iter().map(|host| host.routes.len()).sum::<usize>(), MANY + 1);
    let count = MANY as f64;
    let (each, bytes, pieces) = (held.with_overhead() / count, held.bytes / count, held.pieces / count);
    println!(
        "{MANY} routes: {each:.0} bytes each ({bytes:.0} in {pieces:.1} pieces), {} of them as they came",
        table.1.value.len() / MANY
    );
    assert!(each <= ROUTE, "{each:.0} bytes for each route, at most {ROUTE} are allowed");
}
