//! Steady load from a pod, with counts.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ambit_testbed::Pod;
use tokio::task::JoinSet;

use crate::mesh::call;

/// Calls that ended, with when they began and ended.
#[derive(Debug, Clone, Copy)]
struct Call {
    begun: Instant,
    ended: Instant,
    well: bool,
}

/// Callers that never stop; dropping it ends them.
pub struct Load {
    calls: Arc<Mutex<Vec<Call>>>,
    _callers: JoinSet<()>,
}

/// How many calls ended well and how many did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub well: usize,
    pub failed: usize,
}

impl Load {
    /// `callers` callers from `pod`, each with one connection at a time, at these addresses in turn.
    pub fn start(pod: &Pod, to: &[SocketAddr], callers: usize) -> Self {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for to in to.iter().copied().cycle().take(callers) {
            let (pod, calls) = (pod.clone(), Arc::clone(&calls));
            tasks.spawn(async move {
                loop {
                    let begun = Instant::now();
                    let well = call(&pod, to, b"load").await.is_ok_and(|(_, answer)| answer == b"loadbye");
                    calls.lock().unwrap().push(Call { begun, ended: Instant::now(), well });
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
        Self { calls, _callers: tasks }
    }

    /// The calls that both began and ended between these moments.
    pub fn between(&self, from: Instant, to: Instant) -> Counts {
        let calls = self.calls.lock().unwrap();
        let within: Vec<bool> =
            calls.iter().filter(|call| call.begun >= from && call.ended <= to).map(|call| call.well).collect();
        let well = within.iter().filter(|well| **well).count();
        Counts { well, failed: within.len() - well }
    }

    /// The calls of the time to come.
    pub async fn during(&self, time: Duration) -> Counts {
        let from = Instant::now();
        tokio::time::sleep(time).await;
        self.between(from, Instant::now())
    }

    /// When the first call that began after `from` ended well.
    pub async fn first_success(&self, from: Instant, limit: Duration) -> Option<Duration> {
        while from.elapsed() < limit {
            let found =
                self.calls.lock().unwrap().iter().filter(|call| call.begun >= from && call.well).map(|call| call.ended).min();
            if let Some(ended) = found {
                return Some(ended - from);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        None
    }
}
