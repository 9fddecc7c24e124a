//! The objects of a cluster, kept up to date by watches of its API server.

use std::fmt::Debug;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{Store, reflector, store};
use kube::runtime::watcher::{Config, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::scene::Everything;

/// The watches, which end when this is dropped.
pub(super) struct Watches {
    nodes: Store<Node>,
    namespaces: Store<Namespace>,
    pods: Store<Pod>,
    services: Store<Service>,
    _tasks: JoinSet<()>,
}

impl Watches {
    /// Begins to watch with a client that is patient with silence.
    pub(super) fn start(client: &Client) -> Self {
        let mut tasks = JoinSet::new();
        Self {
            nodes: watch(client, &mut tasks),
            namespaces: watch(client, &mut tasks),
            pods: watch(client, &mut tasks),
            services: watch(client, &mut tasks),
            _tasks: tasks,
        }
    }

    /// All objects now; a kind that was not listed yet has none.
    pub(super) fn everything(&self) -> Everything {
        Everything {
            nodes: self.nodes.state(),
            namespaces: self.namespaces.state(),
            pods: self.pods.state(),
            services: self.services.state(),
        }
    }
}

fn watch<K>(client: &Client, tasks: &mut JoinSet<()>) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = store();
    let objects = watcher(Api::<K>::all(client.clone()), Config::default()).default_backoff();
    // Which nobody here asks for, and which are most of an object.
    let slim = objects.modify(|object| object.managed_fields_mut().clear());
    let kept = reflector(writer, slim);
    // An API server that does not answer is asked again.
    tasks.spawn(kept.for_each(|_| std::future::ready(())));
    reader
}
