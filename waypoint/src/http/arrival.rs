//! When a request has come whole. Times that a route sets for its answer begin then, as Envoy's do: how long a client takes to send its
//! request says nothing about who answers it.

use std::{
    future::pending,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

/// When nothing of a body has passed on for so long, its rest is not waited for any more: whoever answers may have stopped reading.
const STALLED: Duration = Duration::from_secs(60);

/// Tells when a request has come whole, or is known not to. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Arrival(Option<Coming>);

#[derive(Debug, Clone)]
struct Coming {
    ends: CancellationToken,
    /// Bytes that have passed on.
    passed: Arc<AtomicU64>,
    /// When it had come whole, once somebody has waited for that.
    whole: Arc<OnceLock<Instant>>,
}

/// The end of a time.
pub type Expiry = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Coming {
    /// Completes when nothing has passed for `limit` of what has not come whole.
    async fn paused(&self, limit: Duration) {
        loop {
            let before = self.passed.load(Ordering::Relaxed);
            tokio::select! {
                () = sleep(limit) => {}
                () = self.ends.cancelled() => pending::<()>().await,
            }
            if self.passed.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    /// Completes when nothing has passed for `pause`, nor for `limit` after that.
    async fn unmoved(&self, pause: Duration, limit: Duration) {
        loop {
            let before = self.passed.load(Ordering::Relaxed);
            sleep(pause).await;
            if self.passed.load(Ordering::Relaxed) != before {
                continue;
            }
            sleep(limit).await;
            if self.passed.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

impl Arrival {
    /// Of a request that has come already if `whole`, else when the guard is dropped; `passed` counts what has passed on of it.
    pub fn new(whole: bool, passed: &Arc<AtomicU64>) -> (Self, Option<DropGuard>) {
        let coming = (!whole).then(|| Coming { ends: CancellationToken::new(), passed: passed.clone(), whole: Arc::default() });
        let guard = coming.as_ref().map(|coming| coming.ends.clone().drop_guard());
        (Self(coming), guard)
    }

    /// Whether it has come whole.
    pub fn is_whole(&self) -> bool {
        self.0.as_ref().is_none_or(|coming| coming.ends.is_cancelled())
    }

    /// How long ago it has come whole, as far as anybody waits for that, for one that is sent on since `sent`.
    pub fn passed(&self, sent: Instant) -> Duration {
        match &self.0 {
            None => sent.elapsed(),
            Some(coming) => coming.whole.get().map(Instant::elapsed).unwrap_or_default(),
        }
    }

    /// Completes so long after the request has come whole.
    pub async fn after(&self, limit: Duration) {
        if let Some(coming) = &self.0 {
            coming.ends.cancelled().await;
            coming.whole.get_or_init(Instant::now);
        }
        sleep(limit).await;
    }

    /// The same, on its own.
    pub fn expiry(self, limit: Duration) -> Expiry {
        Box::pin(async move { self.after(limit).await })
    }

    /// Completes when nothing has passed on for `limit` of a request that has not come whole. Of use before the answer begins, as below.
    pub fn paused(self, limit: Duration) -> Expiry {
        match self.0 {
            None => Box::pin(pending()),
            Some(coming) => Box::pin(async move { coming.paused(limit).await }),
        }
    }

    /// Completes so long after the rest of the request is not waited for any more, unless more of it passes on meanwhile. Of use before the
    /// answer begins: later both sides may have reason to be silent.
    pub fn stuck(self, limit: Duration) -> Expiry {
        match self.0 {
            // Most requests: a future without state takes no memory.
            None => Box::pin(pending()),
            Some(coming) => Box::pin(async move { coming.unmoved(STALLED, limit).await }),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn a_time_begins_when_the_request_has_come_whole() {
        const LIMIT: Duration = Duration::from_millis(20);
        let passed = Arc::default();
        Arrival::new(true, &passed).0.after(LIMIT).await;
        let (arrival, guard) = Arrival::new(false, &passed);
        let mut late = arrival.clone().expiry(LIMIT);
        assert!(poll!(&mut late).is_pending() && !arrival.is_whole());
        sleep(3 * LIMIT).await;
        assert!(poll!(&mut late).is_pending(), "it began before");
        assert_eq!(arrival.passed(Instant::now()), Duration::ZERO);
        drop(guard);
        assert!(arrival.is_whole());
        late.await;
        assert!(arrival.passed(Instant::now()) >= LIMIT, "it is known since when it is whole");
        arrival.after(LIMIT).await;
    }

    #[tokio::test]
    async fn a_request_of_which_nothing_comes_for_a_time_is_paused_until_it_has_come_whole() {
        const LIMIT: Duration = Duration::from_millis(20);
        let passed = Arc::default();
        let (arrival, guard) = Arrival::new(false, &passed);
        let began = Instant::now();
        let mut paused = arrival.clone().paused(LIMIT);
        assert!(poll!(&mut paused).is_pending());
        passed.fetch_add(1, Ordering::Relaxed);
        paused.await;
        assert!(began.elapsed() >= 2 * LIMIT, "it did not begin anew: {:?}", began.elapsed());
        let mut never = arrival.paused(LIMIT);
        assert!(poll!(&mut never).is_pending());
        drop(guard);
        assert!(tokio::time::timeout(3 * LIMIT, never).await.is_err(), "it has come whole");
    }

    #[tokio::test]
    async fn a_request_of_which_nothing_more_passes_on_is_not_waited_for() {
        const PART: Duration = Duration::from_millis(20);
        let passed = Arc::default();
        let (whole, _) = Arrival::new(true, &passed);
        let mut never = whole.stuck(PART);
        let (arrival, _guard) = Arrival::new(false, &passed);
        let began = Instant::now();
        let coming = arrival.0.clone().unwrap();
        let mut stuck = Box::pin(coming.unmoved(PART, PART));
        assert!(poll!(&mut stuck).is_pending());
        passed.fetch_add(1, Ordering::Relaxed);
        stuck.await;
        assert!(began.elapsed() >= 3 * PART, "it did not begin anew: {:?}", began.elapsed());
        assert!(poll!(&mut never).is_pending(), "of one that has come whole");
    }
}
