//! How long a stream may be silent, and last in all: a request with its response, or what is carried after an upgrade. Where its route says
//! nothing of that nothing is counted, and no clock is set.
//!
//! As in Envoy (`RouteAction.idle_timeout`, `max_stream_duration`), a stream that ends so before its response has begun is answered with 504, or
//! with 408 while its request has not come whole; afterwards it breaks off.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use ambit_model::{Reason, Refusal, route::Upstream as Forwarding};
use http::StatusCode;
use tokio::time::{Instant, Sleep, sleep};

use super::{arrival::Arrival, deadline::Deadline, select::Refused};
use crate::observe::Record;

/// How often it is looked in the time that a stream may be silent whether it was: the end is told so much later at most.
const LOOKS: u32 = 8;
/// The longest between two looks.
const PAUSE: Duration = Duration::from_secs(3600);

/// The times of one stream. Completes when one of them is over, with what its client is answered if it has had no answer yet.
pub struct Times {
    silence: Option<Silence>,
    longest: Option<(Duration, Pin<Box<Sleep>>)>,
    arrival: Arrival,
    /// Bytes to the client.
    received: Arc<AtomicU64>,
}

/// Since when nothing has passed.
struct Silence {
    limit: Duration,
    since: Instant,
    /// Bytes from the client.
    sent: Arc<AtomicU64>,
    /// As many bytes had passed in both directions when it was looked last.
    seen: u64,
    clock: Pin<Box<Sleep>>,
}

impl Times {
    /// Of a request that is about to be sent on, which began with its record; `None` where nothing limits it.
    pub fn of(forwarding: &Forwarding, due: &Deadline, record: &Record, arrival: &Arrival) -> Option<Box<Self>> {
        let said = forwarding.stream.as_deref()?;
        let longest = said.longest_beside(due.call);
        let longest = longest.map(|limit| (limit, Box::pin(sleep(limit.saturating_sub(record.age())))));
        let silence = said.idle.map(|limit| Silence::new(limit, record.sent.clone()));
        let limited = silence.is_some() || longest.is_some();
        limited.then(|| Box::new(Self { silence, longest, arrival: arrival.clone(), received: Arc::default() }))
    }

    /// Something has passed that has no bytes: the head of a response.
    pub fn moved(&mut self) {
        if let Some(silence) = &mut self.silence {
            silence.since = Instant::now();
        }
    }

    /// Where bytes to the client are counted.
    pub fn received(&self) -> &Arc<AtomicU64> {
        &self.received
    }

    fn over(&self, reason: Reason, detail: String) -> Poll<Refused> {
        let status = if self.arrival.is_whole() { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::REQUEST_TIMEOUT };
        Poll::Ready((status, Refusal::new(reason, detail)))
    }
}

impl Future for Times {
    type Output = Refused;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Refused> {
        let this = &mut *self;
        let received = this.received.load(Ordering::Relaxed);
        if let Some(silence) = &mut this.silence
            && silence.poll(received, cx).is_ready()
        {
            let detail = format!("no byte has passed for {:?}", silence.limit);
            return this.over(Reason::StreamIdleTimeout, detail);
        }
        if let Some((limit, clock)) = &mut this.longest
            && clock.as_mut().poll(cx).is_ready()
        {
            let detail = format!("it may last for {limit:?}");
            return this.over(Reason::StreamTimeout, detail);
        }
        Poll::Pending
    }
}

impl Silence {
    fn new(limit: Duration, sent: Arc<AtomicU64>) -> Self {
        let seen = sent.load(Ordering::Relaxed);
        Self { limit, since: Instant::now(), sent, seen, clock: Box::pin(sleep((limit / LOOKS).min(PAUSE))) }
    }

    /// Completes when nothing has passed for its time. A clock that every piece sets anew would be more than a piece is worth.
    fn poll(&mut self, received: u64, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.clock.as_mut().poll(cx));
            let now = Instant::now();
            let passed = self.sent.load(Ordering::Relaxed).wrapping_add(received);
            if passed != self.seen {
                (self.seen, self.since) = (passed, now);
            }
            let left = self.limit.saturating_sub(now.saturating_duration_since(self.since));
            if left.is_zero() {
                return Poll::Ready(());
            }
            self.clock.as_mut().reset(now + left.min(self.limit / LOOKS).min(PAUSE));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant as Real;

    use futures::poll;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    fn times(idle: Option<Duration>, longest: Option<Duration>, whole: bool) -> (Times, Arc<AtomicU64>) {
        let sent = Arc::<AtomicU64>::default();
        let (arrival, guard) = Arrival::new(whole, &sent);
        // Whoever has the guard could say that it has come whole; nobody does.
        std::mem::forget(guard);
        let longest = longest.map(|limit| (limit, Box::pin(sleep(limit))));
        let silence = idle.map(|limit| Silence::new(limit, sent.clone()));
        (Times { silence, longest, arrival, received: Arc::default() }, sent)
    }

    #[tokio::test]
    async fn a_stream_is_silent_when_no_byte_passes_in_either_direction() {
        let (mut times, sent) = times(Some(LIMIT), None, true);
        let began = Real::now();
        assert!(poll!(&mut times).is_pending());
        let received = times.received().clone();
        let trickle = async {
            for counter in [&sent, &received, &sent, &received] {
                sleep(LIMIT / 2).await;
                counter.fetch_add(1, Ordering::Relaxed);
            }
            std::future::pending::<()>().await;
        };
        let (status, refusal) = tokio::select! {
            over = &mut times => over,
            () = trickle => unreachable!("it goes on for ever"),
        };
        assert_eq!((status, refusal.reason), (StatusCode::GATEWAY_TIMEOUT, Reason::StreamIdleTimeout));
        assert!(began.elapsed() >= 3 * LIMIT, "it did not begin anew: {:?}", began.elapsed());
    }

    #[tokio::test]
    async fn the_head_of_a_response_is_no_silence() {
        let (mut times, _) = times(Some(LIMIT), None, true);
        let began = Real::now();
        sleep(LIMIT / 2).await;
        times.moved();
        times.await;
        assert!(began.elapsed() >= LIMIT + LIMIT / 2, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_stream_that_is_not_silent_lasts_no_longer_than_it_may_and_its_client_is_told_whose_turn_it_was() {
        for (whole, status) in [(true, StatusCode::GATEWAY_TIMEOUT), (false, StatusCode::REQUEST_TIMEOUT)] {
            let (times, _) = times(Some(Duration::MAX), Some(LIMIT), whole);
            let (answered, refusal) = times.await;
            assert_eq!((answered, refusal.reason), (status, Reason::StreamTimeout));
        }
    }
}
