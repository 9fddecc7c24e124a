//! All kinds of objects in one stream. No I/O.
//!
//! Until each kind was listed nothing is told: half of the objects would make resources that are wrong, such as a service without its
//! policies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::source::{Event, Kind, NamespacedName, Object, ObjectKey, Origin, Problem, Severity};

/// What keeps a kind from being listed or watched at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// What is wrong, as a sentence.
    pub(super) reason: String,
    /// Whether the API server cannot be reached at all.
    pub(super) unreachable: bool,
}

/// News of one kind, or of one object of it.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) kind: Kind,
    /// The one object that is watched, and which watch of it this is from.
    pub(super) only: Option<(NamespacedName, u64)>,
    /// Whether all objects of the kind were told of, or that one.
    pub(super) listed: bool,
    pub(super) events: Vec<Event>,
    /// What is wrong with its objects.
    pub(super) problems: Arc<Vec<Problem>>,
    pub(super) trouble: Option<Trouble>,
}

/// A kind, or the only object of it that is meant.
type Whose = (Kind, Option<NamespacedName>);

/// What was told, and what not yet.
#[derive(Debug)]
pub(super) struct Merge {
    unlisted: BTreeSet<Kind>,
    /// The objects of the first batch, until it is told.
    first: Option<BTreeMap<ObjectKey, Object>>,
    events: Vec<Event>,
    wrong: BTreeMap<Whose, (Arc<Vec<Problem>>, Option<Trouble>)>,
    problems: Arc<Vec<Problem>>,
    /// Whether the problems are others than were told of.
    other: bool,
    unreachable: bool,
}

impl Merge {
    /// Waits for these kinds.
    pub(super) fn new(kinds: &[Kind]) -> Self {
        Self {
            unlisted: kinds.iter().copied().collect(),
            first: Some(BTreeMap::new()),
            events: Vec::new(),
            wrong: BTreeMap::new(),
            problems: Arc::default(),
            other: false,
            unreachable: false,
        }
    }

    /// Whether every kind was listed.
    pub(super) fn is_listed(&self) -> bool {
        self.unlisted.is_empty()
    }

    /// How many events wait.
    pub(super) fn waiting(&self) -> usize {
        self.events.len()
    }

    /// Takes in news of a kind.
    pub(super) fn take(&mut self, update: Update) {
        let Update { kind, only, listed, events, problems, trouble } = update;
        if listed && only.is_none() {
            self.listed(kind);
        }
        match &mut self.first {
            None => self.events.extend(events),
            // Only what is left of an object matters, however long the other kinds take.
            Some(first) => {
                for event in events {
                    match event {
                        Event::Upsert(object) => drop(first.insert(object.key(), object)),
                        Event::Delete(key) => drop(first.remove(&key)),
                    }
                }
            }
        }
        let (new, whose) = ((problems, trouble), (kind, only.map(|(name, _)| name)));
        if self.wrong.get(&whose).is_some_and(|old| *old.0 == *new.0 && old.1 == new.1) {
            return;
        }
        self.wrong.insert(whose, new);
        self.note();
    }

    /// All objects of a kind were told of.
    pub(super) fn listed(&mut self, kind: Kind) {
        self.unlisted.remove(&kind);
    }

    /// An object is not asked for any more.
    pub(super) fn forget(&mut self, key: &ObjectKey) {
        match &mut self.first {
            None => self.events.push(Event::Delete(key.clone())),
            Some(first) => drop(first.remove(key)),
        }
        if self.wrong.remove(&(key.kind, Some(key.name.clone()))).is_some() {
            self.note();
        }
    }

    /// The next batch, if there is one: the first is everything, and comes even if it is empty; a later one may have only problems.
    pub(super) fn batch(&mut self) -> Option<Vec<Event>> {
        if !self.is_listed() {
            return None;
        }
        if let Some(first) = self.first.take() {
            self.other = false;
            return Some(first.into_values().map(Event::Upsert).collect());
        }
        (std::mem::take(&mut self.other) || !self.events.is_empty()).then(|| std::mem::take(&mut self.events))
    }

    /// What is wrong at present: with objects, and with asking for them.
    pub(super) fn problems(&self) -> Arc<Vec<Problem>> {
        Arc::clone(&self.problems)
    }

    fn note(&mut self) {
        let mut problems: Vec<Problem> = self.wrong.values().flat_map(|(problems, _)| problems.iter().cloned()).collect();
        let troubles = || self.wrong.values().filter_map(|(_, trouble)| trouble.as_ref());
        let told = |trouble: &Trouble| Problem {
            origin: Origin::Cluster,
            object: None,
            field: String::new(),
            reason: format!("{}; what was in force before stays", trouble.reason),
            severity: Severity::Warning,
        };
        // One connection refused is every connection refused.
        let unreachable = troubles().find(|trouble| trouble.unreachable);
        problems.extend(unreachable.map(told));
        problems.extend(troubles().filter(|trouble| !trouble.unreachable).map(told));
        problems.sort();
        let unreachable = unreachable.is_some();
        metrics::gauge!("pilot_k8s_api_reachable").set(f64::from(u8::from(!unreachable)));
        if std::mem::replace(&mut self.unreachable, unreachable) && !unreachable {
            tracing::info!("the API server can be reached again");
        }
        self.other |= *self.problems != problems;
        self.problems = Arc::new(problems);
    }
}
