//! What all connections of the process hold together: bytes that wait to be read, and memory for what is to be sent. Windows alone would allow
//! each connection its own, and a peer may open thousands of connections.

use std::sync::atomic::{AtomicUsize, Ordering};

/// All connections of the process.
static HELD: Held = Held { unread: AtomicUsize::new(0), output: AtomicUsize::new(0), limit: AtomicUsize::new(512 << 20) };
/// What a connection may hold of each without being counted, so that short messages cost no access to what all share.
const UNCOUNTED: usize = 16 << 10;
/// The unit in which a connection counts what it holds.
const COUNT: usize = 64 << 10;
/// When as much waits to be read as may be held, tunnels are cut that hold as much as this and are sent more; an eighth above it, those that
/// hold [`UNCOUNTED`].
const GREEDY: usize = 1 << 20;

/// Sets how many bytes that wait to be read or sent all tunnels of this process may hold, about: 512 MiB if not set. When there are more,
/// less is taken in to be sent. When as many wait to be read alone, tunnels are cut that are sent more although nobody reads what came before,
/// the greediest first; those that are read go on.
pub fn limit_unread(bytes: usize) {
    HELD.limit.store(bytes, Ordering::Relaxed);
}

/// What connections hold together.
#[derive(Debug)]
struct Held {
    unread: AtomicUsize,
    output: AtomicUsize,
    limit: AtomicUsize,
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
        count(&self.held.unread, &mut self.unread, bytes);
    }

    /// So much memory there is for what is to be sent.
    pub(super) fn set_output(&mut self, bytes: usize) {
        count(&self.held.output, &mut self.output, bytes);
    }

    /// Whether a tunnel that holds so much unread must not be sent more.
    pub(super) fn is_too_much(&self, unread: usize) -> bool {
        let (held, limit) = (self.held.unread.load(Ordering::Relaxed), self.held.limit.load(Ordering::Relaxed));
        held >= limit && unread >= if held - limit < limit / 8 { GREEDY } else { UNCOUNTED }
    }

    /// Whether as little as possible is to be taken in to be sent.
    pub(super) fn is_short(&self) -> bool {
        let held = self.held.unread.load(Ordering::Relaxed).saturating_add(self.held.output.load(Ordering::Relaxed));
        held >= self.held.limit.load(Ordering::Relaxed)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.held.unread.fetch_sub(self.unread, Ordering::Relaxed);
        self.held.output.fetch_sub(self.output, Ordering::Relaxed);
    }
}

/// Counts in `total` what a connection holds, of which `counted` are counted.
fn count(total: &AtomicUsize, counted: &mut usize, bytes: usize) {
    let held = bytes.saturating_sub(UNCOUNTED);
    if held > *counted {
        let more = (held - *counted).next_multiple_of(COUNT);
        *counted += more;
        total.fetch_add(more, Ordering::Relaxed);
    } else if *counted > 0 && (held == 0 || held + 2 * COUNT < *counted) {
        // Some is kept, so that it is not given back and taken all the time.
        let less = *counted - held.next_multiple_of(COUNT);
        *counted -= less;
        total.fetch_sub(less, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_connections_leave_unread_is_counted_and_at_the_limit_the_greediest_are_sent_no_more() {
        static FEW: Held = Held { unread: AtomicUsize::new(0), output: AtomicUsize::new(0), limit: AtomicUsize::new(8 << 20) };
        let mut accounts: Vec<(Account, usize)> = (0..8).map(|_| (Account::of(&FEW), 0)).collect();
        for (account, _) in &mut accounts {
            account.set_unread(UNCOUNTED);
        }
        assert_eq!(FEW.unread.load(Ordering::Relaxed), 0, "short messages are not counted");
        let mut dice = fastrand::Rng::with_seed(3);
        for _ in 0..10_000 {
            let (account, unread) = &mut accounts[dice.usize(..8)];
            let some = dice.usize(..300_000);
            *unread = if account.is_too_much(*unread) || dice.bool() { unread.saturating_sub(some) } else { *unread + some };
            account.set_unread(*unread);
            let held: usize = accounts.iter().map(|(_, unread)| unread).sum();
            let counted = FEW.unread.load(Ordering::Relaxed);
            assert!(held <= counted + 8 * UNCOUNTED && counted <= held + 8 * 3 * COUNT, "{held} held, {counted} counted");
            assert!(held < 12 << 20, "{held} held");
        }
        accounts[0].0.set_unread(10 << 20);
        assert!(accounts[1].0.is_too_much(GREEDY) && accounts[1].0.is_too_much(UNCOUNTED) && !accounts[1].0.is_too_much(100));
        drop(accounts);
        assert_eq!(FEW.unread.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn memory_for_what_is_to_be_sent_makes_it_less_and_cuts_nobody() {
        static FEW: Held = Held { unread: AtomicUsize::new(0), output: AtomicUsize::new(0), limit: AtomicUsize::new(1 << 20) };
        let mut account = Account::of(&FEW);
        assert!(!account.is_short());
        account.set_output(2 << 20);
        assert!(account.is_short() && !account.is_too_much(100 << 20));
        account.set_output(0);
        assert!(!account.is_short());
    }
}
