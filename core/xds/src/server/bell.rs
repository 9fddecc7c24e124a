//! Who is told of each change of a view: its sessions, each by a call of its own, and whoever watches it.
//!
//! A channel would tell sessions, too. But its thousand receivers would queue up anew after each change, in lists that they share; here they
//! stay where they are.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;

use super::calls::Calls;

/// So many are kept at least before those that are gone are looked for.
const FEW: usize = 16;

/// Rung when a view has changed.
#[derive(Debug, Default)]
pub(super) struct Bell {
    hearers: Mutex<Hearers>,
    /// Counts the changes. Sessions have a receiver, too, but do not wait for it.
    rung: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Hearers {
    /// Each with the part of it that is called.
    all: Vec<(Weak<Calls>, u8)>,
    /// Those that are gone are dropped when there are so many.
    sweep: usize,
}

impl Bell {
    /// Tells of changes one who waits for them.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.rung.subscribe()
    }

    /// How many of those there are.
    pub(super) fn receiver_count(&self) -> usize {
        self.rung.receiver_count()
    }

    /// From now on the part is called at each change, until nobody has `calls` any more.
    pub(super) fn listen(&self, calls: &Arc<Calls>, part: u8) {
        let mut hearers = self.lock();
        // There may be no change for long, and streams come and go.
        if hearers.all.len() >= hearers.sweep {
            hearers.all.retain(|(calls, _)| calls.strong_count() > 0);
            hearers.sweep = (2 * hearers.all.len()).max(FEW);
        }
        hearers.all.push((Arc::downgrade(calls), part));
    }

    /// Tells all. Who is called only notes it, and wakes its task.
    pub(super) fn ring(&self) {
        self.lock().all.retain(|(calls, part)| match calls.upgrade() {
            Some(calls) => {
                calls.call(*part);
                true
            }
            None => false,
        });
        self.rung.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Hearers> {
        self.hearers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_listen_are_called_and_who_is_gone_is_forgotten() {
        let bell = Bell::default();
        let mut watcher = bell.subscribe();
        let listen = |part| {
            let calls = Calls::new(0);
            bell.listen(&calls, part);
            calls
        };
        let (one, two) = (listen(1), listen(2));
        bell.ring();
        assert!(one.hears(1) && !one.hears(1) && two.hears(2));
        assert_eq!((*watcher.borrow_and_update(), bell.receiver_count()), (1, 1));
        drop(two);
        bell.ring();
        assert!(one.hears(1));
        assert_eq!(bell.lock().all.len(), 1);
        for _ in 0..10 * FEW {
            drop(listen(1));
        }
        assert!(bell.lock().all.len() <= FEW, "without a change, too");
        bell.ring();
        assert!(one.hears(1));
    }
}
