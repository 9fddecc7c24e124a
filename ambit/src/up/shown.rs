//! What is shown: a mesh of either kind, as the viewer and the report ask for it.

use std::sync::Arc;

use crate::local::topology::Topology;
use crate::local::{LocalMesh, Observer, ProcessUse, Wire};

/// A mesh that can be shown.
pub(super) trait Shown {
    /// Feeds the observer with everything new.
    async fn look(&self, observer: &mut Observer);

    /// What runs where.
    fn topology(&self) -> Arc<Topology>;

    /// What crossed the wire between the nodes; nothing where nobody watches it.
    async fn wire(&self) -> Option<Wire>;

    /// What is wrong: with the files, with what the objects refer to, with pods.
    async fn notices(&self) -> Vec<String>;

    /// Which programs died or were started again.
    fn deaths(&self) -> Vec<String>;

    /// What each program has used.
    async fn usage(&self) -> Vec<ProcessUse>;

    /// How to kill the control plane, from another terminal.
    fn kill_control_plane(&self) -> String;
}

impl Shown for LocalMesh {
    async fn look(&self, observer: &mut Observer) {
        observer.look(self).await;
    }

    fn topology(&self) -> Arc<Topology> {
        LocalMesh::topology(self).borrow().clone()
    }

    async fn wire(&self) -> Option<Wire> {
        Some(LocalMesh::wire(self))
    }

    async fn notices(&self) -> Vec<String> {
        let problems = self.problems();
        let notices = problems.iter().map(ToString::to_string).chain(LocalMesh::notices(self));
        notices.chain(self.unmet().await).collect()
    }

    fn deaths(&self) -> Vec<String> {
        let mut deaths = Vec::new();
        for (name, process) in self.processes() {
            let state = process.state();
            if let (None, Some(end)) = (state.pid, state.last_end) {
                deaths.push(format!("{name} is down: {end}"));
            } else if state.restarts > 0 {
                deaths.push(format!("{name} was started again {} times", state.restarts));
            }
        }
        deaths
    }

    async fn usage(&self) -> Vec<ProcessUse> {
        LocalMesh::usage(self)
    }

    fn kill_control_plane(&self) -> String {
        format!("pkill -9 -f 'istiod --source-dir {}'", self.manifests().display())
    }
}
