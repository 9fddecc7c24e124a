//! The API server as the agent's source: which pods its node has, and what becomes of them told there.
//!
//! It reads the pods of its own node (field selector `spec.nodeName`) and of all namespaces the labels; it writes one annotation of these
//! pods and events about them, and nothing else.
//!
//! | module | purpose |
//! |---|---|
//! | `store` | what is known of pods and namespaces: a function of what the API server told |
//! | `watch` | the two watches that keep it |
//! | `pauses` | how long is waited after a failure |
//! | `annotation` | `ambient.istio.io/redirection` of the pods: decided, and written when it changes |
//! | `events` | what is said on a pod whose traffic is refused: decided, and said once |
//! | `write` | one write, and why it failed |

mod annotation;
mod events;
mod pauses;
mod store;
mod watch;
mod write;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config, ResourceExt,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::sync::{Notify, watch as channel};

use crate::{
    Error,
    node::Node,
    source::{DATAPLANE_MODE, PodFacts, PodSource, enrolled},
};
use store::Store;

/// How long the API server may take to be connected to, to begin a watch, and to take in what is written.
const ANSWER: Duration = Duration::from_secs(10);
/// How long it may take to say what is the label of one namespace: a pod waits for it.
const CONFIRM: Duration = Duration::from_secs(4);

/// Where the API server is, and for which node it is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// Learns of the pods of its node from the API server: that of the cluster it runs in, or of a kubeconfig file.
    #[arg(long, requires = "node")]
    pub kubernetes: bool,
    /// A kubeconfig file, to run outside of a cluster.
    #[arg(long, requires = "kubernetes", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig file, if not its current one.
    #[arg(long, requires = "kubeconfig", value_name = "NAME")]
    pub context: Option<String>,
    /// The name of the node, as Kubernetes has it (in a DaemonSet from `spec.nodeName`).
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node: Option<String>,
}

/// The pods of one node, as the API server tells of them.
pub struct Kubernetes {
    client: Client,
    node: String,
    state: Mutex<Store>,
    /// Counts the changes.
    changed: channel::Sender<u64>,
    /// Told when what is known of pods may be out of date.
    doubted: Notify,
    /// The same of namespaces.
    doubted_namespaces: Notify,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// A source for a node. Nothing is asked of the API server before [`Kubernetes::follow`].
    ///
    /// # Errors
    /// When there is no such kubeconfig file or context, or the program does not run in a cluster.
    pub async fn connect(settings: &Settings) -> Result<Arc<Self>, Error> {
        let node = settings.node.clone().filter(|node| !node.is_empty());
        let node =
            node.ok_or_else(|| Error::Kubernetes("the name of the node is not known; give --node or NODE_NAME".to_owned()))?;
        let mut config = match &settings.kubeconfig {
            Some(path) => {
                let failed = |error: &dyn std::error::Error| Error::Kubernetes(format!("{}: {}", path.display(), chain(error)));
                let file = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
                let options = KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
                let proxied = file.clusters.iter().any(|named| named.cluster.as_ref().is_some_and(|it| it.proxy_url.is_some()));
                let mut config = Config::from_custom_kubeconfig(file, &options).await.map_err(|error| failed(&error))?;
                // That of HTTPS_PROXY, which is for others: a node has a way to its API server.
                config.proxy_url.take_if(|_| !proxied);
                config
            }
            None => Config::incluster().map_err(|error| {
                Error::Kubernetes(format!("not in a cluster ({}); outside of one give --kubeconfig FILE", chain(&error)))
            })?,
        };
        config.connect_timeout = Some(ANSWER);
        // The watches and the writer have pauses of their own; a second layer of repeats would only make them longer.
        config.default_retry = false;
        let client = Client::try_from(config).map_err(|error| Error::Kubernetes(chain(&error)))?;
        Ok(Arc::new(Self::new(client, node)))
    }

    /// A source for this node of the cluster of a client.
    #[must_use]
    pub fn new(client: Client, node: String) -> Self {
        let (doubted, doubted_namespaces) = (Notify::new(), Notify::new());
        Self { client, node, state: Mutex::default(), changed: channel::Sender::new(0), doubted, doubted_namespaces }
    }

    fn state(&self) -> MutexGuard<'_, Store> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known; who waits for changes is told.
    fn change(&self, change: impl FnOnce(&mut Store) -> bool) {
        let changed = change(&mut self.state());
        if changed {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Keeps what is known as the API server has it, for ever. When the node holds pods in the mesh, it does not begin with what the cache of
    /// an API server has, which may be older than what they were captured by.
    pub async fn follow(&self, node: &Node) {
        watch::follow(self, node.has_captured()).await;
    }

    /// Tells the API server what becomes of the node's pods, for ever.
    pub async fn tell(&self, node: &Node) {
        tokio::join!(annotation::follow(self, node), events::follow(self, node.agent().statuses()));
    }
}

impl PodSource for Kubernetes {
    fn pods(&self) -> Result<Vec<PodFacts>, Error> {
        self.state().pods()
    }

    fn doubt(&self) {
        self.doubted.notify_waiters();
        // There are many more of them, and they change seldom.
        if self.state().lacks_namespace() {
            self.doubted_namespaces.notify_waiters();
        }
    }

    /// A watch whose connection died without a word may not have told of a label for a minute, and one that is refused for ever.
    fn confirm<'a>(&'a self, outside: &'a PodFacts) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            if !self.state().is_by_namespace(&outside.uid) {
                return Ok(true);
            }
            let name = &outside.namespace;
            let failed = |why: String| {
                Error::Kubernetes(format!("the API server does not say whether the namespace {name} is in the mesh: {why}"))
            };
            // By its list, which it may ask for anyhow.
            let (namespaces, one) = (Api::<Namespace>::all(self.client.clone()), format!("metadata.name={name}"));
            let one = ListParams::default().fields(&one);
            let listed = tokio::time::timeout(CONFIRM, namespaces.list_metadata(&one)).await;
            let listed = listed.map_err(|late| failed(late.to_string()))?.map_err(|error| failed(chain(&error)))?;
            let mode = listed.items.first().map(|namespace| namespace.labels().get(DATAPLANE_MODE).map(String::as_str));
            let agrees = enrolled(false, None, mode) == Some(false);
            if !agrees {
                self.doubted_namespaces.notify_waiters();
            }
            Ok(agrees)
        })
    }
}

/// An error with its causes: those of the client have the reason innermost.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
