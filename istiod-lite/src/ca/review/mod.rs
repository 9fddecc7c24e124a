//! Tokens that the API server says something about (`TokenReview`), and for how long it is remembered.
//!
//! What a token says is remembered by its SHA-256 until the token ends, and for [`cache::ACCEPTED`] at most: so long somebody whose pod was
//! deleted is still known as who it was. That gives it no certificate, for the rules ask for the pod each time; a discovery stream it may
//! still open, as it may go on with one that is open. While the API server is away only what is remembered counts; nobody else is let in.

mod api;
mod cache;
mod peers;
#[cfg(test)]
mod tests;
mod verdict;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use ambit_tls::token::{AUDIENCE, Claimed};
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

pub use api::Reviewer;
use cache::{Cache, Now};
use peers::Peers;

use super::{Caller, TokenError};

/// Questions to the API server at one time; others wait.
const AT_ONCE: usize = 64;
/// Until an answer has to be there, the time of waiting for a turn with it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions that may be open or wait for their turn.
const OPEN: usize = 4096;
/// The longest token; those of Kubernetes have some 1,500 bytes.
const LONGEST: usize = 16 << 10;

/// SHA-256 of a token. The token itself is kept nowhere.
type Key = [u8; 32];

/// Who answers what a token says: the API server, or a test.
#[async_trait::async_trait]
pub trait Review: Clone + Send + Sync + 'static {
    /// What the token says, or why it is refused; [`TokenError::Unavailable`] when that cannot be said.
    async fn review(&self, token: &str) -> Result<Caller, TokenError>;
}

type Answer = Result<Caller, TokenError>;
type Open = HashMap<Key, WeakShared<BoxFuture<'static, Answer>>>;

/// Tokens by what `R` says, each asked about once at a time.
pub struct Reviews<R> {
    review: R,
    cache: Mutex<Cache>,
    open: Mutex<Open>,
    peers: Mutex<Peers>,
    turns: Arc<Semaphore>,
    clock: Clock,
    patience: Duration,
}

type Clock = Box<dyn Fn() -> Now + Send + Sync>;

impl<R> std::fmt::Debug for Reviews<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviews").finish_non_exhaustive()
    }
}

impl<R: Review> Reviews<R> {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new(review: R) -> Self {
        Self::with_clock(review, Box::new(Now::read), PATIENCE)
    }

    fn with_clock(review: R, clock: Clock, patience: Duration) -> Self {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let (cache, open, peers) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { review, cache, open, peers, turns, clock, patience }
    }

    /// Whose token this is, which came from this address.
    ///
    /// # Errors
    /// When it is refused, or that cannot be said now.
    pub async fn caller(&self, token: &str, peer: Option<IpAddr>) -> Answer {
        let now = (self.clock)();
        let expires = plausible(token, now.wall)?;
        let key = Key::from(Sha256::digest(token));
        if let Some(known) = self.cache().get(&key, now) {
            metrics::counter!("istiod_lite_token_reviews_remembered_total").increment(1);
            return known.map_err(TokenError::Refused);
        }
        if let Some(peer) = peer
            && !self.peers.lock().unwrap_or_else(PoisonError::into_inner).may_ask(peer, now.steady)
        {
            return Err(TokenError::Unavailable(format!("too many tokens that nobody knows come from {peer}")));
        }
        let answer = self.ask(key, token)?.await;
        match &answer {
            Ok(caller) => self.cache().put(key, Ok(caller.clone()), expires, (self.clock)()),
            Err(TokenError::Refused(reason)) => self.cache().put(key, Err(reason.clone()), expires, (self.clock)()),
            Err(TokenError::Unavailable(_)) => {}
        }
        answer
    }

    /// The question about this token that is open, or a new one.
    fn ask(&self, key: Key, token: &str) -> Result<Shared<BoxFuture<'static, Answer>>, TokenError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asked) = open.get(&key).and_then(WeakShared::upgrade).filter(|asked| asked.peek().is_none()) {
            return Ok(asked);
        }
        if open.len() >= OPEN {
            open.retain(|_, asked| asked.upgrade().is_some_and(|asked| asked.peek().is_none()));
        }
        if open.len() >= OPEN {
            return Err(TokenError::Unavailable("too many tokens wait for the API server".to_owned()));
        }
        let (review, turns, token, patience) = (self.review.clone(), Arc::clone(&self.turns), token.to_owned(), self.patience);
        let asked = async move {
            let started = Instant::now();
            let turn = async {
                let _turn = turns.acquire().await;
                review.review(&token).await
            };
            let late = |_| Err(TokenError::Unavailable(format!("no answer within {} s", patience.as_secs_f64())));
            let answer = timeout(patience, turn).await.unwrap_or_else(late);
            let outcome = match &answer {
                Ok(_) => "accepted",
                Err(TokenError::Refused(_)) => "refused",
                Err(TokenError::Unavailable(_)) => "unavailable",
            };
            metrics::counter!("istiod_lite_token_reviews_total", "outcome" => outcome).increment(1);
            metrics::histogram!("istiod_lite_token_review_seconds").record(started.elapsed().as_secs_f64());
            answer
        };
        let asked = asked.boxed().shared();
        if let Some(weak) = asked.downgrade() {
            open.insert(key, weak);
        }
        Ok(asked)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the token says that it ends. What can be refused by what it says of itself need not be asked about; nothing is accepted by it.
fn plausible(token: &str, now: SystemTime) -> Result<SystemTime, TokenError> {
    let refused = |reason: String| Err(TokenError::Refused(reason));
    if token.len() > LONGEST {
        return refused(format!("it has {} bytes, more than {LONGEST}", token.len()));
    }
    let Some(claimed) = Claimed::read(token) else { return refused("it is not a JWT".to_owned()) };
    if !claimed.aud.iter().any(|audience| audience == AUDIENCE) {
        return refused(format!("it is for the audiences {:?}, not for {AUDIENCE:?}", claimed.aud));
    }
    match SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claimed.exp)) {
        Some(expires) if expires > now => Ok(expires),
        Some(_) => refused("it has expired".to_owned()),
        None => refused("the time of its end is none".to_owned()),
    }
}
