//! How much bulk a thread carries at a time, so that small requests of other connections come between.
//!
//! What carries bulk is always ready again, and one that is ready is polled before the kernel is asked for events: a runtime asks only when
//! nothing is ready, or after dozens of polls. So bulk gives way after each turn until the kernel was asked ([`give_way`]), and where
//! there were small requests lately its turns are shorter ([`turn`]): a request waits for one at each step of its way.

use std::{cell::Cell, pin::pin, sync::LazyLock, task::Context, time::Instant};

use tokio::task;

use crate::aside;

/// Bytes of a turn of bulk on a thread that carries nothing else.
const LARGE: usize = 256 << 10;
/// Bytes of a turn where there were small requests lately: as much as one segment that the kernel makes of it.
const SHORT: usize = 64 << 10;
/// There were none lately when so many bytes of bulk have gone since: some 20 ms at full speed.
const LATELY: usize = 16 << 20;
/// A poll that carries less is one of a small request, if its connection has had several of them.
const SMALL: usize = 8 << 10;
/// How many such polls in a row make it so: the pieces of a bulk stream may be small now and then.
const SEVERAL: u8 = 4;
/// After so many turns in a row beside small requests, 4 MiB, a connection goes aside.
const MANY: u8 = 64;
/// If they took no longer than this, in milliseconds: large answers to requests now and then add up to as much, and are to wait for nobody.
const QUICK: u32 = 2_000;
/// If there were so many polls of small requests meanwhile: those with which bulk streams themselves begin are no reason.
const ENOUGH: u32 = 16;
/// After so many small polls in a row it comes back.
const LONG: u8 = 64;
/// Or when as many turns as it went for have taken longer than this, in milliseconds.
const SLOW: u32 = 4 * QUICK;

thread_local! {
    /// Bytes of bulk that this thread has carried since the last small request.
    static SINCE: Cell<usize> = const { Cell::new(LATELY) };
    /// Polls of small requests on this thread.
    static REQUESTS: Cell<u32> = const { Cell::new(0) };
}

/// The most bytes of bulk that are to be carried now before others have their turn.
pub(crate) fn turn() -> usize {
    if is_beside_requests() { SHORT } else { LARGE }
}

/// Whether there are small requests beside the bulk of this thread. Aside they are on other threads, which wait for the processor that this
/// one has until its call has ended.
fn is_beside_requests() -> bool {
    SINCE.get() < LATELY || aside::is_aside()
}

/// Has the task of `cx` polled again, once all that is ready has had its turn and the kernel was asked for more.
pub(crate) fn give_way(cx: &mut Context<'_>) {
    // Pending the first time, when it hands the waker to the runtime.
    let _pending = pin!(task::yield_now()).poll(cx);
}

/// Milliseconds since this process first asked. They begin again after 49 days: turns that took as long may seem quick, once.
fn now() -> u32 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u32::try_from(START.elapsed().as_millis() % (1 << 32)).unwrap_or_default()
}

/// What one connection carries: bulk or small requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Bytes of bulk since it last gave way.
    carried: u32,
    /// Polls of small requests on its thread before its first turn beside them.
    requests: u32,
    /// When that turn ended, as [`now`].
    began: u32,
    /// Polls in a row that carried little.
    small: u8,
    /// Turns in a row beside small requests.
    turns: u8,
    /// It turned out to be bulk beside small requests, and has not been small for a while since.
    bulk: bool,
    /// It was on the thread for bulk when it was last polled.
    aside: bool,
}

impl Default for Pace {
    fn default() -> Self {
        // A new connection is one of requests until it turns out to be more.
        Self { carried: 0, requests: 0, began: 0, small: SEVERAL, turns: 0, bulk: false, aside: false }
    }
}

impl Pace {
    /// A poll has carried so many bytes.
    pub(crate) fn note(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        if count < SMALL {
            self.small = self.small.saturating_add(1);
            if self.small >= SEVERAL {
                (self.carried, self.turns) = (0, 0);
                SINCE.set(0);
                REQUESTS.set(REQUESTS.get().wrapping_add(1));
            }
        } else {
            self.small = 0;
            self.carried = self.carried.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
            SINCE.set(SINCE.get().saturating_add(count).min(LATELY));
        }
    }

    /// Whether it has had its turn, in one poll or in several that woke each other; a new one begins then.
    pub(crate) fn is_over(&mut self) -> bool {
        let over = usize::try_from(self.carried).unwrap_or(usize::MAX) >= turn();
        if over {
            self.end_turn();
        }
        over
    }

    /// It gives way now.
    pub(crate) fn end_turn(&mut self) {
        self.carried = 0;
        if !is_beside_requests() {
            self.turns = 0;
            return;
        }
        if self.turns == 0 {
            (self.requests, self.began) = (REQUESTS.get(), now());
        }
        self.turns = self.turns.saturating_add(1);
    }

    /// Whether it is polled on another thread than before.
    pub(crate) fn moved(&mut self) -> bool {
        std::mem::replace(&mut self.aside, aside::is_aside()) != self.aside
    }

    /// Whether it is bulk, or is not any more, when there is a thread for bulk and either has just turned out. That of bulk it says again from
    /// time to time while it is not there.
    pub(crate) fn turned_out(&mut self) -> Option<bool> {
        if self.bulk && self.small >= LONG {
            self.bulk = false;
            return Some(false);
        }
        if self.turns < MANY || !(self.aside || aside::is_home()) {
            return None;
        }
        let took = now().wrapping_sub(self.began);
        if self.bulk && took > SLOW {
            (self.bulk, self.turns) = (false, 0);
        } else if self.aside || took > QUICK {
            // Measured anew.
            self.turns = 0;
            return None;
        } else if self.has_company() {
            (self.bulk, self.turns) = (true, 0);
        } else {
            return None;
        }
        Some(self.bulk)
    }

    /// Whether small requests go on beside it.
    fn has_company(&self) -> bool {
        REQUESTS.get().wrapping_sub(self.requests) >= ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use tokio::net::UdpSocket;

    use super::*;

    #[test]
    fn turns_are_short_while_there_are_small_requests() {
        let (mut bulk, mut requests) = (Pace::default(), Pace::default());
        assert_eq!(turn(), LARGE);
        bulk.note(LARGE);
        assert!(bulk.is_over() && !bulk.is_over());
        requests.note(100);
        assert_eq!(turn(), SHORT);
        bulk.note(SHORT / 2);
        assert!(!bulk.is_over());
        bulk.note(SHORT / 2);
        assert!(bulk.is_over());
        for _ in 0..LATELY / SHORT {
            bulk.note(SHORT);
        }
        assert_eq!(turn(), LARGE);
    }

    #[test]
    fn a_small_piece_of_a_stream_now_and_then_is_no_request_and_requests_in_a_row_are_no_bulk() {
        let (mut bulk, mut requests) = (Pace::default(), Pace::default());
        for _ in 0..100 {
            bulk.note(LARGE);
            bulk.note(100);
            bulk.note(0);
        }
        assert_eq!(turn(), LARGE);
        for _ in 0..10_000 {
            requests.note(1000);
            assert!(!requests.is_over());
        }
        assert_eq!(turn(), SHORT);
    }

    #[test]
    fn bulk_goes_aside_once_it_has_been_beside_requests_for_a_while_and_never_alone() {
        aside::hand_bulk_to(|| None, |_| {});
        let (mut bulk, mut requests) = (Pace::default(), Pace::default());
        let mut carry = |turns: usize| {
            (0..turns).any(|_| {
                bulk.note(turn());
                bulk.is_over() && bulk.turned_out() == Some(true)
            })
        };
        assert!(!carry(1000), "alone");
        requests.note(100);
        assert!(!carry(1000), "after one request");
        let mut asks = |count| (0..count).for_each(|_| requests.note(100));
        asks(1);
        assert!(!carry(1));
        asks(ENOUGH);
        assert!(!carry(usize::from(MANY) - 2) && carry(1) && !carry(1));
        for _ in 0..1000 {
            requests.note(100);
            assert_eq!(requests.turned_out(), None);
        }
    }

    #[test]
    fn what_went_aside_comes_back_when_it_has_been_small_for_a_while() {
        aside::carry_bulk_here();
        let mut pace = Pace { bulk: true, ..Pace::default() };
        assert!(pace.moved() && !pace.moved());
        for _ in 0..1000 {
            pace.note(turn());
            pace.note(100);
            assert!(pace.is_over() && pace.turned_out().is_none());
        }
        let turned_out = (0..2 * LONG).filter_map(|_| {
            pace.note(100);
            pace.turned_out()
        });
        assert_eq!(turned_out.collect::<Vec<_>>(), [false]);
    }

    #[test]
    fn what_takes_its_time_stays_and_what_has_become_slow_comes_back() {
        aside::hand_bulk_to(|| None, |_| {});
        let mut requests = Pace::default();
        (0..ENOUGH).for_each(|_| requests.note(100));
        let turned_out = |took: u32, aside| {
            let mut pace = Pace { began: now().wrapping_sub(took), turns: MANY, bulk: aside, aside, ..Pace::default() };
            (pace.turned_out(), pace.turns < MANY)
        };
        assert_eq!(turned_out(0, false), (Some(true), true));
        assert_eq!(turned_out(QUICK + 1, false), (None, true));
        assert_eq!(turned_out(QUICK + 1, true), (None, true));
        assert_eq!(turned_out(SLOW + 1, true), (Some(false), true));
    }

    #[tokio::test]
    async fn who_gives_way_comes_after_what_the_kernel_has() {
        let (near, far) = (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let to = near.local_addr().unwrap();
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks = task::LocalSet::new();
        let hears = Rc::clone(&order);
        tasks.spawn_local(async move {
            near.recv(&mut [0]).await.unwrap();
            hears.borrow_mut().push("datagram");
        });
        let bulk = Rc::clone(&order);
        tasks.spawn_local(async move {
            // The other task waits by now, and nobody has asked the kernel since the datagram was sent.
            task::yield_now().await;
            far.send_to(&[1], to).await.unwrap();
            let mut gave_way = false;
            std::future::poll_fn(|cx| {
                if std::mem::replace(&mut gave_way, true) {
                    return std::task::Poll::Ready(());
                }
                give_way(cx);
                std::task::Poll::Pending
            })
            .await;
            bulk.borrow_mut().push("bulk");
        });
        tasks.await;
        assert_eq!(*order.borrow(), ["datagram", "bulk"]);
    }
}
