//! The node: which sandboxes there are, which of them are to be captured, and that they are.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ambit_runtime::netns::NetNs;
use futures::StreamExt;
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    Agent, Error, Handover, PodInfo,
    discover::Before,
    records::{Record, Records},
    source::{PodFacts, PodSource},
    status::{PodStatus, Statuses},
    verdict::Offer,
};

/// How long a pod that starts may be unknown to the source: the runtime may hear of it first.
const UNKNOWN: Duration = Duration::from_secs(5);
/// How long a pod that starts waits for a node proxy, for example while that is replaced.
const PROXY: Duration = Duration::from_secs(10);
/// How long a pod that is asked about may take to be as it should be.
const CHECK: Duration = Duration::from_secs(3);
/// Pods that are captured or let go at once.
pub(crate) const AT_ONCE: usize = 8;
/// Pause between two looks of somebody who waits, and between two questions to others.
const SOON: Duration = Duration::from_millis(50);
const AGAIN: Duration = Duration::from_millis(300);

/// What the CNI plugin tells of a pod: the document that Istio's plugin sends, and what ours adds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Event {
    /// Where its network namespace shows.
    pub netns: PathBuf,
    /// Its name.
    pub pod_name: String,
    /// Its namespace.
    pub pod_namespace: String,
    /// The sandbox.
    #[serde(rename = "ContainerID")]
    pub container: String,
    /// The UID of the Kubernetes object.
    #[serde(rename = "PodUID")]
    pub uid: String,
}

impl Event {
    /// The name of the sandbox; that of its namespace's file where the plugin does not tell it.
    fn container(&self) -> String {
        match (self.container.as_str(), self.netns.file_name().and_then(|name| name.to_str())) {
            ("", Some(name)) => name.to_owned(),
            (container, _) => container.to_owned(),
        }
    }
}

/// The sandboxes of the node.
pub struct Node {
    agent: Agent,
    pub(crate) source: Arc<dyn PodSource>,
    records: Mutex<Records>,
    excluded: Vec<String>,
    pub(crate) before: Before,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("agent", &self.agent).finish_non_exhaustive()
    }
}

impl Node {
    /// Pods of `source` are captured by `agent`, except those of `excluded` namespaces. What was captured when the records were written
    /// is captured again before this returns, whatever the source says: it is asked later, and then `before` is searched too. Proxies are
    /// let in when that is done: they keep the connections of the pods that they are told of first.
    pub async fn start(
        agent: Agent,
        source: Arc<dyn PodSource>,
        records: Records,
        excluded: Vec<String>,
        before: Before,
    ) -> Self {
        let captured: Vec<Record> = records.all().filter(|record| record.captured).cloned().collect();
        let node = Self { agent, source, records: Mutex::new(records), excluded, before };
        let again = futures::stream::iter(&captured).for_each_concurrent(AT_ONCE, async |record| {
            if let Err(error) = node.capture(record).await {
                tracing::warn!(pod = record.name, namespace = record.namespace, %error, "a pod from before is not captured yet");
            }
        });
        again.await;
        node.agent.accept();
        node
    }

    /// The agent that captures.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    pub(crate) fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod starts. When this returns well it may run: it is captured and a proxy has it, or it is not in the mesh.
    ///
    /// # Errors
    /// When it is not known whether the pod is in the mesh, or it is and cannot be captured.
    pub async fn started(&self, event: &Event) -> Result<(), Error> {
        let netns = NetNs::open(&event.netns).map_err(Error::path("open the network namespace", &event.netns))?;
        let facts = self.certain(event).await?;
        let record = self.record(event.container(), &facts, &event.netns, &netns)?;
        // Before the rules: an agent that dies in between captures it when it is back.
        self.records().put(record.clone())?;
        if !record.captured {
            return self.agent.free(&netns).await;
        }
        if self.capture(&record).await? == Handover::Waiting {
            return self.taken(&record.uid).await;
        }
        Ok(())
    }

    /// Waits until a proxy has a pod: the first one, or the next when the one that was asked has gone or hangs.
    async fn taken(&self, uid: &str) -> Result<(), Error> {
        let until = Instant::now() + PROXY;
        loop {
            let why = match self.agent.offer(uid) {
                Offer::Accepted => return Ok(()),
                Offer::Refused(reason) => return Err(Error::Refused(reason)),
                Offer::Nobody => "no node proxy is connected to the node agent",
                Offer::Asked => "the node proxy does not answer",
            };
            if Instant::now() > until {
                return Err(Error::Refused(why.to_owned()));
            }
            tokio::time::sleep(SOON).await;
        }
    }

    pub(crate) fn record(&self, container: String, facts: &PodFacts, path: &Path, netns: &NetNs) -> Result<Record, Error> {
        Ok(Record {
            container,
            uid: facts.uid.clone(),
            namespace: facts.namespace.clone(),
            name: facts.name.clone(),
            service_account: facts.service_account.clone(),
            netns: path.to_owned(),
            inode: netns.inode(),
            cookie: netns.cookie().map_err(Error::path("identify the network namespace", path))?,
            captured: self.wanted(facts) == Some(true),
            boot: self.records().boot().to_owned(),
        })
    }

    /// A sandbox ends. That it is not known is no error.
    pub async fn ended(&self, event: &Event) {
        let Some(record) = self.record_of(event) else { return };
        if self.records().remove(&record.container).is_some() {
            self.agent.gone(&record.uid).await;
        }
    }

    /// The record of a sandbox. One that was found by its processes has no runtime's name: it is known by its pod and by its network
    /// namespace, for of an earlier sandbox of the same pod the runtime may say goodbye long after.
    fn record_of(&self, event: &Event) -> Option<Record> {
        let records = self.records();
        if let Some(record) = records.get(&event.container()) {
            return Some(record.clone());
        }
        let shown = NetNs::open(&event.netns).ok();
        let same_netns = |record: &Record| match (record.open(), &shown) {
            (Ok(Some(netns)), Some(shown)) => netns == *shown,
            // Both are gone.
            (Ok(None), None) => true,
            _ => false,
        };
        let it = |record: &&Record| {
            record.is_found()
                && (&record.namespace, &record.name) == (&event.pod_namespace, &event.pod_name)
                && (event.uid.is_empty() || record.uid == event.uid)
                && same_netns(record)
        };
        records.all().find(it).cloned()
    }

    /// Whether a pod is as it should be, or soon is.
    ///
    /// # Errors
    /// When it is in the mesh and not captured.
    pub async fn checked(&self, event: &Event) -> Result<(), Error> {
        let Some(record) = self.record_of(event) else {
            // It ran before the agent: if it is not in the mesh there is nothing to know.
            let facts = self.source.pods()?.into_iter().find(|facts| Self::is_of(facts, event));
            return match facts.and_then(|facts| self.wanted(&facts)) {
                Some(false) => Ok(()),
                _ => Err(Error::Refused(format!("the sandbox {} is not known", event.container()))),
            };
        };
        if !record.captured {
            return Ok(());
        }
        let good = |statuses: &Statuses| statuses.get(&record.uid).is_some_and(PodStatus::is_captured);
        let mut statuses = self.agent.statuses();
        if matches!(tokio::time::timeout(CHECK, statuses.wait_for(good)).await, Ok(Ok(_))) {
            return Ok(());
        }
        Err(Error::Refused(match self.agent.statuses().borrow().get(&record.uid) {
            Some(status) => format!("{}: {}", status.state.name(), status.reason),
            None => "the pod is not captured".to_owned(),
        }))
    }

    /// Whether a pod is never captured, whatever its labels say.
    pub(crate) fn excludes(&self, facts: &PodFacts) -> bool {
        self.excluded.contains(&facts.namespace)
    }

    pub(crate) fn wanted(&self, facts: &PodFacts) -> Option<bool> {
        if self.excludes(facts) { Some(false) } else { facts.enrolled }
    }

    /// Whether the source speaks of the pod that the runtime names.
    fn is_of(facts: &PodFacts, event: &Event) -> bool {
        (&facts.namespace, &facts.name) == (&event.pod_namespace, &event.pod_name)
            && (event.uid.is_empty() || facts.uid == event.uid || facts.uid == format!("{}/{}", facts.namespace, facts.name))
    }

    /// As [`Node::facts`], with the certainty that a pod is not in the mesh: once it runs outside of it, it speaks in clear.
    async fn certain(&self, event: &Event) -> Result<PodFacts, Error> {
        let until = Instant::now() + UNKNOWN;
        loop {
            let facts = self.facts(event).await?;
            if self.excludes(&facts) || facts.enrolled != Some(false) {
                return Ok(facts);
            }
            match self.source.confirm(&facts).await {
                Ok(true) => return Ok(facts),
                Ok(false) if Instant::now() > until => {
                    let (namespace, name) = (&facts.namespace, &facts.name);
                    return Err(Error::Refused(format!(
                        "the labels that say whether pod {namespace}/{name} is in the mesh are just changing; it is tried again"
                    )));
                }
                Ok(false) => tokio::time::sleep(AGAIN).await,
                // It ran before, and is started anew: it stays as it is.
                Err(_) if self.records().all().any(|record| record.uid == facts.uid) => return Ok(facts),
                Err(error) => return Err(error),
            }
        }
    }

    /// What the source says of a pod that starts. A pod that it never heard of must not start: it may be in the mesh.
    async fn facts(&self, event: &Event) -> Result<PodFacts, Error> {
        let until = Instant::now() + UNKNOWN;
        let mut asked = false;
        loop {
            let it = |facts: &PodFacts| {
                Self::is_of(facts, event)
                    // An earlier pod of the same name may still be told of.
                    && (!event.uid.is_empty() || (!facts.ending && !self.runs_elsewhere(facts, event)))
                    && self.wanted(facts).is_some()
            };
            // What cannot be read now may be a moment later.
            let why = match self.source.pods() {
                Ok(pods) => match pods.into_iter().find(it) {
                    Some(facts) => return Ok(facts),
                    None => {
                        let (namespace, name) = (&event.pod_namespace, &event.pod_name);
                        Error::Refused(format!(
                            "the node agent does not know of pod {namespace}/{name}, nor whether it is in the mesh"
                        ))
                    }
                },
                Err(error) => error,
            };
            if Instant::now() > until {
                return Err(why);
            }
            if !asked && Instant::now() + UNKNOWN / 2 > until {
                asked = true;
                self.source.doubt();
            }
            tokio::time::sleep(SOON).await;
        }
    }

    /// Whether a pod has another sandbox: then it is not the one that starts, but one of the same name before.
    fn runs_elsewhere(&self, facts: &PodFacts, event: &Event) -> bool {
        let container = event.container();
        self.records().all().any(|other| {
            other.uid == facts.uid
                && other.container != container
                && other.netns != event.netns
                && !matches!(other.open(), Ok(None))
        })
    }

    pub(crate) async fn capture(&self, record: &Record) -> Result<Handover, Error> {
        let named = |what: &str| Error::Refused(format!("pod {}/{}: {what}", record.namespace, record.name));
        let netns = record.open().map_err(|error| named(&error.to_string()))?;
        let netns = netns.ok_or_else(|| named("its network namespace is gone"))?;
        let info = PodInfo {
            uid: record.uid.clone(),
            name: record.name.clone(),
            namespace: record.namespace.parse().map_err(|error| named(&format!("{error}")))?,
            service_account: record.service_account.parse().map_err(|error| named(&format!("{error}")))?,
        };
        self.agent.add_at(info, netns, Some(record.netns.clone())).await
    }
}
