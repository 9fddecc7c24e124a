//! One kind of object: what to ask the API server next, and what its answers change. No I/O and no clock.
//!
//! A list is taken in when its last page has come: what it no longer has is deleted first, then what is new or other is put in place.
//! A watch goes on from the last version that an event or bookmark named; when the server has forgotten that one (410), everything is
//! listed again and only the difference becomes events.

mod failures;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::core::WatchEvent;
use serde_json::Value;

use super::failure::Failure;
use super::read::{name_of, read};
use super::trim;
use crate::source::Problem;
use crate::source::object::{Event, Kind, NamespacedName, Object, ObjectKey};

/// Objects in a page of a list.
pub(super) const PAGE: u32 = 500;

/// What to ask next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// A page of all objects: the path, the most that it may hold, and the token of the page before.
    List { path: String, limit: Option<u32>, token: Option<String> },
    /// Changes since a version.
    Watch { path: String, from: String },
}

/// How long to wait after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// Not at all: something else is tried.
    None,
    /// Longer with each failure in a row, of which this is the number from 0.
    Failures(u32),
    /// Until it is time to look again for a kind that the server does not have.
    Absent,
}

/// One kind of object.
#[derive(Debug)]
pub(super) struct Reflector {
    kind: Kind,
    /// The only object that is asked for; all where it is none.
    only: Option<NamespacedName>,
    /// Which of the kind's versions is asked for.
    version: usize,
    state: State,
    /// What is in force; shared with the index.
    known: BTreeMap<NamespacedName, Object>,
    problems: BTreeMap<NamespacedName, Vec<Problem>>,
    told: Arc<Vec<Problem>>,
    /// Failures since a watch was last heard. Lists do not count: where each is answered and each watch refused, all would be asked
    /// for again and again without a pause.
    failures: u32,
    /// How often in a row the server had the kind in none of its versions.
    missing: u32,
    /// How often in a row a list lost its next page.
    torn: u32,
    listed: bool,
}

#[derive(Debug)]
enum State {
    List(Listing),
    Watch { from: String },
}

/// A list of which not all pages are there yet.
#[derive(Debug)]
struct Listing {
    paged: bool,
    token: Option<String>,
    seen: BTreeSet<NamespacedName>,
    changed: Vec<Object>,
    problems: BTreeMap<NamespacedName, Vec<Problem>>,
}

impl Listing {
    fn new(paged: bool) -> Self {
        Self { paged, token: None, seen: BTreeSet::new(), changed: Vec::new(), problems: BTreeMap::new() }
    }
}

impl Reflector {
    /// Nothing is known of the kind yet.
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            only: None,
            version: 0,
            state: State::List(Listing::new(true)),
            known: BTreeMap::new(),
            problems: BTreeMap::new(),
            told: Arc::default(),
            failures: 0,
            missing: 0,
            torn: 0,
            listed: false,
        }
    }

    /// The same for one Secret, which whoever names it may do without, where it may not be read.
    pub(super) fn of_secret(name: NamespacedName) -> Self {
        Self { only: Some(name), ..Self::new(Kind::TlsSecret) }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// The only object that is asked for.
    pub(super) fn only(&self) -> Option<&NamespacedName> {
        self.only.as_ref()
    }

    /// The field selector of what is asked for.
    pub(super) fn selector(&self) -> Option<String> {
        let of_kind = trim::only(self.kind);
        let Some(only) = &self.only else { return of_kind };
        let named = format!("metadata.name={}", only.name);
        Some(of_kind.map_or_else(|| named.clone(), |of_kind| format!("{named},{of_kind}")))
    }

    /// Whether all objects there are have been told of.
    pub(super) fn is_listed(&self) -> bool {
        self.listed
    }

    /// Whether the server has no such kind.
    pub(super) fn is_absent(&self) -> bool {
        self.listed && self.missing > 0
    }

    /// Whether a 404 has to be confirmed: where it would make objects vanish, or the first batch do without a kind.
    pub(super) fn doubts(&self) -> bool {
        !(self.kind.group().is_empty() || self.is_absent() && self.known.is_empty())
    }

    /// How many objects there are.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// What is wrong with objects at present.
    pub(super) fn problems(&self) -> Arc<Vec<Problem>> {
        Arc::clone(&self.told)
    }

    /// Which of the kind's versions is asked for.
    pub(super) fn version(&self) -> &'static str {
        self.kind.versions().get(self.version).copied().unwrap_or_default()
    }

    /// What to ask next.
    pub(super) fn request(&self) -> Request {
        let (group, version) = (self.kind.group(), self.version());
        let place = self.only.as_ref().map(|only| format!("namespaces/{}/", only.namespace)).unwrap_or_default();
        let path = match group {
            "" => format!("/api/{version}/{place}{}", self.kind.plural()),
            group => format!("/apis/{group}/{version}/{place}{}", self.kind.plural()),
        };
        match &self.state {
            State::List(listing) => Request::List { path, limit: listing.paged.then_some(PAGE), token: listing.token.clone() },
            State::Watch { from } => Request::Watch { path, from: from.clone() },
        }
    }

    /// Takes in a page of the list: its objects, the version of the list, and the token of the next page.
    pub(super) fn page(
        &mut self,
        objects: Vec<Value>,
        version: Option<String>,
        token: Option<String>,
    ) -> Result<Vec<Event>, Failure> {
        let State::List(listing) = &mut self.state else { return Ok(Vec::new()) };
        for object in objects {
            let Some(name) = name_of(&object).filter(|name| self.only.as_ref().is_none_or(|only| only == name)) else { continue };
            let held = self.known.get(&name);
            let made = read(self.kind, &name, object, held);
            if made.object.as_ref() != held {
                listing.changed.extend(made.object);
            }
            if !made.problems.is_empty() {
                listing.problems.insert(name.clone(), made.problems);
            }
            listing.seen.insert(name);
        }
        listing.token = token.filter(|token| !token.is_empty());
        if listing.token.is_some() {
            return Ok(Vec::new());
        }
        let Some(from) = version.filter(|version| !version.is_empty()) else {
            return Err(Failure::Broken("the list has no resourceVersion".into()));
        };
        let Listing { seen, changed, problems, .. } = std::mem::replace(listing, Listing::new(true));
        self.state = State::Watch { from };
        (self.missing, self.torn, self.listed) = (0, 0, true);
        self.problems = problems;
        self.tell();
        let gone: Vec<NamespacedName> = self.known.keys().filter(|name| !seen.contains(*name)).cloned().collect();
        let mut events: Vec<Event> = gone.into_iter().filter_map(|name| self.delete(&name)).collect();
        for object in changed {
            self.known.insert(NamespacedName::of(object.metadata()), object.clone());
            events.push(Event::Upsert(object));
        }
        Ok(events)
    }

    /// Takes in one event of the watch.
    pub(super) fn watched(&mut self, event: WatchEvent<Value>) -> Result<Option<Event>, Failure> {
        let (object, gone) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
            WatchEvent::Deleted(object) => (object, true),
            WatchEvent::Bookmark(bookmark) => {
                self.went_on(bookmark.metadata.resource_version);
                return Ok(None);
            }
            WatchEvent::Error(status) => return Err(Failure::of_status(&status)),
        };
        let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str).filter(|version| !version.is_empty());
        let (Some(version), Some(name)) = (version.map(str::to_owned), name_of(&object)) else {
            return Err(Failure::Broken("an event has no name or resourceVersion".into()));
        };
        self.went_on(version);
        if self.only.as_ref().is_some_and(|only| *only != name) {
            return Ok(None);
        }
        let had_problems = self.problems.remove(&name).is_some();
        if gone {
            if had_problems {
                self.tell();
            }
            return Ok(self.delete(&name));
        }
        let made = read(self.kind, &name, object, self.known.get(&name));
        if !made.problems.is_empty() {
            self.problems.insert(name.clone(), made.problems);
            self.tell();
        } else if had_problems {
            self.tell();
        }
        if made.object.as_ref() == self.known.get(&name) {
            return Ok(None);
        }
        Ok(match made.object {
            Some(object) => {
                self.known.insert(name, object.clone());
                Some(Event::Upsert(object))
            }
            None => self.delete(&name),
        })
    }

    /// The watch lives: what failed before counts no more.
    pub(super) fn lives(&mut self) {
        self.failures = 0;
    }

    /// The version to watch from is of no use: everything is listed, whatever version that has.
    pub(super) fn list_again(&mut self) {
        self.state = State::List(Listing::new(true));
    }

    fn went_on(&mut self, version: String) {
        self.failures = 0;
        if let State::Watch { from } = &mut self.state {
            *from = version;
        }
    }

    fn delete(&mut self, name: &NamespacedName) -> Option<Event> {
        self.known.remove(name).map(|_| Event::Delete(ObjectKey { kind: self.kind, name: name.clone() }))
    }

    fn tell(&mut self) {
        self.told = Arc::new(self.problems.values().flatten().cloned().collect());
    }
}
