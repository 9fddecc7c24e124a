//! Follows the labels: pods that enter the mesh are captured, those that leave it are let go, and those that ran before are found.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use ambit_runtime::netns::NetNs;
use tokio::time::Instant;

use crate::{Error, node::Node, records::Record, source::PodFacts};

/// Pause between two looks at the source.
const LOOK: Duration = Duration::from_millis(500);
/// Pause between two searches for pods that nobody told of.
const SEARCH: Duration = Duration::from_secs(3);

impl Node {
    /// Follows the labels for ever: pods that enter the mesh are captured, those that leave it are let go.
    pub async fn follow(&self) {
        let mut searched = None::<Instant>;
        loop {
            tokio::time::sleep(LOOK).await;
            match self.source.pods() {
                Ok(pods) => {
                    self.reconcile(&pods).await;
                    if searched.is_none_or(|searched| searched.elapsed() > SEARCH) {
                        searched = Some(Instant::now());
                        self.search(&pods).await;
                    }
                }
                Err(error) => tracing::warn!(%error, "the pods of the node cannot be read; all stay as they are"),
            }
        }
    }

    async fn reconcile(&self, pods: &[PodFacts]) {
        let held = self.agent().pods();
        let records: Vec<Record> = self.records().all().cloned().collect();
        for mut record in records {
            let netns = match record.open() {
                Ok(Some(netns)) => netns,
                Ok(None) => {
                    self.records().remove(&record.container);
                    continue;
                }
                Err(error) => {
                    tracing::warn!(pod = record.name, namespace = record.namespace, %error, "a sandbox cannot be looked at");
                    continue;
                }
            };
            // A pod that the source does not know any more is ending: it stays as it is.
            let Some(facts) = pods.iter().find(|facts| facts.uid == record.uid) else { continue };
            let Some(wanted) = self.wanted(facts) else { continue };
            let done = match (wanted, held.contains(&record.uid)) {
                (true, false) => self.captured(&mut record).await,
                (false, true) => self.agent().remove(&record.uid).await,
                // It was let go before, not all the way.
                (false, false) if record.captured => self.agent().free(&netns).await,
                _ => Ok(()),
            };
            if let Err(error) = done {
                tracing::warn!(pod = record.name, namespace = record.namespace, wanted, %error, "a pod's capture could not be changed");
                continue;
            }
            let changed = self.records().get(&record.container).is_some_and(|now| now.captured != wanted);
            if changed {
                record.captured = wanted;
                if let Err(error) = self.records().put(record) {
                    tracing::warn!(%error, "a sandbox is not recorded");
                }
            }
        }
    }

    /// Captures a pod that runs. Before its rules it is recorded: whoever finds something of them there knows whose they are.
    async fn captured(&self, record: &mut Record) -> Result<(), Error> {
        record.captured = true;
        {
            let mut records = self.records();
            if records.get(&record.container).is_none() {
                // It ended meanwhile.
                return Ok(());
            }
            records.put(record.clone())?;
        }
        self.capture(record).await.map(drop)
    }

    /// Captures pods of the mesh that no runtime told of: they ran before the agent did.
    async fn search(&self, pods: &[PodFacts]) {
        let known: BTreeSet<String> = self.records().all().map(|record| record.uid.clone()).collect();
        let unknown: BTreeMap<&str, &PodFacts> = pods
            .iter()
            .filter(|facts| self.wanted(facts) == Some(true) && !known.contains(&facts.uid))
            .map(|facts| (facts.uid.as_str(), facts))
            .collect();
        if unknown.is_empty() {
            return;
        }
        let (before, uids) = (self.before.clone(), unknown.keys().map(|uid| (*uid).to_owned()).collect());
        // There may be many processes, and the pods that are kept must not wait.
        let found = tokio::task::spawn_blocking(move || before.find(&uids)).await.unwrap_or_default();
        for (uid, path) in found {
            let Some(facts) = unknown.get(uid.as_str()) else { continue };
            match self.found(&uid, facts, &path).await {
                Ok(true) => tracing::info!(uid, "a pod that ran before the agent is captured"),
                Ok(false) => {}
                Err(error) => tracing::warn!(uid, %error, "a pod that ran before the agent is not captured yet"),
            }
        }
    }

    /// Captures a pod that was found by a process; `false` when a runtime has told of it meanwhile.
    async fn found(&self, uid: &str, facts: &PodFacts, path: &Path) -> Result<bool, Error> {
        let netns = NetNs::open(path).map_err(Error::path("open the network namespace", path))?;
        let record = self.record(format!("found-{}", uid.replace('/', "_")), facts, path, &netns)?;
        {
            let mut records = self.records();
            if records.all().any(|known| known.uid == uid) {
                return Ok(false);
            }
            records.put(record.clone())?;
        }
        self.capture(&record).await.map(|_| true)
    }
}
