//! Streams begin in turns: after a restart every proxy comes at once, each with a request and a response of some megabytes.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

/// So many at a time, in the order in which they came.
#[derive(Debug, Clone)]
pub struct Turns {
    free: Arc<Semaphore>,
    longest: Duration,
}

/// Ends when all that it was given to is dropped, or has lasted for the longest time that one may: a peer that does not read keeps nobody out
/// for ever.
#[derive(Debug, Clone)]
pub struct Turn {
    _over: Arc<oneshot::Sender<()>>,
}

impl Turns {
    /// `at_once` of them, none for longer than `longest`.
    pub fn new(at_once: usize, longest: Duration) -> Self {
        Self { free: Arc::new(Semaphore::new(at_once)), longest }
    }

    /// Waits until it is one's turn, however many come first: were they let in because they waited for long, nothing would be
    /// bounded just when it is too much.
    pub async fn next(&self) -> Turn {
        let (free, longest) = (Arc::clone(&self.free), self.longest);
        let (turn, mut over) = oneshot::channel();
        let (begin, begins) = oneshot::channel();
        // A stream whose peer does not read is not looked at, so it can neither take its turn nor look at the time itself.
        tokio::spawn(async move {
            let permit = tokio::select! {
                permit = free.acquire_owned() => permit,
                _ = &mut over => return,
            };
            _ = begin.send(());
            _ = timeout(longest, over).await;
            drop(permit);
        });
        _ = begins.await;
        Turn { _over: Arc::new(turn) }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn who_is_not_looked_at_any_more_when_its_turn_comes_keeps_nobody_out() {
        let turns = Turns::new(1, Duration::from_millis(50));
        let first = turns.next().await;
        let mut unseen = pin!(turns.next());
        assert!(unseen.as_mut().now_or_never().is_none(), "one at a time");
        drop(first);
        timeout(PATIENCE, turns.next()).await.unwrap();
    }

    #[tokio::test]
    async fn a_turn_lasts_until_all_is_gone_that_it_was_given_to() {
        let turns = Turns::new(1, PATIENCE * 10);
        let first = turns.next().await;
        let given = first.clone();
        drop(first);
        assert!(timeout(Duration::from_millis(20), turns.next()).await.is_err());
        drop(given);
        timeout(PATIENCE, turns.next()).await.unwrap();
    }

    #[tokio::test]
    async fn who_goes_away_before_its_turn_takes_none() {
        let turns = Turns::new(1, PATIENCE * 10);
        let first = turns.next().await;
        assert!(turns.next().now_or_never().is_none(), "one at a time");
        drop(first);
        timeout(PATIENCE, turns.next()).await.unwrap();
    }
}
