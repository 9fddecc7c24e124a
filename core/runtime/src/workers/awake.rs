//! A worker that stays awake for a moment where traffic comes back at once.
//!
//! To be woken costs a lone request more than all work that is done for it: the processor has to leave its rest, and the scheduler to
//! choose the thread. A worker therefore asks for events a little longer before it sleeps, and gives way to every other thread meanwhile.
//! It does so only while its waits are short in fact, so that a trickle of traffic does not pay for it, and not while each turn has work
//! for many connections, whose requests do not wait for a wake-up.

use std::{
    cell::{Cell, RefCell},
    future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Builder;

/// Connections are polled so often in a turn, at most, in which there is only a lone request to carry.
const FEW: u32 = 2;
/// A habit is at most this sure, and followed from this score on: at least four of five waits must be short.
const SURE: u8 = 16;
const FOLLOWED: u8 = 12;
const DOUBT: u8 = 4;

/// The time that a worker has stayed awake without work: what it took from nobody, as it gave way to others.
#[derive(Debug, Default, Clone)]
pub(super) struct Stayed(Arc<AtomicU64>);

impl Stayed {
    pub(super) fn time(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    fn add(&self, time: Duration) {
        let nanos = time.as_nanos().try_into().unwrap_or(u64::MAX);
        self.0.fetch_add(nanos, Ordering::Relaxed);
    }
}

thread_local! {
    /// How often connections of this thread have been polled.
    static TURNS: Cell<u32> = const { Cell::new(0) };
    static WAIT: Cell<Wait> = const { Cell::new(Wait::NEW) };
    /// Gives the runtime something to do, so that it asks for events and does not sleep.
    static AGAIN: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

/// A connection of this thread is polled: who carries connections says so each time, which is how a worker knows whether it had work for them.
pub fn turn() {
    TURNS.set(TURNS.get().wrapping_add(1));
}

/// Makes workers of this runtime stay awake up to `limit`; they have to run [`keep`].
pub(super) fn stay(builder: &mut Builder, limit: Duration, stayed: Stayed) {
    builder.on_thread_park(move || {
        let mut wait = WAIT.get();
        let asks = wait.idle(Instant::now(), TURNS.get(), limit);
        WAIT.set(wait);
        if asks {
            thread::yield_now();
            AGAIN.with_borrow(|waker| waker.iter().for_each(Waker::wake_by_ref));
        }
    });
    builder.on_thread_unpark(move || {
        let mut wait = WAIT.get();
        wait.woken(Instant::now(), limit, &stayed);
        WAIT.set(wait);
    });
}

/// What a worker that stays awake does. Never ends.
pub(super) async fn keep() {
    future::poll_fn(|cx| {
        AGAIN.with_borrow_mut(|again| {
            if again.is_none() {
                *again = Some(cx.waker().clone());
            }
        });
        Poll::<()>::Pending
    })
    .await;
}

/// What a worker does that has nothing to do.
#[derive(Debug, Clone, Copy)]
enum Does {
    Works,
    /// Asks for events again and again, since then, and the last time since `last`.
    Asks {
        since: Instant,
        last: Instant,
    },
    /// Sleeps, since then.
    Sleeps(Instant),
    /// Sleeps, after it has asked in vain.
    SleepsInVain,
    /// Was woken, after a short time or a long one.
    Woken {
        soon: bool,
    },
}

/// Whether a worker stays awake.
#[derive(Debug, Clone, Copy)]
struct Wait {
    does: Does,
    turns: u32,
    /// How many of the last waits were short, as a score.
    habit: u8,
}

impl Wait {
    const NEW: Self = Self { does: Does::Works, turns: 0, habit: 0 };

    /// Nothing is left to do after so many turns in all. Returns whether to ask again rather than to sleep.
    fn idle(&mut self, now: Instant, turns: u32, limit: Duration) -> bool {
        let worked = turns.wrapping_sub(self.turns);
        self.turns = turns;
        match self.does {
            Does::Asks { since, .. } if worked == 0 => {
                if now.duration_since(since) < limit {
                    self.does = Does::Asks { since, last: now };
                    return true;
                }
                self.learn(false);
                self.does = Does::SleepsInVain;
                return false;
            }
            Does::Asks { .. } => self.learn(worked <= FEW),
            Does::Woken { soon } if worked > 0 => self.learn(soon && worked <= FEW),
            _ => {}
        }
        let asks = self.habit >= FOLLOWED && worked > 0;
        self.does = if asks { Does::Asks { since: now, last: now } } else { Does::Sleeps(now) };
        asks
    }

    /// The runtime has asked for events, or slept until there were some.
    fn woken(&mut self, now: Instant, limit: Duration, stayed: &Stayed) {
        match self.does {
            Does::Sleeps(since) => self.does = Does::Woken { soon: now.duration_since(since) < limit },
            Does::SleepsInVain => self.does = Does::Works,
            // Only this: what follows until it asks again is work.
            Does::Asks { last, .. } => stayed.add(now.duration_since(last)),
            Does::Works | Does::Woken { .. } => {}
        }
    }

    fn learn(&mut self, short: bool) {
        self.habit = if short { (self.habit + 1).min(SURE) } else { self.habit.saturating_sub(DOUBT) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(100);

    /// A worker with a clock of its own.
    struct Worker {
        wait: Wait,
        now: Instant,
        turns: u32,
        stayed: Stayed,
        asked: u32,
    }

    impl Worker {
        fn new() -> Self {
            Self { wait: Wait::NEW, now: Instant::now(), turns: 0, stayed: Stayed::default(), asked: 0 }
        }

        /// Has nothing to do until `gap` has passed, and then polls connections `work` times.
        fn gap(&mut self, gap: Duration, work: u32) {
            let until = self.now + gap;
            self.asked = 0;
            while self.wait.idle(self.now, self.turns, LIMIT) && self.now < until {
                self.now += Duration::from_micros(1).min(until - self.now);
                self.asked += 1;
                self.wait.woken(self.now, LIMIT, &self.stayed);
            }
            self.now = until;
            self.wait.woken(self.now, LIMIT, &self.stayed);
            self.turns += work;
        }

        fn gaps(&mut self, times: u32, gap: Duration, work: u32) {
            for _ in 0..times {
                self.gap(gap, work);
            }
        }
    }

    const SHORT: Duration = Duration::from_micros(40);
    const LONG: Duration = Duration::from_micros(400);

    #[test]
    fn a_worker_stays_awake_once_its_waits_are_short() {
        let mut worker = Worker::new();
        worker.gap(SHORT, 2);
        assert_eq!(worker.asked, 0);
        worker.gaps(20, SHORT, 2);
        assert!(worker.asked >= 39, "{}", worker.asked);
        assert!(worker.stayed.time() >= SHORT, "{:?}", worker.stayed);
    }

    #[test]
    fn it_sleeps_again_after_two_waits_in_vain_and_none_lasts_longer_than_the_limit() {
        let mut worker = Worker::new();
        worker.gaps(40, SHORT, 2);
        let before = worker.stayed.time();
        worker.gaps(10, LONG, 2);
        assert!(worker.stayed.time() - before <= 2 * LIMIT + SHORT, "{:?}", worker.stayed.time() - before);
        worker.gap(LONG, 2);
        assert_eq!(worker.asked, 0);
    }

    #[test]
    fn work_between_short_waits_is_no_time_without_work() {
        let mut worker = Worker::new();
        worker.gaps(20, SHORT, 2);
        let before = worker.stayed.time();
        for _ in 0..10 {
            worker.gap(SHORT, 2);
            worker.now += LONG;
        }
        assert_eq!(worker.stayed.time() - before, 10 * SHORT);
    }

    #[test]
    fn a_trickle_and_a_request_whose_answer_alone_comes_soon_are_not_waited_for() {
        for gaps in [[LONG, LONG], [SHORT, LONG]] {
            let mut worker = Worker::new();
            for _ in 0..100 {
                worker.gap(gaps[0], 2);
                worker.gap(gaps[1], 2);
            }
            assert_eq!(worker.stayed.time(), Duration::ZERO);
        }
    }

    #[test]
    fn turns_with_much_to_do_are_not_waited_for() {
        let mut worker = Worker::new();
        worker.gaps(100, SHORT, 32);
        assert_eq!(worker.stayed.time(), Duration::ZERO);
    }

    #[test]
    fn an_idle_worker_is_not_kept_awake_by_what_is_no_connection() {
        let mut worker = Worker::new();
        worker.gaps(40, SHORT, 2);
        worker.gaps(10, LONG, 0);
        let before = worker.stayed.time();
        worker.gaps(100, SHORT, 0);
        assert_eq!(worker.stayed.time(), before);
    }
}
