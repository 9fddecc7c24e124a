//! Who was refused what, and why: in the log, and the last of them for people.

use std::{
    collections::VecDeque,
    fmt::Display,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

/// How many are shown.
const SHOWN: usize = 32;
/// So much of each text is logged and kept, in bytes: who is refused may have said anything, at any length.
const LONGEST: usize = 512;

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Refusal {
    /// When, seconds since 1970.
    pub at: u64,
    /// The address that asked.
    pub peer: String,
    /// Who asked; verified, unless the text says that it is by its own account.
    pub caller: String,
    /// The identity that was asked for.
    pub asked: String,
    /// Why not.
    pub reason: String,
}

/// The refusals of this process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<Mutex<VecDeque<Refusal>>>);

impl Refusals {
    /// Writes one line to the log and remembers it for a while.
    pub fn record(&self, peer: &str, caller: &dyn Display, asked: &str, reason: &dyn Display) {
        let (caller, asked, reason) = (short(&caller.to_string()), short(asked), short(&reason.to_string()));
        tracing::warn!(peer, caller, asked, reason, "a certificate was refused");
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shown.truncate(SHOWN - 1);
        shown.push_front(Refusal { at, peer: peer.to_owned(), caller, asked, reason });
    }

    /// The last ones, newest first.
    #[must_use]
    pub fn last(&self) -> Vec<Refusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

fn short(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept_and_no_more_of_each_than_people_read() {
        let refusals = Refusals::default();
        for number in 0..=SHOWN {
            refusals.record("10.0.0.1:4711", &"ä".repeat(LONGEST), &number.to_string(), &"it is not a JWT");
        }
        let last = refusals.last();
        assert_eq!((last.len(), last[0].asked.as_str()), (SHOWN, SHOWN.to_string().as_str()));
        assert_eq!(last[0].caller, format!("{}…", "ä".repeat(LONGEST / 2)));
        assert_eq!(last[0].reason, "it is not a JWT");
    }
}
