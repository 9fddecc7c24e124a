//! Who may write to the cluster: of all replicas of the control plane the one that holds a Lease. Every replica serves.
//!
//! The rules are those of client-go's leader election: a Lease of 15 s, renewed every 2 s; who cannot renew it for 10 s stops to lead,
//! so that it stops before another may begin. Times in the Lease are never compared with a local clock: another's Lease has run out
//! when it was seen unchanged for its length, by our own clock. `election.rs` decides and `lease.rs` asks.
//! Rules: <https://kubernetes.io/docs/concepts/architecture/leases/>, <https://pkg.go.dev/k8s.io/client-go/tools/leaderelection>.
//!
//! Writers run in [`Leadership::while_leading`], and [`Candidacy::end`] is called once they have ended.

mod election;
mod lease;
#[cfg(test)]
mod tests;

use std::time::Duration;

use kube::Client;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use lease::Elector;

/// The Lease of the replica that writes to the cluster, in the root namespace.
pub const LEASE: &str = "istiod-lite-leader";

/// Lengths of time in an election.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// How long a Lease holds that nobody renews; whole seconds.
    pub lease: Duration,
    /// How long after the last renewal the holder stops to lead; less than the length of the Lease.
    pub renew: Duration,
    /// The time between two attempts, to renew the Lease or to get it.
    pub retry: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self { lease: Duration::from_secs(15), renew: Duration::from_secs(10), retry: Duration::from_secs(2) }
    }
}

/// This replica's part in the election for [`LEASE`].
pub struct Candidacy {
    stop: oneshot::Sender<()>,
    /// `None` once it has ended.
    task: Option<JoinHandle<()>>,
    leadership: Leadership,
}

impl Candidacy {
    /// Takes part in the root namespace, under the replica's name and something random, from when `ready` completes: who knows nothing of
    /// the cluster yet must not keep the Lease from those who do.
    #[must_use]
    pub fn begin(client: &Client, namespace: &str, replica: &str, ready: impl Future<Output = ()> + Send + 'static) -> Self {
        let identity = format!("{replica}_{:016x}", fastrand::u64(..));
        let (elector, leadership) = Elector::new(client, namespace, LEASE, identity, Terms::default());
        let (stop, mut stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                () = ready => {}
            }
            let stopped = async {
                let _ = stopped.await;
            };
            elector.run(stopped).await;
        });
        Self { stop, task: Some(task), leadership }
    }

    /// What a writer asks whether it may write.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Completes when the election ends by itself, which only a panic can be the cause of: from then on this replica does not lead.
    pub async fn ended(&mut self) {
        if let Some(task) = &mut self.task {
            let _ = task.await;
            self.task = None;
        }
    }

    /// Gives the Lease up, if it is ours. End the writers before, so that none is still about when the next replica leads.
    pub async fn end(self) {
        drop(self.stop);
        if let Some(task) = self.task {
            // A panic in it was said already, and changes nothing any more.
            let _ = task.await;
        }
    }
}

/// Whether this replica leads. Clones share it.
#[derive(Debug, Clone)]
pub struct Leadership {
    /// Until when the Lease allows to write, unless it is renewed; `None` when another may hold it.
    until: watch::Receiver<Option<Instant>>,
}

impl Leadership {
    /// Whether this replica may write at this moment. Cheap: ask before each write, for a task that did not run for a while may not know
    /// yet that the Lease is lost.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Completes when this replica leads; never, once the election has ended.
    pub async fn gained(&mut self) {
        if self.until.wait_for(|until| until.is_some_and(|until| Instant::now() < until)).await.is_err() {
            std::future::pending().await
        }
    }

    /// Completes when this replica does not lead (any more): at once when the Lease runs out, even if the election hangs.
    pub async fn lost(&mut self) {
        loop {
            let Some(until) = *self.until.borrow_and_update() else { return };
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                changed = self.until.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Runs `work` each time that this replica leads, and drops it at once when it does not any more. Never completes, unless `work`
    /// does so by itself while this replica leads.
    pub async fn while_leading<T, F: Future<Output = T>>(mut self, mut work: impl FnMut() -> F) -> T {
        loop {
            self.gained().await;
            tokio::select! {
                biased;
                () = self.lost() => {}
                done = work() => return done,
            }
        }
    }
}
