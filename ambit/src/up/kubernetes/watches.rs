//! The objects of a cluster, kept up to date by watches of its API server.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{Store, reflector, store};
use kube::runtime::watcher::{self, Config, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::scene::Everything;

/// Why kinds cannot be watched, in words, by their plural.
type Blind = Arc<Mutex<BTreeMap<String, String>>>;

/// The watches, which end when this is dropped.
pub(super) struct Watches {
    nodes: Store<Node>,
    namespaces: Store<Namespace>,
    pods: Store<Pod>,
    services: Store<Service>,
    blind: Blind,
    _tasks: JoinSet<()>,
}

impl Watches {
    /// Begins to watch with a client that is patient with silence.
    pub(super) fn start(client: &Client) -> Self {
        let (mut tasks, blind) = (JoinSet::new(), Blind::default());
        Self {
            nodes: watch(client, &mut tasks, &blind),
            namespaces: watch(client, &mut tasks, &blind),
            pods: watch(client, &mut tasks, &blind),
            services: watch(client, &mut tasks, &blind),
            blind,
            _tasks: tasks,
        }
    }

    /// What cannot be watched, in words.
    pub(super) fn notices(&self) -> Vec<String> {
        self.blind.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
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

fn watch<K>(client: &Client, tasks: &mut JoinSet<()>, blind: &Blind) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = store();
    let objects = watcher(Api::<K>::all(client.clone()), Config::default()).default_backoff();
    // Which nobody here asks for, and which are most of an object.
    let slim = objects.modify(|object| object.managed_fields_mut().clear());
    let kept = reflector(writer, slim);
    let (blind, plural) = (blind.clone(), K::plural(&()).into_owned());
    // An API server that does not answer is asked again, and what cannot be seen meanwhile is told.
    tasks.spawn(kept.for_each(move |event| {
        let mut blind = blind.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(_) => _ = blind.remove(&plural),
            Err(error) => _ = blind.insert(plural.clone(), format!("{plural} cannot be watched: {}", reason(&error))),
        }
        std::future::ready(())
    }));
    reader
}

/// What the API server said, or why it said nothing.
fn reason(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status)) | WatchError(status) => {
            status.message.clone()
        }
        InitialListFailed(cause) | WatchStartFailed(cause) | WatchFailed(cause) => cause.to_string(),
        NoResourceVersion => error.to_string(),
    }
}
