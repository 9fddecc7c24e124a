//! What is fetched when, and what is made of it. Pure: the time, and how each fetch ended, are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::{Fetched, KeySource, News, NoKeys, Wanted};
use crate::retry;

/// Addresses that are asked. Each rule of a RequestAuthentication can name one, and whoever may write one is not to have all the time of all.
pub(super) const MOST: usize = 256;
/// Of those, what one namespace can have asked, so that none has all of them.
pub(super) const EACH: usize = 32;
/// Fetches under way at once.
pub(super) const AT_ONCE: usize = 16;
/// Fetches in vain in a row, after which it is told that keys may not hold any more: a hiccup is nobody's business.
const TOLD: u32 = 3;
/// By this share at most a wait is shorter than it is said to be, so that replicas, and what began together, do not go on together.
const SPREAD: f64 = 0.1;

/// The course of all fetches.
#[derive(Debug)]
pub(super) struct Course {
    refresh: Duration,
    states: BTreeMap<KeySource, State>,
    /// Asked for, but too many.
    beyond: BTreeSet<KeySource>,
    /// Being fetched; also what nobody asks for any more.
    running: BTreeSet<KeySource>,
}

#[derive(Debug)]
struct State {
    /// How long a fetch may take.
    patience: Duration,
    due: Instant,
    /// In a row.
    failures: u32,
    /// Why the last fetch failed, if it did.
    error: Option<String>,
    /// What everybody was told.
    told: Option<Fetched>,
    /// The end of the last fetch that succeeded.
    fetched: Option<Instant>,
    /// The end of the last fetch.
    tried: Option<Instant>,
}

/// What became of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Keys came that are not those before.
    Changed,
    /// The same keys came.
    Unchanged,
    /// There are none any more.
    Withdrawn,
    /// None came for the first time since some did.
    Failed,
    /// None came once more.
    FailedAgain,
}

/// A source as `/debug/jwks` shows it.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    /// What is asked first.
    address: String,
    /// Whether keys are in force.
    keys: bool,
    /// How old they are: when they came, or were found unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    /// When it was asked last.
    #[serde(skip_serializing_if = "Option::is_none")]
    tried_seconds_ago: Option<u64>,
    /// When it is asked next.
    next_in_seconds: u64,
    /// Fetches that failed since one succeeded.
    failures: u32,
    /// Why the last one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Course {
    /// Nothing is asked for yet. Keys are fetched again after `refresh`.
    pub(super) fn new(refresh: Duration) -> Self {
        Self { refresh, states: BTreeMap::new(), beyond: BTreeSet::new(), running: BTreeSet::new() }
    }

    /// Takes in all that is asked for now, each with who asks. What is new is due at once; what nobody asks for any
    /// more is forgotten, with its keys.
    pub(super) fn want(&mut self, now: Instant, wanted: &BTreeMap<KeySource, Wanted>) -> Vec<News> {
        let of_before = self.states.keys().chain(&self.beyond);
        let mut news: Vec<News> =
            of_before.filter(|source| !wanted.contains_key(*source)).map(|source| (source.clone(), None)).collect();
        self.states.retain(|source, _| wanted.contains_key(source));
        self.beyond.retain(|source| wanted.contains_key(source));
        let mut of_namespaces: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, by) in wanted.iter().filter(|(source, _)| self.states.contains_key(*source)) {
            by.namespaces.iter().for_each(|namespace| *of_namespaces.entry(namespace).or_default() += 1);
        }
        for (source, by) in wanted {
            if let Some(state) = self.states.get_mut(source) {
                state.patience = by.patience;
                continue;
            }
            // What several ask for is fetched as long as one of them may have it.
            let room = by.namespaces.iter().any(|namespace| of_namespaces.get(&**namespace).is_none_or(|count| *count < EACH));
            if room && self.states.len() < MOST {
                self.beyond.remove(source);
                self.states.insert(source.clone(), State::new(now, by.patience));
                by.namespaces.iter().for_each(|namespace| *of_namespaces.entry(namespace).or_default() += 1);
            } else if self.beyond.insert(source.clone()) {
                let why = match room {
                    true => format!("keys are fetched from {MOST} addresses already, and from no more"),
                    false => format!("keys are fetched from {EACH} addresses for its namespace already, and from no more"),
                };
                news.push((source.clone(), Some(Fetched::Failed(why))));
            }
        }
        news
    }

    /// What is to be fetched now, if anything, and how long that may take. It counts as under way until it has [ended](Self::ended).
    pub(super) fn next(&mut self, now: Instant) -> Option<(KeySource, Duration)> {
        if self.running.len() >= AT_ONCE {
            return None;
        }
        let due = self.idle().filter(|(_, state)| state.due <= now).min_by_key(|(_, state)| state.due);
        let (source, patience) = due.map(|(source, state)| (source.clone(), state.patience))?;
        self.running.insert(source.clone());
        Some((source, patience))
    }

    /// When there is something to be fetched next, unless one that is under way ends before.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.running.len() >= AT_ONCE {
            return None;
        }
        self.idle().map(|(_, state)| state.due).min()
    }

    fn idle(&self) -> impl Iterator<Item = (&KeySource, &State)> {
        self.states.iter().filter(|(source, _)| !self.running.contains(*source))
    }

    /// Takes in how a fetch ended, with `spread` between 0 and 1 for the next one, and says what is new by it. Nothing came of it where
    /// nobody asks for it any more.
    pub(super) fn ended(
        &mut self,
        now: Instant,
        source: &KeySource,
        result: Result<Arc<str>, NoKeys>,
        spread: f64,
    ) -> (Option<Outcome>, Option<News>) {
        self.running.remove(source);
        let Some(state) = self.states.get_mut(source) else { return (None, None) };
        let (outcome, told) = state.ended(now, result);
        let wait = if state.failures == 0 { self.refresh } else { retry::after(state.failures).min(self.refresh) };
        state.due = now + wait.mul_f64(1.0 - SPREAD * spread.clamp(0.0, 1.0));
        (Some(outcome), told.map(|told| (source.clone(), Some(told))))
    }

    /// What is known of each source.
    pub(super) fn lines(&self, now: Instant) -> Vec<Line> {
        let ago = |then: Instant| now.saturating_duration_since(then).as_secs();
        let of_state = |(source, state): (&KeySource, &State)| Line {
            address: source.address(),
            keys: state.has_keys(),
            age_seconds: state.fetched.map(ago),
            tried_seconds_ago: state.tried.map(ago),
            next_in_seconds: state.due.saturating_duration_since(now).as_secs(),
            failures: state.failures,
            error: state.error.clone(),
        };
        self.states.iter().map(of_state).collect()
    }
}

impl State {
    fn new(now: Instant, patience: Duration) -> Self {
        Self { patience, due: now, failures: 0, error: None, told: None, fetched: None, tried: None }
    }

    fn has_keys(&self) -> bool {
        self.keys().is_some()
    }

    fn keys(&self) -> Option<&Arc<str>> {
        match &self.told {
            Some(Fetched::Keys(keys) | Fetched::Kept(keys, _)) => Some(keys),
            Some(Fetched::Failed(_)) | None => None,
        }
    }

    /// What is to be told, if that is not what was told before. Keys that came once hold until the source says that there are others, or none.
    fn ended(&mut self, now: Instant, result: Result<Arc<str>, NoKeys>) -> (Outcome, Option<Fetched>) {
        self.tried = Some(now);
        let (outcome, known) = match result {
            Ok(keys) => {
                (self.failures, self.error, self.fetched) = (0, None, Some(now));
                let outcome = if self.keys() == Some(&keys) { Outcome::Unchanged } else { Outcome::Changed };
                (outcome, Fetched::Keys(keys))
            }
            Err(none) => {
                self.failures = self.failures.saturating_add(1);
                self.error = Some(none.why().to_owned());
                let outcome = if self.failures == 1 { Outcome::Failed } else { Outcome::FailedAgain };
                match (self.keys().cloned(), none) {
                    (Some(_), NoKeys::Withdrawn(why)) => {
                        self.fetched = None;
                        (Outcome::Withdrawn, Fetched::Failed(why))
                    }
                    (Some(_), NoKeys::Failed(_)) if self.failures < TOLD => return (outcome, None),
                    (Some(keys), NoKeys::Failed(why)) => (outcome, Fetched::Kept(keys, why)),
                    (None, NoKeys::Withdrawn(why) | NoKeys::Failed(why)) => (outcome, Fetched::Failed(why)),
                }
            }
        };
        let is_new = self.told.as_ref() != Some(&known);
        if is_new {
            self.told = Some(known.clone());
        }
        (outcome, is_new.then_some(known))
    }
}
