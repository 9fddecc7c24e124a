//! What all connections of the process hold together: bytes that wait to be read, and memory for what is to be sent. Windows alone would allow
//! each connection its own, and a peer may open thousands of connections.

use std::sync::atomic::{AtomicUsize, Ordering};

/// All connections of the process.
static HELD: Held = Held::new(512 << 20);
/// What a connection may hold of each without being counted, so that short messages cost no access to what all share. A tunnel that holds less
/// is not cut.
pub(super) const UNCOUNTED: usize = 16 << 10;
/// The unit in which a connection counts what it holds.
const COUNT: usize = 64 << 10;
/// What a connection may have counted beyond what it holds, so that it is not given back and taken all the time, as long as the process
/// holds little.
const SPARE: usize = 256 << 10;
/// From this on a tunnel is greedy.
const GREEDY: usize = 1 << 20;

/// Sets how many bytes that wait to be read or sent all tunnels of this process may hold, about: 512 MiB if not set. When there are more,
/// less is taken in to be sent. When as many wait to be read alone, tunnels are cut from which nobody has read for 10 s; an eighth above it also
/// those with more than 1 MiB that are sent more, a quarter above it those with 16 KiB.
pub fn limit_unread(bytes: usize) {
    HELD.limit.0.store(bytes, Ordering::Relaxed);
}

/// A number by itself: two lines of the cache, as processors fetch them in pairs. Whoever only reads one is not held up by those who write another.
#[derive(Debug)]
#[repr(align(128))]
struct Alone(AtomicUsize);

impl Alone {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// What connections hold together.
#[derive(Debug)]
struct Held {
    unread: Alone,
    output: Alone,
    limit: Alone,
}

impl Held {
    const fn new(limit: usize) -> Self {
        Self { unread: Alone(AtomicUsize::new(0)), output: Alone(AtomicUsize::new(0)), limit: Alone(AtomicUsize::new(limit)) }
    }

    /// Counts in `total` what a connection holds, of which `counted` are counted.
    fn count(&self, total: &Alone, counted: &mut usize, bytes: usize) {
        let held = bytes.saturating_sub(UNCOUNTED);
        if held > *counted {
            let more = (held - *counted).next_multiple_of(COUNT);
            *counted += more;
            total.0.fetch_add(more, Ordering::Relaxed);
            return;
        }
        let spare = *counted - held;
        if spare >= SPARE + COUNT || (spare >= COUNT && total.get() >= self.limit.get() / 8) {
            Self::settle(total, counted, bytes);
        }
    }

    /// Gives back what is counted and not held.
    fn settle(total: &Alone, counted: &mut usize, bytes: usize) {
        let spare = *counted - bytes.saturating_sub(UNCOUNTED).next_multiple_of(COUNT).min(*counted);
        if spare > 0 {
            *counted -= spare;
            total.0.fetch_sub(spare, Ordering::Relaxed);
        }
    }
}

/// What one connection holds, as far as it is counted.
#[derive(Debug)]
pub(super) struct Account {
    unread: usize,
    output: usize,
    held: &'static Held,
}

impl Default for Account {
    fn default() -> Self {
        Self::of(&HELD)
    }
}

impl Account {
    const fn of(held: &'static Held) -> Self {
        Self { unread: 0, output: 0, held }
    }

    /// So many bytes of the connection wait to be read.
    pub(super) fn set_unread(&mut self, bytes: usize) {
        self.held.count(&self.held.unread, &mut self.unread, bytes);
    }

    /// So much memory there is for what is to be sent.
    pub(super) fn set_output(&mut self, bytes: usize) {
        self.held.count(&self.held.output, &mut self.output, bytes);
    }

    /// So many bytes wait to be read and so much memory there is for what is to be sent: no more is counted.
    pub(super) fn settle(&mut self, unread: usize, output: usize) {
        Held::settle(&self.held.unread, &mut self.unread, unread);
        Held::settle(&self.held.output, &mut self.output, output);
    }

    /// Whether a tunnel that holds so much unread must not be sent more. `stalled`: whether nobody has read from it for long.
    pub(super) fn is_too_much(&self, unread: usize, stalled: impl FnOnce() -> bool) -> bool {
        // What all share is looked at last.
        if unread < UNCOUNTED {
            return false;
        }
        let limit = self.held.limit.get();
        let Some(over) = self.held.unread.get().checked_sub(limit) else { return false };
        over >= limit / 4 || (over >= limit / 8 && unread >= GREEDY) || stalled()
    }

    /// Whether as much waits to be read as may.
    pub(super) fn is_full(&self) -> bool {
        self.held.unread.get() >= self.held.limit.get()
    }

    /// Whether as little as possible is to be taken in to be sent.
    pub(super) fn is_short(&self) -> bool {
        self.held.unread.get().saturating_add(self.held.output.get()) >= self.held.limit.get()
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.held.unread.0.fetch_sub(self.unread, Ordering::Relaxed);
        self.held.output.0.fetch_sub(self.output, Ordering::Relaxed);
    }
}

#[cfg(test)]
impl Account {
    /// One for which the process may hold `limit` bytes, whatever else it holds.
    pub(super) fn within(limit: usize) -> Self {
        Self::of(Box::leak(Box::new(Held::new(limit))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LITTLE: usize = 100;

    #[test]
    fn what_all_connections_leave_unread_is_counted_and_above_the_limit_the_greediest_are_sent_no_more() {
        static FEW: Held = Held::new(8 << 20);
        let mut accounts: Vec<(Account, usize)> = (0..8).map(|_| (Account::of(&FEW), 0)).collect();
        for (account, _) in &mut accounts {
            account.set_unread(UNCOUNTED);
        }
        assert_eq!(FEW.unread.get(), 0, "short messages are not counted");
        let mut dice = fastrand::Rng::with_seed(3);
        for _ in 0..10_000 {
            let (account, unread) = &mut accounts[dice.usize(..8)];
            let some = dice.usize(..300_000);
            let cut = account.is_too_much(*unread, || false);
            *unread = if cut || dice.bool() { unread.saturating_sub(some) } else { *unread + some };
            account.set_unread(*unread);
            let held: usize = accounts.iter().map(|(_, unread)| unread).sum();
            let counted = FEW.unread.get();
            assert!(
                held <= counted + 8 * UNCOUNTED && counted <= held + 8 * (SPARE + 2 * COUNT),
                "{held} held, {counted} counted"
            );
            assert!(held < 13 << 20, "{held} held");
        }
        for (account, unread) in &mut accounts {
            account.settle(*unread, 0);
        }
        let held: usize = accounts.iter().map(|(_, unread)| unread).sum();
        assert!(FEW.unread.get() <= held + 8 * COUNT, "{held} held");
        drop(accounts);
        assert_eq!(FEW.unread.get(), 0);
    }

    #[test]
    fn at_the_limit_only_tunnels_that_nobody_reads_are_cut_an_eighth_above_it_greedy_ones_and_then_all_that_hold_much() {
        static FEW: Held = Held::new(8 << 20);
        let mut account = Account::of(&FEW);
        let mut cut = |held: usize| {
            account.set_unread(held);
            let cut = |unread, stalled| account.is_too_much(unread, || stalled);
            let read = [LITTLE, UNCOUNTED, GREEDY].map(|unread| cut(unread, false));
            (read, [LITTLE, UNCOUNTED, GREEDY].map(|unread| cut(unread, true)))
        };
        assert_eq!(cut(7 << 20), ([false; 3], [false; 3]));
        assert_eq!(cut(8 << 20), ([false; 3], [false, true, true]));
        assert_eq!(cut((9 << 20) - COUNT), ([false; 3], [false, true, true]));
        assert_eq!(cut(9 << 20), ([false, false, true], [false, true, true]));
        assert_eq!(cut(10 << 20), ([false, true, true], [false, true, true]));
    }

    #[test]
    fn what_goes_up_and_down_is_counted_seldom_while_little_is_held_and_exactly_when_much_is() {
        static FEW: Held = Held::new(8 << 20);
        let (mut account, mut other) = (Account::of(&FEW), Account::of(&FEW));
        account.set_unread(SPARE);
        let counted = FEW.unread.get();
        account.set_unread(0);
        assert_eq!(FEW.unread.get(), counted, "it will be needed again");
        account.settle(0, 0);
        assert_eq!(FEW.unread.get(), 0, "it was not");
        account.set_unread(SPARE);
        other.set_unread(1 << 20);
        let others = other.unread;
        account.set_unread(0);
        assert_eq!(FEW.unread.get(), others, "others may need it");
    }

    #[test]
    fn memory_for_what_is_to_be_sent_makes_it_less_and_cuts_nobody() {
        let mut account = Account::within(1 << 20);
        assert!(!account.is_short());
        account.set_output(2 << 20);
        assert!(account.is_short() && !account.is_full() && !account.is_too_much(100 << 20, || true));
        account.set_output(0);
        assert!(!account.is_short());
    }
}
