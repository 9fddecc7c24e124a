//! When a mesh is ready, and why it is not.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::LocalMesh;
use crate::demo::stats;
use crate::error::{Error, Result};
use crate::local::process::locked;
use crate::local::programs::{ADMIN, MONITORING, READY};
use crate::local::topology::Topology;
use crate::local::{probe, settled};

/// Pause between two looks whether the mesh is ready.
const LOOK: Duration = Duration::from_millis(30);

impl LocalMesh {
    /// What the mesh still waits for; nothing when it is ready.
    pub async fn waits_for(&self) -> Option<String> {
        let topology = self.views.topology.borrow().clone();
        if topology.pods.is_empty() {
            return Some("the first reading of the directory".to_owned());
        }
        let control_plane = match self.bed.control_plane().await {
            Ok(place) => probe::answers_ok(place.netns(), MONITORING, "/healthz/ready").await,
            Err(_) => false,
        };
        if !control_plane {
            return Some("the control plane".to_owned());
        }
        for node in self.bed.nodes() {
            if topology.nodes.iter().any(|name| name == node.name())
                && !probe::answers_ok(node.netns(), READY, "/healthz/ready").await
            {
                return Some(format!("the proxy of {}", node.name()));
            }
        }
        if let Some((name, _)) = topology.pods.iter().find(|(_, facts)| facts.waypoint && !facts.ready) {
            return Some(format!("the waypoint {name}"));
        }
        if let Some((name, _)) = topology.pods.iter().find(|(_, facts)| facts.enrolled && !facts.captured) {
            return Some(format!("the capture of {name}"));
        }
        if let Some((name, _)) = topology.pods.iter().find(|(_, facts)| !facts.ready) {
            return Some(format!("pod {name}"));
        }
        if let Some(unsettled) = self.unsettled(&topology).await {
            return Some(unsettled);
        }
        for (name, facts) in &topology.pods {
            let Some(stats) = facts.stats.as_ref().filter(|path| path.exists()) else { continue };
            if stats::read(stats).await.is_ok_and(|program| !program.started) {
                return Some(format!("the program in pod {name}"));
            }
        }
        None
    }

    /// What some proxy does not hold yet of all that runs.
    async fn unsettled(&self, topology: &Topology) -> Option<String> {
        let mut knowledge = Vec::new();
        for node in self.bed.nodes().into_iter().filter(|node| topology.nodes.iter().any(|name| name == node.name())) {
            let dump = probe::get(node.netns(), ADMIN, "/config_dump").await;
            let Some(dump) = dump.ok().and_then(|(_, body)| serde_json::from_str(&body).ok()) else {
                return Some(format!("the proxy of {}", node.name()));
            };
            if let Some(missing) = settled::missing_at_ztunnel(&dump, node.name(), topology) {
                return Some(missing);
            }
            knowledge.push(dump);
        }
        for waypoint in &topology.waypoints {
            let services = knowledge.first().map(|dump| settled::services_through(dump, waypoint, topology)).unwrap_or_default();
            let place = self.pod(&waypoint.namespace, &waypoint.name).ok()?;
            let mut config = String::new();
            // The first is what is in force in ours, and all of it; Envoy lists its endpoints at the last.
            for page in ["/config_dump/compiled", "/config_dump", "/clusters"] {
                if let Ok((status, body)) = probe::get(place.netns(), ADMIN, page).await
                    && status == 200
                {
                    config.push_str(&body);
                    if page.ends_with("compiled") {
                        break;
                    }
                }
            }
            if let Some(missing) = settled::missing_at_waypoint(&config, &services, topology) {
                return Some(missing);
            }
        }
        None
    }

    /// Waits until the mesh is ready; `progress` is told what it waits for, each time that changes. How long it took since the start.
    ///
    /// # Errors
    /// If it is not ready after `patience`, with what was missing then and the end of the log of that program.
    pub async fn wait_ready(&self, patience: Duration, mut progress: impl FnMut(&str)) -> Result<Duration> {
        let deadline = Instant::now() + patience;
        let mut last = String::new();
        while let Some(waits_for) = self.waits_for().await {
            if Instant::now() > deadline {
                return Err(Error::NotReady(self.why_not_ready(&waits_for, patience)));
            }
            if waits_for != last {
                progress(&waits_for);
                last = waits_for;
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(self.began.elapsed())
    }

    fn why_not_ready(&self, waits_for: &str, patience: Duration) -> String {
        let mut text = format!("not ready after {} s: still waiting for {waits_for}", patience.as_secs());
        for notice in self.notices() {
            let _never = write!(text, "\n  {notice}");
        }
        for problem in self.problems().iter() {
            let _never = write!(text, "\n  {problem}");
        }
        for (name, process) in locked(&self.views.processes).iter() {
            let state = process.state();
            if let (Some(end), true) = (&state.last_end, state.pid.is_none() || state.restarts > 0) {
                let _never = write!(text, "\n  {name}: {end} (started again {} times)", state.restarts);
                for line in self.log_end(name, 5) {
                    let _never = write!(text, "\n    {line}");
                }
            }
        }
        text
    }
}
