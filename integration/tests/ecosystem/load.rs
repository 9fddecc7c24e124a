//! Requests from a pod, one after the other, each on a connection of its own, and what became of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ambit_integration::wait;
use ambit_runtime::netns::NetNs;
use ambit_runtime::socket::{ConnectOptions, connect};
use anyhow::{Context, ensure};
use tokio_util::task::AbortOnDropHandle;

use crate::http;
use crate::user::PATIENCE;

/// A request that takes longer has failed.
const LATE: Duration = Duration::from_secs(10);

/// Between two requests: a good fifteen a second, where an answer takes little.
const PAUSE: Duration = Duration::from_millis(50);

/// The end of a request.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub at: Instant,
    /// What was answered: status and version of the program.
    pub answer: Result<(u16, String), String>,
}

impl Outcome {
    /// Whether it was answered well.
    pub fn fine(&self) -> bool {
        self.status() == Some(200)
    }

    pub fn status(&self) -> Option<u16> {
        self.answer.as_ref().ok().map(|(status, _)| *status)
    }

    /// Whether it was a program of this version that answered.
    pub fn is_from(&self, version: &str) -> bool {
        self.answer.as_ref().is_ok_and(|(_, by)| by == version)
    }
}

/// Requests that go on until this is dropped.
pub struct Load {
    service: String,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    _task: AbortOnDropHandle<()>,
}

impl Load {
    /// Asks port 8080 of a service at this address for these paths in turn.
    pub fn start(from: NetNs, service: &str, address: IpAddr, paths: &'static [&'static str]) -> Self {
        let outcomes = Arc::<Mutex<Vec<Outcome>>>::default();
        let (told, host) = (Arc::clone(&outcomes), service.to_owned());
        let task = tokio::spawn(async move {
            for path in paths.iter().cycle() {
                let asked = tokio::time::timeout(LATE, ask(&from, &host, address, path)).await;
                let answer = asked.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {LATE:?}")));
                let answer = answer.map_err(|error| format!("{error:#}"));
                let outcome = Outcome { at: Instant::now(), answer };
                told.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { service: service.to_owned(), outcomes, _task: AbortOnDropHandle::new(task) }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Outcome>> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that ended between these moments.
    pub fn between(&self, from: Instant, to: Instant) -> Vec<Outcome> {
        self.all().iter().filter(|outcome| outcome.at >= from && outcome.at < to).cloned().collect()
    }

    pub fn since(&self, from: Instant) -> Vec<Outcome> {
        self.between(from, Instant::now())
    }

    /// Waits until so many in a row, from now on, are as wanted.
    pub async fn settled(&self, what: &str, count: usize, wanted: impl Fn(&Outcome) -> bool) -> anyhow::Result<()> {
        let since = Instant::now();
        let look = async || {
            tokio::time::sleep(PAUSE).await;
            let outcomes = self.since(since);
            let run = outcomes.iter().rev().take_while(|outcome| wanted(outcome)).count();
            if run >= count { Ok(()) } else { Err(format!("{run} in a row, {}", summed(&outcomes))) }
        };
        wait::until(&format!("{}: {what}", self.service), PATIENCE, look).await?;
        Ok(())
    }

    /// Fails unless requests since then were answered, and all well.
    pub fn all_fine(&self, since: Instant) -> anyhow::Result<usize> {
        let outcomes = self.since(since);
        ensure!(!outcomes.is_empty(), "nobody asked {}", self.service);
        let all = outcomes.iter().all(Outcome::fine);
        ensure!(all, "requests to {} failed: {}", self.service, summed(&outcomes));
        Ok(outcomes.len())
    }
}

/// How often what was answered.
pub fn summed(outcomes: &[Outcome]) -> String {
    let mut sums = BTreeMap::<_, usize>::new();
    for outcome in outcomes {
        *sums.entry(&outcome.answer).or_default() += 1;
    }
    format!("{sums:?}")
}

async fn ask(from: &NetNs, host: &str, address: IpAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let options = ConnectOptions { netns: Some(from), ..ConnectOptions::default() };
    let stream = connect(SocketAddr::new(address, 8080), &options).await.context("connecting")?;
    let answer = http::get(stream, host, path).await?;
    let version = answer.headers.get("x-version").and_then(|value| value.to_str().ok()).unwrap_or_default();
    Ok((answer.status.as_u16(), version.to_owned()))
}
