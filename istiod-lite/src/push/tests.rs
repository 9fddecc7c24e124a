use std::sync::Arc;

use ambit_api::type_url::{ADDRESS, AUTHORIZATION, LISTENER};
use ambit_xds::server::Cache;
use tokio::sync::mpsc;

use super::{NODE_VIEW, Pusher, follow, read};
use crate::{
    index::MeshConfig,
    mesh::Mesh,
    source::{Event, Kind, NamespacedName, Object, ObjectKey, Problem, Source, SourceError},
};

pub(super) fn mesh() -> Arc<Mesh> {
    Arc::new(Mesh::new(MeshConfig::new("cluster.local".parse().unwrap(), "Kubernetes")))
}

pub(super) fn object<T: serde::de::DeserializeOwned>(wrap: fn(Arc<T>) -> Object, value: serde_json::Value) -> Event {
    Event::Upsert(wrap(Arc::new(serde_json::from_value(value).unwrap())))
}

pub(super) fn pod(name: &str, ip: &str) -> Event {
    object(
        Object::Pod,
        serde_json::json!({
            "metadata": {"namespace": "shop", "name": name},
            "spec": {"serviceAccountName": name, "nodeName": "n1", "containers": []},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
        }),
    )
}

fn policy() -> Event {
    object(
        Object::AuthorizationPolicy,
        serde_json::json!({
            "metadata": {"namespace": "shop", "name": "nobody"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "action": "ALLOW"},
        }),
    )
}

fn gateway() -> Event {
    object(
        Object::Gateway,
        serde_json::json!({
            "metadata": {"namespace": "shop", "name": "gate"},
            "spec": {"gatewayClassName": "istio-waypoint", "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]},
        }),
    )
}

pub(super) fn names(cache: &Cache, view: &str, type_url: &str) -> Vec<String> {
    cache.read(view, type_url, |content| content.entries().map(|entry| entry.name.to_string()).collect())
}

#[test]
fn what_follows_from_one_batch_is_seen_at_once_or_not_at_all() {
    let (mesh, cache) = (mesh(), Cache::new());
    let pusher = Pusher::new(cache.clone());
    let mut watch = cache.watch(NODE_VIEW);
    pusher.apply(&mesh, vec![pod("web", "10.0.0.1"), policy(), pod("api", "10.0.0.2")]);
    assert_eq!(*watch.borrow_and_update(), 1, "one wake-up");
    assert_eq!(names(&cache, NODE_VIEW, ADDRESS), ["Kubernetes//Pod/shop/api", "Kubernetes//Pod/shop/web"]);
    assert_eq!(names(&cache, NODE_VIEW, AUTHORIZATION), ["shop/nobody"]);
    cache.read(NODE_VIEW, ADDRESS, |content| assert_eq!(content.find("/10.0.0.1").len(), 1, "found by its address"));
}

#[test]
fn an_object_that_is_what_it_was_wakes_nobody() {
    let (mesh, cache) = (mesh(), Cache::new());
    let pusher = Pusher::new(cache.clone());
    pusher.apply(&mesh, vec![pod("web", "10.0.0.1"), gateway()]);
    let (nodes, waypoint) = (cache.watch(NODE_VIEW), cache.watch("waypoint/shop/gate"));
    pusher.apply(&mesh, vec![pod("web", "10.0.0.1"), gateway()]);
    assert!(!nodes.has_changed().unwrap() && !waypoint.has_changed().unwrap());
}

#[test]
fn the_view_of_a_waypoint_ends_with_its_gateway() {
    let (mesh, cache) = (mesh(), Cache::new());
    let pusher = Pusher::new(cache.clone());
    pusher.apply(&mesh, vec![gateway()]);
    assert!(names(&cache, "waypoint/shop/gate", LISTENER).contains(&"connect_terminate".to_owned()));
    let key = ObjectKey { kind: Kind::Gateway, name: NamespacedName::new("shop", "gate") };
    pusher.apply(&mesh, vec![Event::Delete(key)]);
    assert!(cache.views().is_empty(), "{:?}", cache.views());
}

/// Gives one batch after the other, then waits for ever.
struct Batches(Vec<Vec<Event>>);

#[async_trait::async_trait]
impl Source for Batches {
    async fn next(&mut self) -> Result<Vec<Event>, SourceError> {
        match self.0.is_empty() {
            true => std::future::pending().await,
            false => Ok(self.0.remove(0)),
        }
    }

    fn problems(&self) -> Arc<Vec<Problem>> {
        Arc::default()
    }
}

#[tokio::test]
async fn a_burst_of_batches_is_pushed_together_and_the_first_alone() {
    let (mesh, cache) = (mesh(), Cache::new());
    let (batches, received) = mpsc::channel(16);
    let burst = (0..9).map(|n| vec![pod("web", &format!("10.0.0.{n}"))]).collect();
    let mut generation = mesh.generation();
    let following = tokio::spawn(follow(Arc::clone(&mesh), Pusher::new(cache.clone()), received));
    let reading = tokio::spawn(read(Batches(burst), batches));
    generation.wait_for(|generation| *generation > 0).await.unwrap();
    while cache.read(NODE_VIEW, ADDRESS, |content| content.find("/10.0.0.8").is_empty()) {
        generation.changed().await.unwrap();
    }
    // Two on a machine with nothing else to do: the first, which waits for nothing, and all the others.
    assert!((2..=4).contains(&*generation.borrow()), "{} pushes for nine batches", *generation.borrow());
    reading.abort();
    following.abort();
}
