//! The mesh that a directory of YAML describes: read and translated as the control plane does, taken as a node proxy and a waypoint do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ::waypoint::compiled::Snapshot;
use ::waypoint::xds::Store;
use ambit_api::type_url;
use ambit_model::explain::{self, Question, StateAlone, Step};
use ambit_xds::client::{Handler, Subscriptions};
use ambit_xds::{Any, Rejected, Resource};
use istiod_lite::index::{ChangedKey, Index, MeshConfig, label};
use istiod_lite::source::{Directory, Event, NamespacedName, Problem, Source};
use istiod_lite::translate::{authorization, external, waypoint, workload};
use prost::Message;
use ztunnel::state::{self, Shared};

use super::args::Source as Of;
use super::{Answer, assumed};
use crate::error::{Error, Result};

/// What a waypoint has in force, and what of it it rejects; nothing, of a Gateway that asks for no waypoint.
type Held = Option<(Arc<Snapshot>, Vec<Rejected>)>;

/// What a directory says, as the parts of the mesh take it.
pub(super) struct World {
    index: Index,
    shared: Arc<Shared>,
    assumed: Vec<String>,
    /// Of each waypoint that was asked about: what it has is translated once, however much is asked.
    waypoints: Mutex<BTreeMap<NamespacedName, Held>>,
}

impl World {
    /// Reads the files of `directory`.
    ///
    /// # Errors
    /// When they cannot be read, or one of them has an error: then what it would say is not known, and no answer is better than a wrong one.
    pub(super) async fn read(of: &Of, directory: &Path) -> Result<Self> {
        if !directory.is_dir() {
            return Err(Error::Invalid(format!("{} is not a directory", directory.display())));
        }
        let beside = tempfile::tempdir().map_err(|cause| Error::io("making a temporary directory", cause))?;
        let assumed = assumed::complete(read(vec![directory.to_owned()]).await?, beside.path().to_owned())?;
        let events = read(vec![directory.to_owned(), beside.path().to_owned()]).await?;
        let (index, shared) = taken(events, MeshConfig::new(of.trust_domain.clone(), of.cluster_id.clone()));
        Ok(Self { index, shared, assumed, waypoints: Mutex::default() })
    }

    /// Explains the connection from `from` to `to`.
    ///
    /// # Errors
    /// When it is not known who they are.
    pub(super) fn connection(&self, from: &str, to: &str) -> Result<Answer> {
        let invalid = |error: explain::Unanswerable| Error::Invalid(error.to_string());
        let question = Question::new(from, to).map_err(invalid)?;
        let mut explained = self.shared.read(|mesh| explain::connection(mesh, &StateAlone, &question)).map_err(invalid)?;
        explained.assumed.clone_from(&self.assumed);
        let explanation = serde_json::to_value(&explained).map_err(|error| Error::part("writing the answer", error))?;
        Ok(Answer { explanation, text: explained.to_string() })
    }

    /// The Gateway of a waypoint's pod, `namespace/name` both.
    pub(super) fn gateway(&self, pod: &str) -> Option<NamespacedName> {
        let (namespace, name) = pod.split_once('/')?;
        let labels = self.index.objects().pods.get(&NamespacedName::new(namespace, name))?.metadata.labels.as_ref()?;
        Some(NamespacedName::new(namespace, labels.get(label::GATEWAY_NAME)?.as_str()))
    }

    /// What the waypoint of this Gateway has in force, and what of it it rejects.
    pub(super) fn waypoint(&self, gateway: &NamespacedName) -> Held {
        let mut waypoints = self.waypoints.lock().unwrap_or_else(PoisonError::into_inner);
        waypoints.entry(gateway.clone()).or_insert_with(|| self.translated(gateway)).clone()
    }

    fn translated(&self, gateway: &NamespacedName) -> Held {
        let resources = waypoint::translate(&self.index, gateway)?;
        let store = Store::new(Subscriptions::new());
        let mut rejected = Vec::new();
        // In the order in which each is needed: what nothing refers to is let go.
        for (type_url, resources) in [
            (type_url::CLUSTER, resources.clusters),
            (type_url::ENDPOINT, resources.endpoints),
            (type_url::LISTENER, resources.listeners),
            (type_url::ROUTE, resources.routes),
        ] {
            let named = |(name, body)| Resource { name, version: String::new(), body };
            rejected.extend(store.apply(type_url, resources.into_iter().map(named).collect(), Vec::new()));
        }
        Some((store.snapshot(), rejected))
    }

    /// What the proxy of an endpoint decides about a tunnel of the waypoint whose pod this is.
    pub(super) fn beyond(&self, waypoint: &str, endpoint: SocketAddr) -> Option<Step> {
        self.shared.read(|mesh| explain::beyond(mesh, &StateAlone, waypoint, endpoint))
    }
}

async fn read(directories: Vec<PathBuf>) -> Result<Vec<Event>> {
    let unreadable = |error: istiod_lite::source::SourceError| Error::part("reading the files", error);
    let mut source = Directory::new(directories).map_err(unreadable)?;
    let events = source.next().await.map_err(unreadable)?;
    let problems = source.problems();
    let wrong: Vec<String> = problems.iter().filter(|problem| problem.is_error()).map(Problem::to_string).collect();
    if wrong.is_empty() { Ok(events) } else { Err(Error::Invalid(wrong.join("\n"))) }
}

/// The objects, and what a node proxy makes of the resources that follow from them.
fn taken(events: Vec<Event>, config: MeshConfig) -> (Index, Arc<Shared>) {
    let mut index = Index::new(config);
    let changed: BTreeSet<ChangedKey> = events.into_iter().flat_map(|event| index.apply(event)).collect();
    let (mut addresses, mut policies) = (Vec::new(), Vec::new());
    for key in changed {
        match key {
            ChangedKey::Workload(name) => {
                let made = workload::workload(&index, &name);
                addresses.extend(made.map(|made| resource(index.config().pod_uid(&name), type_url::ADDRESS, &made)));
            }
            ChangedKey::Service(name) => {
                let made = workload::service(&index, &name);
                addresses.extend(made.map(|made| resource(index.config().service_key(&name), type_url::ADDRESS, &made)));
            }
            ChangedKey::Policy(name) => {
                let made = authorization::policy(&index, &name);
                policies.extend(made.map(|made| resource(name.to_string(), type_url::AUTHORIZATION, &made)));
            }
            ChangedKey::External(key) => {
                let made = external::workload(&index, &key);
                addresses.extend(made.map(|made| resource(key.uid(index.config()), type_url::ADDRESS, &made)));
            }
            ChangedKey::Host(host) => {
                let made = external::host(&index, &host);
                addresses
                    .extend(made.map(|made| resource(format!("{}/{}", host.namespace, host.name), type_url::ADDRESS, &made)));
            }
            ChangedKey::Waypoint(_) | ChangedKey::Endpoints { .. } | ChangedKey::Clients(_) => {}
        }
    }
    let shared = Arc::new(Shared::default());
    // What cannot be taken refuses, as it does in a node proxy.
    let _rejected = state::policies(Arc::clone(&shared)).apply(policies, Vec::new());
    let _rejected = state::addresses(Arc::clone(&shared)).apply(addresses, Vec::new());
    (index, shared)
}

fn resource(name: String, type_url: &str, message: &impl Message) -> Resource {
    Resource { name, version: String::new(), body: Any { type_url: type_url.to_owned(), value: message.encode_to_vec() } }
}
