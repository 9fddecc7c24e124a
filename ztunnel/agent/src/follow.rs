//! Follows the labels: pods that enter the mesh are captured, those that leave it are let go, and those that ran before are found.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use ambit_runtime::netns::NetNs;
use futures::{StreamExt, stream};
use tokio::time::Instant;

use crate::{
    Error,
    node::{AT_ONCE, Node},
    records::Record,
    source::PodFacts,
};

/// Pause between two looks at the source.
const LOOK: Duration = Duration::from_millis(500);
/// Pause between two searches for pods that nobody told of.
const SEARCH: Duration = Duration::from_secs(3);
/// Searches for the processes of a pod that is not in the mesh: one that runs has processes, and others never will.
const SEARCHES: u32 = 3;

/// The pods that are not in the mesh and of which there is no record: whether something of the mesh is left in them.
#[derive(Debug, Default)]
struct Left {
    /// How often each was looked for.
    sought: BTreeMap<String, u32>,
}

impl Left {
    /// Of these pods the ones that are still to be looked for. Forgets all others.
    fn seek(&mut self, uids: &BTreeSet<String>) -> BTreeSet<String> {
        self.sought.retain(|uid, _| uids.contains(uid));
        for uid in uids {
            *self.sought.entry(uid.clone()).or_default() += 1;
        }
        self.sought.iter().filter(|(_, times)| **times <= SEARCHES).map(|(uid, _)| uid.clone()).collect()
    }

    /// Nothing is left in this pod.
    fn is_clean(&mut self, uid: &str) {
        self.sought.insert(uid.to_owned(), SEARCHES);
    }

    /// It could not be seen to: it is looked for again.
    fn is_not_clean(&mut self, uid: &str) {
        self.sought.insert(uid.to_owned(), 0);
    }
}

impl Node {
    /// Follows the labels for ever: pods that enter the mesh are captured, those that leave it are let go.
    pub async fn follow(&self) {
        let (mut searched, mut left) = (None::<Instant>, Left::default());
        loop {
            tokio::time::sleep(LOOK).await;
            match self.source.pods() {
                Ok(pods) => {
                    self.reconcile(&pods).await;
                    if searched.is_none_or(|searched| searched.elapsed() > SEARCH) {
                        searched = Some(Instant::now());
                        self.search(&pods, &mut left).await;
                    }
                }
                Err(error) => tracing::warn!(%error, "the pods of the node cannot be read; all stay as they are"),
            }
        }
    }

    /// Sees that the sandboxes that are known are as the labels want them, several at once: one for which the kernel or a proxy takes its
    /// time does not hold up all others.
    async fn reconcile(&self, pods: &[PodFacts]) {
        let pods: BTreeMap<&str, &PodFacts> = pods.iter().map(|facts| (facts.uid.as_str(), facts)).collect();
        let held: BTreeSet<String> = self.agent().pods().into_iter().collect();
        let records: Vec<Record> = self.records().all().cloned().collect();
        let (pods, held) = (&pods, &held);
        let each = stream::iter(records).for_each_concurrent(AT_ONCE, async |record| {
            let netns = match record.open() {
                Ok(Some(netns)) => netns,
                Ok(None) => {
                    self.records().remove(&record.container);
                    return;
                }
                Err(error) => {
                    tracing::warn!(pod = record.name, namespace = record.namespace, %error, "a sandbox cannot be looked at");
                    return;
                }
            };
            // A pod that the source does not know any more is ending: it stays as it is.
            let Some(wanted) = pods.get(record.uid.as_str()).and_then(|facts| self.wanted(facts)) else { return };
            if wanted != held.contains(&record.uid) || wanted != record.captured {
                self.change(&record.container, &netns).await;
            }
        });
        each.await;
    }

    /// Captures a sandbox or lets it go, if it is not as it is wanted, and notes it. Asked is for what holds by now: others may have taken
    /// their time since it was found that something is to be done.
    async fn change(&self, container: &str, netns: &NetNs) {
        let Some(record) = self.records().get(container).cloned() else { return };
        let Some(wanted) = self.wanted_now(&record.uid) else { return };
        let done = match (wanted, self.agent().pods().contains(&record.uid)) {
            (true, false) => self.captured(record.clone()).await,
            (false, true) => self.agent().remove(&record.uid).await,
            // It was let go before, not all the way.
            (false, false) if record.captured => self.agent().free(netns).await,
            _ => Ok(()),
        };
        if let Err(error) = done {
            tracing::warn!(pod = record.name, namespace = record.namespace, wanted, %error, "a pod's capture could not be changed");
            return;
        }
        let mut records = self.records();
        // It may have ended, or been started anew.
        let same = records.get(container).filter(|now| (&now.uid, now.identity()) == (&record.uid, record.identity())).cloned();
        if let Some(now) = same.filter(|now| now.captured != wanted)
            && let Err(error) = records.put(Record { captured: wanted, ..now })
        {
            tracing::warn!(%error, "a sandbox is not recorded");
        }
    }

    /// Whether pods are in the mesh by what was known once.
    pub(crate) fn has_captured(&self) -> bool {
        self.records().all().any(|record| record.captured)
    }

    /// Whether a pod is to be in the mesh, as the source has it now; nothing if that is not known.
    fn wanted_now(&self, uid: &str) -> Option<bool> {
        self.source.pods().ok()?.iter().find(|facts| facts.uid == uid).and_then(|facts| self.wanted(facts))
    }

    /// Captures a pod that runs. Before its rules it is recorded: whoever finds something of them there knows whose they are.
    async fn captured(&self, mut record: Record) -> Result<(), Error> {
        record.captured = true;
        {
            let mut records = self.records();
            if records.get(&record.container).is_none() {
                // It ended meanwhile.
                return Ok(());
            }
            records.put(record.clone())?;
        }
        self.capture(&record).await.map(drop)
    }

    /// Looks for pods that no runtime told of, because they ran before the agent did or what was noted of them is lost: those of the mesh
    /// are captured, and from the others is taken what an earlier agent may have left in them.
    async fn search(&self, pods: &[PodFacts], left: &mut Left) {
        let known: BTreeSet<String> = self.records().all().map(|record| record.uid.clone()).collect();
        let held: BTreeSet<String> = self.agent().pods().into_iter().collect();
        let of = |wanted: bool| {
            let unknown = |facts: &&PodFacts| {
                self.wanted(facts) == Some(wanted) && !known.contains(&facts.uid) && (wanted || !held.contains(&facts.uid))
            };
            pods.iter().filter(unknown).map(|facts| (facts.uid.as_str(), facts)).collect::<BTreeMap<_, _>>()
        };
        let (labelled, others) = (of(true), of(false));
        let others =
            if self.all_known(pods) { left.seek(&others.keys().map(|uid| (*uid).to_owned()).collect()) } else { BTreeSet::new() };
        let uids: BTreeSet<String> = labelled.keys().map(|uid| (*uid).to_owned()).chain(others).collect();
        if uids.is_empty() {
            return;
        }
        let before = self.before.clone();
        // There may be many processes, and the pods that are kept must not wait.
        let found = tokio::task::spawn_blocking(move || before.find(&uids)).await.unwrap_or_default();
        let labelled = &labelled;
        let each = stream::iter(found).map(async |(uid, path)| match labelled.get(uid.as_str()) {
            Some(facts) => {
                match self.found(&uid, facts, &path).await {
                    Ok(true) => tracing::info!(uid, "a pod that ran before the agent is captured"),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(uid, %error, "a pod that ran before the agent is not captured yet"),
                }
                None
            }
            None => Some((self.clean(&uid, &path).await, uid)),
        });
        let cleaned: Vec<_> = each.buffer_unordered(AT_ONCE).collect().await;
        for (clean, uid) in cleaned.into_iter().flatten() {
            match clean {
                Ok(true) => left.is_clean(&uid),
                Ok(false) => left.is_not_clean(&uid),
                Err(error) => {
                    tracing::warn!(uid, %error, "a pod that is not in the mesh has rules of it, which cannot be removed yet");
                    left.is_not_clean(&uid);
                }
            }
        }
    }

    /// Captures a pod that was found by a process; `false` when a runtime has told of it meanwhile, or it is no longer to be in the mesh.
    async fn found(&self, uid: &str, facts: &PodFacts, path: &Path) -> Result<bool, Error> {
        if self.wanted_now(uid) != Some(true) {
            return Ok(false);
        }
        let netns = NetNs::open(path).map_err(Error::path("open the network namespace", path))?;
        let record = self.record(Record::found(uid), facts, path, &netns)?;
        {
            let mut records = self.records();
            if records.all().any(|known| known.uid == uid) {
                return Ok(false);
            }
            records.put(record.clone())?;
        }
        self.capture(&record).await.map(|_| true)
    }

    /// Whether it is known of all pods whether they are in the mesh. Until then, what is found in a namespace may be that of one of them.
    fn all_known(&self, pods: &[PodFacts]) -> bool {
        pods.iter().all(|facts| self.wanted(facts).is_some())
    }

    /// Takes away what an agent before, of which nothing is noted any more, has left in a pod that is not in the mesh: while it is there and
    /// no proxy serves the pod, all its connections are refused. `false` when that is not to be done now.
    async fn clean(&self, uid: &str, path: &Path) -> Result<bool, Error> {
        let netns = NetNs::open(path).map_err(Error::path("open the network namespace", path))?;
        if !self.agent().rules().traces(&netns).await? {
            return Ok(true);
        }
        // A namespace that somebody is captured in is his.
        if self.records().all().any(|record| record.inode == netns.inode()) || self.agent().namespaces().contains(&netns) {
            return Ok(true);
        }
        let pods = self.source.pods()?;
        let Some(facts) = pods.iter().find(|facts| facts.uid == uid) else { return Ok(false) };
        if !self.all_known(&pods) || self.wanted(facts) != Some(false) {
            return Ok(false);
        }
        // Nothing is noted of it, so what is known may be older than the label by which it was captured.
        if !self.excludes(facts) && !self.source.confirm(facts).await? {
            return Ok(false);
        }
        self.agent().free(&netns).await?;
        tracing::warn!(uid, "a pod that is not in the mesh had rules of it, of which nothing was noted; they are removed");
        metrics::counter!("ambit_capture_repairs_total", "what" => "left").increment(1);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_without_processes_is_not_sought_for_ever_and_one_that_is_labelled_meanwhile_begins_anew() {
        let uids = |uids: &[&str]| uids.iter().map(|uid| (*uid).to_owned()).collect::<BTreeSet<String>>();
        let mut left = Left::default();
        for _ in 0..SEARCHES {
            assert_eq!(left.seek(&uids(&["a", "b"])), uids(&["a", "b"]));
        }
        assert_eq!(left.seek(&uids(&["a", "b", "c"])), uids(&["c"]));
        left.is_clean("c");
        assert!(left.seek(&uids(&["a", "c"])).is_empty());
        assert_eq!(left.seek(&uids(&["b", "c"])), uids(&["b"]), "it was away meanwhile");
        left.is_not_clean("b");
        assert_eq!(left.seek(&uids(&["b", "c"])), uids(&["b"]));
    }
}
