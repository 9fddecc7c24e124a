//! Connections that begin take turns with those that stand: however many come at once, a worker establishes a few, carries what waits
//! for it, and goes on. Without it a storm of new connections is a queue in which every byte of the others stands too.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{sync::Semaphore, task};

/// How many begin in a turn of a worker. Fewer would cost what is saved when several begin together; each takes some 0.1 ms.
const EACH: usize = 16;

/// The turns of one worker.
#[derive(Debug)]
pub struct Turns {
    places: Semaphore,
    /// Whether a task waits for the next turn.
    awaited: AtomicBool,
}

impl Default for Turns {
    fn default() -> Self {
        Self { places: Semaphore::new(EACH), awaited: AtomicBool::new(false) }
    }
}

impl Turns {
    /// Waits until another connection may begin: at once, or in one of the next turns, in the order of asking.
    pub async fn next(self: &Arc<Self>) {
        let Ok(place) = self.places.acquire().await else { return };
        place.forget();
        if !self.awaited.swap(true, Ordering::Relaxed) {
            let turns = Arc::clone(self);
            task::spawn(async move {
                // Comes back once all that is ready has had its turn, and the kernel was asked for more.
                task::yield_now().await;
                turns.awaited.store(false, Ordering::Relaxed);
                turns.places.add_permits(EACH.saturating_sub(turns.places.available_permits()));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_stands_has_its_turn_after_a_few_new_ones_however_many_there_are() {
        let (turns, begun) = (Arc::new(Turns::default()), Rc::new(Cell::new(0)));
        let local = task::LocalSet::new();
        for _ in 0..1000 {
            let (turns, begun) = (Arc::clone(&turns), Rc::clone(&begun));
            local.spawn_local(async move {
                turns.next().await;
                begun.set(begun.get() + 1);
            });
        }
        let stands = async {
            let (mut turns, mut before) = (0, 0);
            while begun.get() < 1000 {
                task::yield_now().await;
                let now = begun.get();
                assert!(now - before <= 2 * EACH, "{} began before the one that stands had its turn", now - before);
                (turns, before) = (turns + 1, now);
            }
            assert!(turns >= 1000 / EACH / 2, "{turns}");
        };
        local.run_until(stands).await;
    }

    #[tokio::test]
    async fn one_that_gives_up_takes_no_place() {
        let turns = Arc::new(Turns::default());
        for _ in 0..EACH {
            turns.next().await;
        }
        tokio::select! {
            biased;
            () = turns.next() => panic!("there was no place left in this turn"),
            () = std::future::ready(()) => {}
        }
        for _ in 0..EACH * 3 {
            turns.next().await;
        }
    }
}
