//! What the peer may send in a connection, all tunnels together.
//!
//! What a few stalled readers leave unread would use the connection's window up, and every other tunnel would stand still with them. So
//! the window is given back when bytes arrive, not when they are read: each tunnel is then bounded by its own window alone. What lies
//! unread on those terms is bounded for a connection by [`MOST`] and for the process by [`BUDGET`], so that one pod whose server does
//! not read cannot take the memory of its node's proxy; beyond it the window is given back when bytes are read.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::held::Account;

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
    /// What it holds, as part of what all connections hold.
    pub(super) account: Account,
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.budget.give_back(self.taken);
    }
}

impl Credit {
    /// A window of `size` bytes.
    pub(crate) fn new(size: u32) -> Self {
        Self::within(size, &BUDGET)
    }

    fn within(size: u32, budget: &'static Budget) -> Self {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Self { size, window: size, owed: 0, early: 0, late: 0, taken: 0, budget, account: Account::default() }
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
        self.account.set_unread(self.early + self.late);
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
        self.account.set_unread(self.early + self.late);
    }

    /// No more is counted as held than is, with `output` bytes of memory for what is to be sent.
    pub(super) fn settle(&mut self, output: usize) {
        self.account.settle(self.early + self.late, output);
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
        let mut connections: Vec<Credit> = (0..4).map(|_| Credit::within(2 << 20, &SMALL)).collect();
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
        let mut credit = Credit::within(4 << 20, &NONE);
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
    fn bytes_beyond_the_window_are_noticed() {
        let mut credit = Credit::new(1000);
        assert!(credit.receive(1000));
        assert!(!credit.receive(1));
    }
}
