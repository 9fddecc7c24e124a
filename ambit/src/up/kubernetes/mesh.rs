//! The mesh of a cluster, as it is shown: what its proxies log and measure, what its programs count, what is wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use istiod_lite::source::NamespacedName;
use kube::Client;
use tokio::sync::watch;
use tokio::time::timeout;

use super::applier::State;
use super::hearing::Hearing;
use super::scene::{Scenery, Speaker};
use super::watches::Watches;
use crate::cluster::{ClusterPlace, WireCount, crossed};
use crate::demo::stats::{self, ProgramStats};
use crate::error::{Error, Result};
use crate::local::access::AccessLine;
use crate::local::topology::Topology;
use crate::local::{Observer, ProcessUse, Wire};
use crate::up::shown::Shown;

/// Port of the proxies' metrics (wire contract, section 1).
const METRICS: u16 = 15020;

/// How long a proxy, or whoever watches the wire, may take to answer: it is asked again at the next look.
const ANSWER: Duration = Duration::from_secs(2);

/// Pause between two looks whether everything is ready.
const LOOK: Duration = Duration::from_millis(300);

/// Where the mesh of a cluster is seen.
pub(super) struct Parts {
    /// For questions.
    pub client: Client,
    /// For what goes on and on.
    pub patient: Client,
    /// How far the applying of the user's objects is.
    pub applied: watch::Receiver<State>,
    /// The cluster of `ambit cluster`, if it is one.
    pub place: Option<ClusterPlace>,
    /// A command that does this to the cluster.
    pub kubectl: String,
}

/// The mesh of a cluster.
pub(super) struct ClusterMesh {
    parts: Parts,
    watches: Watches,
    /// What crossed the wire before.
    wire: Option<WireCount>,
    seen: Mutex<Seen>,
}

struct Seen {
    hearing: Hearing,
    scenery: Scenery,
    counts: BTreeMap<NamespacedName, ProgramStats>,
    /// How often containers of pods, by their uid, had been started again when they were seen first.
    restarts: BTreeMap<String, i32>,
}

impl ClusterMesh {
    /// Begins to look.
    pub(super) async fn new(parts: Parts) -> Self {
        let watches = Watches::start(&parts.patient);
        let seen = Seen {
            hearing: Hearing::new(parts.patient.clone()),
            scenery: Scenery::default(),
            counts: BTreeMap::new(),
            restarts: BTreeMap::new(),
        };
        let wire = count(parts.place.as_ref()).await;
        Self { parts, watches, wire, seen: Mutex::new(seen) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything is ready; `progress` is told what it waits for, each time that changes.
    ///
    /// # Errors
    /// If it is not ready after `patience`, with what was missing then.
    pub(super) async fn wait_ready(&self, patience: Duration, mut progress: impl FnMut(&str)) -> Result<()> {
        let deadline = Instant::now() + patience;
        let (mut last, mut observer) = (String::new(), Observer::default());
        loop {
            self.look(&mut observer).await;
            let Some(waits_for) = self.waits_for() else { return Ok(()) };
            if Instant::now() > deadline {
                let wrong: String = self.notices().await.iter().map(|notice| format!("\n  {notice}")).collect();
                return Err(Error::NotReady(format!(
                    "not ready after {} s: still waiting for {waits_for}{wrong}",
                    patience.as_secs()
                )));
            }
            if waits_for != last {
                progress(&waits_for);
                last = waits_for;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What the mesh still waits for; nothing when it is ready.
    fn waits_for(&self) -> Option<String> {
        let applied = self.parts.applied.borrow().clone();
        if !applied.complete {
            return Some(applied.waits_for.unwrap_or_else(|| "the objects of the directory".to_owned()));
        }
        let blind = self.watches.notices().into_iter().next();
        blind.map(|notice| format!("the API server: {notice}")).or_else(|| unready(&self.seen()))
    }
}

fn unready(seen: &Seen) -> Option<String> {
    let pods = &seen.scenery.topology.pods;
    if pods.is_empty() {
        return Some("the first pod".to_owned());
    }
    if let Some((name, _)) = pods.iter().find(|(_, facts)| facts.waypoint && !facts.ready) {
        return Some(format!("the waypoint {name}"));
    }
    if let Some((name, _)) = pods.iter().find(|(_, facts)| !facts.ready) {
        return Some(format!("pod {name}"));
    }
    if let Some((name, _)) = pods.iter().find(|(_, facts)| facts.enrolled && !facts.captured) {
        return Some(format!("the capture of {name}"));
    }
    let quiet =
        |speaker: &&Speaker| speaker.proxy.is_none() && seen.counts.get(&speaker.pod).is_none_or(|program| !program.started);
    seen.scenery.speakers.iter().find(quiet).map(|speaker| format!("the program in pod {}", speaker.pod))
}

/// Which containers were started again since `before`, in words.
fn restarted(now: &BTreeMap<String, (String, i32)>, before: &BTreeMap<String, i32>) -> Vec<String> {
    let since = |uid: &String, count: i32| count - before.get(uid).copied().unwrap_or(count);
    let again = now.iter().map(|(uid, (name, count))| (name, since(uid, *count))).filter(|(_, count)| *count > 0);
    again.map(|(name, count)| format!("{name} was started again {count} times")).collect()
}

async fn count(place: Option<&ClusterPlace>) -> Option<WireCount> {
    timeout(ANSWER, crossed(place?)).await.ok()?.ok()
}

/// What crossed the wire between two moments.
fn since(before: WireCount, now: WireCount) -> Wire {
    Wire {
        packets: now.packets.saturating_sub(before.packets),
        bytes: now.bytes.saturating_sub(before.bytes),
        plaintext_marker_seen: now.marked > before.marked,
        unseen: now.unseen.saturating_sub(before.unseen),
    }
}

impl Shown for ClusterMesh {
    async fn look(&self, observer: &mut Observer) {
        let scenery = self.watches.everything().seen(&self.parts.applied.borrow().namespaces);
        observer.see(scenery.topology.clone());
        {
            let mut seen = self.seen();
            seen.hearing.listen(&scenery.speakers);
            for line in seen.hearing.take() {
                if let Some(proxy) = &line.speaker.proxy {
                    if let Some(line) = AccessLine::parse(&line.text) {
                        observer.take_line(proxy, &line);
                    }
                } else if let Some(program) = stats::of_line(&line.text) {
                    seen.counts.insert(line.speaker.pod.clone(), program);
                }
            }
            seen.counts.retain(|pod, _| scenery.topology.pods.contains_key(pod));
            seen.counts.iter().for_each(|(pod, program)| observer.take_counts(pod, program.clone()));
            for (uid, (_, count)) in &scenery.restarts {
                seen.restarts.entry(uid.clone()).or_insert(*count);
            }
            seen.restarts.retain(|uid, _| scenery.restarts.contains_key(uid));
            seen.scenery = scenery.clone();
        }
        let of_node = |speaker: &&Speaker| speaker.proxy.as_ref().is_some_and(|name| name.starts_with("ztunnel/"));
        let ask = |speaker| async move { (speaker, self.metrics(speaker).await) };
        let asked = join_all(scenery.speakers.iter().filter(of_node).map(ask));
        for (speaker, text) in asked.await {
            if let Some(text) = text {
                observer.take_metrics(&speaker.uid, &text);
            }
        }
    }

    fn topology(&self) -> Arc<Topology> {
        self.seen().scenery.topology.clone()
    }

    async fn wire(&self) -> Option<Wire> {
        Some(since(self.wire?, count(self.parts.place.as_ref()).await?))
    }

    async fn notices(&self) -> Vec<String> {
        let mut notices = self.parts.applied.borrow().notices.clone();
        notices.extend(self.watches.notices());
        let seen = self.seen();
        notices.extend(seen.scenery.stuck.values().cloned().chain(seen.hearing.notices()));
        drop(seen);
        notices
    }

    fn deaths(&self) -> Vec<String> {
        let seen = self.seen();
        restarted(&seen.scenery.restarts, &seen.restarts)
    }

    /// Nothing: the nodes of a cluster tell that to `kubectl top`.
    async fn usage(&self) -> Vec<ProcessUse> {
        Vec::new()
    }

    fn kill_control_plane(&self) -> String {
        format!("{} -n istio-system delete pod -l app.kubernetes.io/name=istiod-lite --force", self.parts.kubectl)
    }
}

impl ClusterMesh {
    /// The metrics of a proxy, by way of the API server, which reaches every pod.
    async fn metrics(&self, speaker: &Speaker) -> Option<String> {
        let pod = &speaker.pod;
        let path = format!("/api/v1/namespaces/{}/pods/{}:{METRICS}/proxy/metrics", pod.namespace, pod.name);
        let request = http::Request::get(path).body(Vec::new()).ok()?;
        timeout(ANSWER, self.parts.client.request_text(request)).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_often_something_was_started_again_before_is_not_told() {
        let now =
            BTreeMap::from([("1".to_owned(), ("ztunnel/node-1".to_owned(), 59)), ("2".to_owned(), ("shop/web".to_owned(), 4))]);
        let before = BTreeMap::from([("1".to_owned(), 57), ("2".to_owned(), 4)]);
        assert_eq!(restarted(&now, &before), ["ztunnel/node-1 was started again 2 times"]);
    }

    #[test]
    fn what_crossed_the_wire_before_is_not_this_ones_business() {
        let before = WireCount { packets: 10, bytes: 1000, marked: 3, unseen: 1 };
        let quiet = since(before, WireCount { packets: 15, bytes: 1500, marked: 3, unseen: 1 });
        assert_eq!(quiet, Wire { packets: 5, bytes: 500, plaintext_marker_seen: false, unseen: 0 });
        assert!(since(before, WireCount { marked: 4, ..before }).plaintext_marker_seen);
    }
}
