//! Whose Lease it is: decided from what the Lease said and when it was seen to say so. No I/O; the clock is the caller's.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::Terms;

/// What a Lease says. Times are as they are written there, and only compared with themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// Who holds it; empty when it was given up.
    pub(super) holder: String,
    /// For how long it holds.
    pub(super) seconds: i32,
    /// When its holder got it.
    pub(super) acquired: Option<Timestamp>,
    /// When it was renewed last.
    pub(super) renewed: Option<Timestamp>,
    /// How often it changed hands.
    pub(super) transitions: i32,
    /// The version of the object, so that only who has seen it last can write it.
    pub(super) version: Option<String>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// There is no Lease: make this one.
    Create(Record),
    /// Write this over the version that was seen.
    Replace(Record),
    /// It is another's.
    Wait,
}

/// One candidate's view of the Lease.
#[derive(Debug)]
pub(super) struct Election {
    identity: String,
    terms: Terms,
    seen: Option<Record>,
    /// When the Lease was first seen as it is.
    since: Instant,
    /// Until when another may lead whose Lease was deleted: it learns of that when it renews it.
    bereft: Option<Instant>,
    /// When the last write that was accepted began.
    renewed: Option<Instant>,
}

impl Election {
    pub(super) fn new(identity: String, terms: Terms, now: Instant) -> Self {
        Self { identity, terms, seen: None, since: now, bereft: None, renewed: None }
    }

    /// Takes in the Lease as it was read; `None` when there is none.
    pub(super) fn observe(&mut self, lease: Option<Record>, now: Instant) {
        self.bereft = match (&self.seen, &lease) {
            (_, Some(_)) => None,
            (None, None) => self.bereft,
            // It may have been renewed just before, unseen by us. Who leads itself knows that nobody else does.
            (Some(seen), None) => {
                let leads = self.is_ours() && self.until().is_some_and(|until| now < until);
                (!leads && !seen.holder.is_empty()).then(|| now + length(seen))
            }
        };
        // A Lease that says something else than before is alive, whatever times it tells; one of which only the version is another has
        // been touched by somebody else, such as for an annotation.
        if !same(self.seen.as_ref(), lease.as_ref()) {
            self.since = now;
        }
        self.seen = lease;
        if !self.is_ours() {
            self.renewed = None;
        }
    }

    /// What to do, with `time` to write into the Lease.
    pub(super) fn step(&self, now: Instant, time: Timestamp) -> Step {
        let record = Record {
            holder: self.identity.clone(),
            seconds: i32::try_from(self.terms.lease.as_secs()).unwrap_or(i32::MAX).max(1),
            acquired: Some(time),
            renewed: Some(time),
            transitions: 0,
            version: None,
        };
        match &self.seen {
            None if self.bereft.is_some_and(|until| now < until) => Step::Wait,
            None => Step::Create(record),
            Some(seen) if seen.holder == self.identity => Step::Replace(Record {
                acquired: seen.acquired.or(Some(time)),
                transitions: seen.transitions,
                version: seen.version.clone(),
                ..record
            }),
            Some(seen) if seen.holder.is_empty() || now >= self.since + length(seen) => {
                Step::Replace(Record { transitions: seen.transitions.saturating_add(1), version: seen.version.clone(), ..record })
            }
            Some(_) => Step::Wait,
        }
    }

    /// A write that began at `began` was accepted, and this is the Lease now.
    pub(super) fn written(&mut self, lease: Record, began: Instant, now: Instant) {
        self.observe(Some(lease), now);
        if self.is_ours() {
            self.renewed = Some(began);
        }
    }

    /// Until when this candidate leads, unless it renews the Lease.
    pub(super) fn until(&self) -> Option<Instant> {
        Some(self.renewed? + self.terms.renew)
    }

    /// Who held the Lease when it was last seen.
    pub(super) fn holder(&self) -> Option<&str> {
        self.seen.as_ref().map(|seen| seen.holder.as_str())
    }

    /// When another's Lease runs out, unless it is renewed.
    pub(super) fn expires(&self) -> Option<Instant> {
        let Some(seen) = &self.seen else { return self.bereft };
        (!seen.holder.is_empty() && seen.holder != self.identity).then(|| self.since + length(seen))
    }

    /// The Lease given up, if it is ours: anybody may take it at once.
    pub(super) fn released(&self, time: Timestamp) -> Option<Record> {
        let seen = self.seen.as_ref().filter(|_| self.is_ours())?;
        Some(Record { holder: String::new(), seconds: 1, acquired: Some(time), renewed: Some(time), ..seen.clone() })
    }

    /// Whether the Lease, as it was last seen, is this candidate's.
    pub(super) fn is_ours(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.holder == self.identity)
    }
}

/// Whether two looks saw the Lease say the same.
fn same(before: Option<&Record>, now: Option<&Record>) -> bool {
    let said = |record: &Record| Record { version: None, ..record.clone() };
    before.map(said) == now.map(said)
}

/// For how long another's Lease holds, by its own word; a length that is none is taken for the default.
fn length(lease: &Record) -> Duration {
    u64::try_from(lease.seconds).ok().filter(|seconds| *seconds > 0).map_or(Terms::default().lease, Duration::from_secs)
}
