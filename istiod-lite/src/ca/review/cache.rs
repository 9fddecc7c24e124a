//! What was said of tokens, for a while. Pure: the time is given.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::Key;
use crate::ca::Caller;

/// How long a token counts as accepted without being asked about again, at most; its own end comes first.
pub(super) const ACCEPTED: Duration = Duration::from_secs(60);
/// How long a token counts as refused: against those who try the same one in a loop.
pub(super) const REFUSED: Duration = Duration::from_secs(5);
/// Accepted tokens that are remembered: a few of each node of a large cluster.
pub(super) const MOST_ACCEPTED: usize = 20_000;
/// Refused ones. They have their own places, so that a flood of them makes nobody forgotten who was accepted.
pub(super) const MOST_REFUSED: usize = 4_096;

/// Both clocks: time passes by the first, and tokens end by the second, which may jump.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub steady: Instant,
    pub wall: SystemTime,
}

impl Now {
    pub fn read() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now() }
    }
}

#[derive(Debug)]
struct Entry<T> {
    said: T,
    until: Instant,
    expires: SystemTime,
}

impl<T> Entry<T> {
    fn holds(&self, now: Now) -> bool {
        now.steady < self.until && now.wall < self.expires
    }
}

/// Answers by the digest of the token.
#[derive(Debug, Default)]
pub(super) struct Cache {
    accepted: HashMap<Key, Entry<Caller>>,
    refused: HashMap<Key, Entry<String>>,
}

impl Cache {
    /// What was said, if that still holds.
    pub fn get(&self, key: &Key, now: Now) -> Option<Result<Caller, String>> {
        if let Some(entry) = self.accepted.get(key).filter(|entry| entry.holds(now)) {
            return Some(Ok(entry.said.clone()));
        }
        self.refused.get(key).filter(|entry| entry.holds(now)).map(|entry| Err(entry.said.clone()))
    }

    /// How many are remembered as accepted and as refused.
    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize) {
        (self.accepted.len(), self.refused.len())
    }

    /// Remembers what was said of a token that ends at `expires`, in place of what was said before.
    pub fn put(&mut self, key: Key, said: Result<Caller, String>, expires: SystemTime, now: Now) {
        match said {
            Ok(caller) => {
                self.refused.remove(&key);
                let entry = Entry { said: caller, until: now.steady + ACCEPTED, expires };
                insert(&mut self.accepted, MOST_ACCEPTED, key, entry, now);
            }
            Err(reason) => {
                self.accepted.remove(&key);
                let entry = Entry { said: reason, until: now.steady + REFUSED, expires };
                insert(&mut self.refused, MOST_REFUSED, key, entry, now);
            }
        }
    }
}

/// When there is no place, what holds no longer goes, else the eighth that ends first.
fn insert<T>(entries: &mut HashMap<Key, Entry<T>>, most: usize, key: Key, entry: Entry<T>, now: Now) {
    if entries.len() >= most && !entries.contains_key(&key) {
        entries.retain(|_, entry| entry.holds(now));
    }
    if entries.len() >= most && !entries.contains_key(&key) {
        let mut ends: Vec<Instant> = entries.values().map(|entry| entry.until).collect();
        let (_, last, _) = ends.select_nth_unstable(most / 8);
        let last = *last;
        let mut room = most / 8 + 1;
        entries.retain(|_, entry| {
            let goes = room > 0 && entry.until <= last;
            room -= usize::from(goes);
            !goes
        });
    }
    entries.insert(key, entry);
}
