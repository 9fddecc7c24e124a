//! Steady load while something else happens: what went well and what failed, counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::task::AbortOnDropHandle;

use crate::client::{Client, get};

/// Pause between two requests of one worker.
const PACE: Duration = Duration::from_millis(10);

/// What the load has seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Requests answered with 200.
    pub fine: u64,
    /// Requests refused, lost, or answered with something else.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Shared {
    fine: AtomicU64,
    failed: AtomicU64,
}

/// Requests that go on until this is dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    _workers: Vec<AbortOnDropHandle<()>>,
}

impl Load {
    /// A new connection for each request, on two workers. Each request carries `marker`, in plain text as far as the pod knows.
    #[must_use]
    pub fn new_connections(client: &Client, marker: &'static str) -> Self {
        Self::start(2, |shared| {
            let client = client.clone();
            async move {
                loop {
                    let answer = client.send(get("/").header("x-marker", marker)).await;
                    shared.count(answer.is_ok_and(|answer| answer.status == 200));
                    tokio::time::sleep(PACE).await;
                }
            }
        })
    }

    /// Requests on connections that stay open; a connection that breaks is made anew.
    #[must_use]
    pub fn kept_connections(client: &Client) -> Self {
        Self::start(2, |shared| {
            let client = client.clone();
            async move {
                let mut session = None;
                loop {
                    if session.is_none() {
                        session = client.session().await.ok();
                    }
                    let fine = match &mut session {
                        Some(open) => open.get("/").await.is_ok_and(|answer| answer.status == 200),
                        None => false,
                    };
                    if !fine {
                        session = None;
                    }
                    shared.count(fine);
                    tokio::time::sleep(PACE).await;
                }
            }
        })
    }

    fn start<F: Future<Output = ()> + Send + 'static>(workers: usize, worker: impl Fn(Arc<Shared>) -> F) -> Self {
        let shared = Arc::new(Shared::default());
        let workers = (0..workers).map(|_| AbortOnDropHandle::new(tokio::spawn(worker(shared.clone())))).collect();
        Self { shared, _workers: workers }
    }

    /// What was seen so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { fine: self.shared.fine.load(Ordering::Relaxed), failed: self.shared.failed.load(Ordering::Relaxed) }
    }

    /// What is seen in the next `time`.
    pub async fn during(&self, time: Duration) -> Counts {
        let before = self.counts();
        tokio::time::sleep(time).await;
        let after = self.counts();
        Counts { fine: after.fine - before.fine, failed: after.failed - before.failed }
    }
}

impl Shared {
    fn count(&self, fine: bool) {
        if fine { &self.fine } else { &self.failed }.fetch_add(1, Ordering::Relaxed);
    }
}
