//! Who was refused what, and why: in the log, and the last of them for people.

use std::{
    collections::VecDeque,
    fmt::{self, Display},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::time::Instant;

use super::{Caller, Rate, lines::Lines};

/// How many are shown, of those whose token was verified and as many of the others: who only claims to be somebody must not push out those
/// who are.
const SHOWN: usize = 32;
/// So much of each text is logged and kept, in bytes: who is refused may have said anything, at any length.
const LONGEST: usize = 512;
/// Lines about a verified caller: a node proxy may be refused for many pods at once.
const CALLER: Rate = Rate { burst: 200.0, per_second: 5.0 };
/// Lines about an address whose tokens nobody has verified.
const ADDRESS: Rate = Rate { burst: 50.0, per_second: 1.0 };
/// Lines about all of one of these kinds.
const ALL: Rate = Rate { burst: 1000.0, per_second: 20.0 };

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

/// Who was refused.
#[derive(Debug)]
pub(crate) enum Who {
    /// The caller that its token is.
    Verified(Caller),
    /// Anybody: what the token claims, which nobody has verified.
    Claimed(String),
}

impl Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verified(caller) => caller.fmt(f),
            Self::Claimed(text) => f.write_str(text),
        }
    }
}

/// The refusals of this process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<Mutex<Known>>);

#[derive(Debug)]
struct Known {
    count: u64,
    verified: Kind,
    claimed: Kind,
}

#[derive(Debug)]
struct Kind {
    lines: Lines,
    /// Newest first, each with its number.
    shown: VecDeque<(u64, Refusal)>,
}

impl Default for Known {
    fn default() -> Self {
        let kind = |each| Kind { lines: Lines::new(each, ALL, Instant::now()), shown: VecDeque::new() };
        Self { count: 0, verified: kind(CALLER), claimed: kind(ADDRESS) }
    }
}

impl Known {
    fn kind(&mut self, who: &Who) -> &mut Kind {
        match who {
            Who::Verified(_) => &mut self.verified,
            Who::Claimed(_) => &mut self.claimed,
        }
    }
}

impl Refusals {
    /// Writes one line to the log, unless there were too many, and remembers the refusal for a while.
    pub(crate) fn record(&self, peer: Option<SocketAddr>, who: &Who, asked: &str, reason: &dyn Display) {
        let (caller, asked, reason) = (short(&who.to_string()), short(asked), short(&reason.to_string()));
        if let Some(left_out) = self.line(peer, who) {
            let peer = peer.map(tracing::field::display);
            tracing::warn!(peer, caller, asked, reason, left_out, "a certificate was refused");
        }
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let peer = peer.map_or_else(|| "-".to_owned(), |peer| peer.to_string());
        let mut known = self.known();
        known.count += 1;
        let number = known.count;
        let shown = &mut known.kind(who).shown;
        shown.truncate(SHOWN - 1);
        shown.push_front((number, Refusal { at, peer, caller, asked, reason }));
    }

    /// Whether a line that `who` was refused may be logged: then with how many were left out since the last one, if any.
    pub(crate) fn line(&self, peer: Option<SocketAddr>, who: &Who) -> Option<Option<u64>> {
        let key = match (who, peer) {
            (Who::Verified(caller), _) => caller.to_string(),
            (Who::Claimed(_), Some(peer)) => peer.ip().to_string(),
            (Who::Claimed(_), None) => String::new(),
        };
        let left_out = self.known().kind(who).lines.may_write(key, Instant::now())?;
        Some(Some(left_out).filter(|left_out| *left_out > 0))
    }

    /// The last ones, newest first.
    #[must_use]
    pub fn last(&self) -> Vec<Refusal> {
        let known = self.known();
        let mut last: Vec<&(u64, Refusal)> = known.verified.shown.iter().chain(&known.claimed.shown).collect();
        last.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        last.into_iter().map(|(_, refusal)| refusal.clone()).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As much of a text as people read, where somebody else may have said anything at any length.
pub(crate) fn short(text: &str) -> String {
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
        let anybody = Who::Claimed("ä".repeat(LONGEST));
        let peer = "10.0.0.1:4711".parse().ok();
        for number in 0..=SHOWN {
            refusals.record(peer, &anybody, &number.to_string(), &"it is not a JWT");
        }
        let last = refusals.last();
        assert_eq!((last.len(), last[0].asked.as_str()), (SHOWN, SHOWN.to_string().as_str()));
        assert_eq!(last[0].caller, format!("{}…", "ä".repeat(LONGEST / 2)));
        assert_eq!((last[0].reason.as_str(), last[0].peer.as_str()), ("it is not a JWT", "10.0.0.1:4711"));
    }

    #[test]
    fn who_only_claims_to_be_somebody_pushes_no_other_out() {
        let refusals = Refusals::default();
        let caller = Caller { account: "shop/web".parse().unwrap(), pod: None, node: None };
        let (known, anybody) = (Who::Verified(caller), Who::Claimed("unknown".to_owned()));
        let peer = "10.0.0.1:4711".parse().ok();
        refusals.record(peer, &known, "api", &"no");
        for _ in 0..10_000 {
            refusals.record(peer, &anybody, "its own", &"it is not a JWT");
        }
        assert!(refusals.last().iter().any(|refusal| refusal.caller == "shop/web without a pod"));
        refusals.record(peer, &known, "db", &"no");
        assert_eq!(refusals.last()[0].asked, "db", "newest first");
        assert_eq!(refusals.line(peer, &known), Some(None));
    }
}
