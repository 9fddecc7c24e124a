//! What the peer may send in a connection, all tunnels together.
//!
//! What a few stalled readers leave unread would use the connection's window up, and every other tunnel would stand still with them. So
//! the window is given back when bytes arrive, not when they are read: each tunnel is then bounded by its own window alone. What lies
//! unread on those terms is bounded for a connection by [`MOST`] and for the process by [`BUDGET`], so that one pod whose server does
//! not read cannot take the memory of its node's proxy; beyond it the window is given back when bytes are read.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that wait to be read or sent in all connections of the process, beyond what each has [`UNCOUNTED`], and how many there may be. Windows alone would allow
/// each connection its own, and a peer may open thousands of connections.
static UNREAD: Unread = Unread { held: AtomicUsize::new(0), limit: AtomicUsize::new(512 << 20) };
/// What a connection may hold without being counted, so that short messages cost no access to what all share.
const UNCOUNTED: usize = 16 << 10;
/// The unit in which a connection counts what it holds.
const COUNT: usize = 64 << 10;
/// At the limit, tunnels are cut that hold as much as this and are sent more; an eighth above it, those that hold [`UNCOUNTED`].
const GREEDY: usize = 1 << 20;

/// What connections hold together.
#[derive(Debug)]
struct Unread {
    held: AtomicUsize,
    limit: AtomicUsize,
}

impl Unread {
    /// How much a tunnel may hold and be sent more.
    fn most(&self) -> usize {
        let (held, limit) = (self.held.load(Ordering::Relaxed), self.limit.load(Ordering::Relaxed));
        match held {
            _ if held < limit => usize::MAX,
            _ if held - limit < limit / 8 => GREEDY,
            _ => UNCOUNTED,
        }
    }
}

/// Sets how many bytes that wait to be read or sent all tunnels of this process may hold, about: 512 MiB if not set. When there are more,
/// less is taken in to be sent, and tunnels are cut that are sent more although nobody reads what came before, the greediest first; those that
/// are read go on.
pub fn limit_unread(bytes: usize) {
    UNREAD.limit.store(bytes, Ordering::Relaxed);
}

/// How much may lie unread in one connection with its window given back.
const MOST: usize = 128 << 20;
/// How much may lie unread so in all connections of the process, beyond what each has [`FREE`].
static BUDGET: Budget = Budget::new(256 << 20);
/// What each connection may leave unread without asking.
const FREE: usize = 1 << 20;
/// The unit in which a connection takes from the budget.
const STEP: usize = 1 << 20;

/// Bytes that may be taken and given back, never more than there are.
#[derive(Debug)]
struct Budget(AtomicUsize);

impl Budget {
    const fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    /// Takes `wanted` if so much is left.
    fn take(&self, wanted: usize) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(wanted)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The receiving window of one connection.
#[derive(Debug)]
pub(crate) struct Credit {
    /// What the window is at most.
    size: usize,
    /// What the peer may still send.
    window: usize,
    /// What is to be given back to the peer.
    owed: usize,
    /// Unread bytes that were given back when they arrived.
    early: usize,
    /// Unread bytes that will be given back when they are read.
    late: usize,
    /// What is taken of the budget.
    taken: usize,
    budget: &'static Budget,
    /// Memory for what is to be sent.
    output: usize,
    /// What is counted as held by the process.
    counted: usize,
    unread: &'static Unread,
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.budget.give_back(self.taken);
        self.unread.held.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

impl Credit {
    /// A window of `size` bytes.
    pub(crate) fn new(size: u32) -> Self {
        Self::within(size, &BUDGET, &UNREAD)
    }

    fn within(size: u32, budget: &'static Budget, unread: &'static Unread) -> Self {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Self { size, window: size, owed: 0, early: 0, late: 0, taken: 0, budget, output: 0, counted: 0, unread }
    }

    /// `count` bytes have arrived; whether they were allowed.
    pub(crate) fn receive(&mut self, count: usize) -> bool {
        match self.window.checked_sub(count) {
            Some(left) => {
                self.window = left;
                true
            }
            None => false,
        }
    }

    /// `count` of the bytes that arrived are not kept.
    pub(crate) fn pass(&mut self, count: usize) {
        self.owed += count;
    }

    /// `count` of the bytes that arrived wait to be read.
    pub(crate) fn keep(&mut self, count: usize) {
        let early = self.early + count;
        if early > FREE + self.taken && early <= MOST {
            let more = (early - FREE - self.taken).next_multiple_of(STEP);
            if self.budget.take(more) {
                self.taken += more;
            }
        }
        if early <= FREE + self.taken {
            self.early = early;
            self.owed += count;
        } else {
            self.late += count;
        }
        self.count();
    }

    /// Whether a tunnel that holds so much unread must not be sent more, because all connections together hold too much.
    pub(crate) fn is_too_much(&self, unread: usize) -> bool {
        unread >= self.unread.most()
    }

    /// Whether all connections together hold so much that they should hold as little as they can.
    pub(crate) fn is_short(&self) -> bool {
        self.unread.most() != usize::MAX
    }

    /// Notes how much memory there is for what is to be sent.
    pub(crate) fn set_output(&mut self, bytes: usize) {
        self.output = bytes;
        self.count();
    }

    /// Counts what it holds with what others hold.
    fn count(&mut self) {
        let held = (self.early + self.late + self.output).saturating_sub(UNCOUNTED);
        if held > self.counted {
            let more = (held - self.counted).next_multiple_of(COUNT);
            self.counted += more;
            self.unread.held.fetch_add(more, Ordering::Relaxed);
        } else if held == 0 || held + 2 * COUNT < self.counted {
            let less = self.counted - held.next_multiple_of(COUNT);
            self.counted -= less;
            self.unread.held.fetch_sub(less, Ordering::Relaxed);
        }
    }

    /// `count` of the bytes that waited are read, or dropped.
    pub(crate) fn release(&mut self, count: usize) {
        let late = count.min(self.late);
        self.late -= late;
        self.owed += late;
        self.early = self.early.saturating_sub(count - late);
        let needed = self.early.saturating_sub(FREE).next_multiple_of(STEP);
        // One step is kept, so that it is not taken and given back all the time.
        if let Some(spare @ 1..) = self.taken.checked_sub(needed + STEP) {
            self.taken -= spare;
            self.budget.give_back(spare);
        }
        if self.early == 0 && self.taken > 0 {
            self.budget.give_back(std::mem::take(&mut self.taken));
        }
        self.count();
    }

    /// By how much the window is to be widened now, if it is worth a frame.
    pub(crate) fn due(&mut self) -> Option<u32> {
        let worth = if self.late == 0 { self.size / 2 } else { (self.size / 2).min(self.window) };
        if self.owed == 0 || self.owed < worth {
            return None;
        }
        let increment = std::mem::take(&mut self.owed);
        self.window += increment;
        u32::try_from(increment).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(credit: &mut Credit, count: usize) -> usize {
        assert!(credit.receive(count));
        credit.keep(count);
        credit.due().unwrap_or(0) as usize
    }

    #[test]
    fn all_connections_together_leave_no_more_unread_than_the_budget_and_their_windows() {
        static SMALL: Budget = Budget::new(10 << 20);
        let mut connections: Vec<Credit> = (0..4).map(|_| Credit::within(2 << 20, &SMALL, &UNREAD)).collect();
        let mut unread = 0;
        for credit in &mut connections {
            let mut window = 2 << 20;
            while window > 0 && unread < 100 << 20 {
                let count = window.min(100_000);
                window = window - count + receive(credit, count);
                unread += count;
            }
        }
        assert!(unread <= (10 << 20) + 4 * (FREE + (2 << 20)), "{unread}");
        assert!(unread > 10 << 20, "{unread}");
        drop(connections);
        assert_eq!(SMALL.0.load(Ordering::Relaxed), 10 << 20, "what ended connections had taken is there again");
    }

    #[test]
    fn a_window_that_is_nearly_used_up_by_stalled_readers_still_moves_for_the_others() {
        static NONE: Budget = Budget::new(0);
        let mut credit = Credit::within(4 << 20, &NONE, &UNREAD);
        let mut window = 4 << 20;
        // Three and a half MiB of those that do not read.
        for _ in 0..7 {
            window = window - (512 << 10) + receive(&mut credit, 512 << 10);
        }
        for _ in 0..1000 {
            let count = 100_000.min(window);
            assert!(count > 0);
            window = window - count + receive(&mut credit, count);
            credit.release(count);
            window += credit.due().unwrap_or(0) as usize;
        }
    }

    #[test]
    fn what_all_connections_leave_unread_is_counted_and_at_the_limit_the_greediest_are_sent_no_more() {
        static MANY: Budget = Budget::new(1 << 40);
        static FEW: Unread = Unread { held: AtomicUsize::new(0), limit: AtomicUsize::new(8 << 20) };
        let mut connections: Vec<Credit> = (0..8).map(|_| Credit::within(4 << 20, &MANY, &FEW)).collect();
        for credit in &mut connections {
            credit.keep(UNCOUNTED);
        }
        assert_eq!(FEW.held.load(Ordering::Relaxed), 0, "short messages are not counted");
        let mut dice = fastrand::Rng::with_seed(3);
        for _ in 0..10_000 {
            let credit = &mut connections[dice.usize(..8)];
            let held = credit.early + credit.late;
            if credit.is_too_much(held) || dice.bool() {
                credit.release(held.min(dice.usize(..300_000)));
            } else {
                credit.keep(dice.usize(..300_000));
            }
            let held: usize = connections.iter().map(|credit| credit.early + credit.late).sum();
            let counted = FEW.held.load(Ordering::Relaxed);
            assert!(held <= counted + 8 * UNCOUNTED && counted <= held + 8 * 3 * COUNT, "{held} held, {counted} counted");
        }
        connections[0].keep(10 << 20);
        assert!(connections[1].is_too_much(GREEDY) && connections[1].is_too_much(UNCOUNTED) && !connections[1].is_too_much(100));
        drop(connections);
        assert_eq!(FEW.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn bytes_beyond_the_window_are_noticed() {
        let mut credit = Credit::new(1000);
        assert!(credit.receive(1000));
        assert!(!credit.receive(1));
    }
}
