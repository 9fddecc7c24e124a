//! The resources of one type in a view, each with the version of its content, and a log of what changed when.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    ops::Bound,
    sync::Arc,
};

use sha2::{Digest, Sha256};

use super::{
    Change,
    encoded::EncodedResource,
    latest::{Changed, Latest},
    seen::Seen,
    whole::Whole,
};
use crate::Any;

/// Removals remembered per type. A session that fell further behind compares everything it holds, or begins anew.
const REMOVALS: usize = 1 << 14;

/// A resource in a view.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: Arc<str>,
    /// Other names that find it.
    pub aliases: Box<[Arc<str>]>,
    /// A hash of its content: equal in every instance of the control plane that computes the same resource.
    pub version: Arc<str>,
    /// As delta sessions are sent it.
    pub(super) encoded: EncodedResource,
    /// The generation of its latest change, which no other entry of the view has.
    changed: u64,
    /// What is seen in its stead from some places. What several of them see alike is one entry.
    places: BTreeMap<Arc<str>, Arc<Entry>>,
}

impl Entry {
    /// The resource.
    #[must_use]
    pub fn body(&self) -> Any {
        self.encoded.body()
    }

    /// The resource as it is seen from a place.
    #[must_use]
    pub fn at<'a>(entry: &'a Arc<Self>, place: Option<&str>) -> &'a Arc<Self> {
        place.and_then(|place| entry.places.get(place)).unwrap_or(entry)
    }
}

/// The resources of one type in one view.
#[derive(Debug, Default)]
pub struct View {
    entries: BTreeMap<Arc<str>, Arc<Entry>>,
    /// Aliases, each with a name that it stands for.
    aliases: BTreeSet<(Arc<str>, Arc<str>)>,
    /// Each resource by the generation of its latest change.
    changes: BTreeMap<u64, Arc<str>>,
    /// The latest removals by their generation, and back.
    removals: BTreeMap<u64, Arc<str>>,
    removed: HashMap<Arc<str>, u64>,
    generation: u64,
    /// Removals up to this generation may be forgotten.
    forgotten: u64,
    /// All of it as it is sent, while anybody is being sent all of it.
    whole: Whole,
    /// What changed last, as it is sent.
    latest: Latest,
    /// How many resources are others in some places.
    differing: usize,
}

impl View {
    /// Counts the changes; a session that saw this generation has nothing to be sent.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Every resource, by name.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// The resource of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Entry>> {
        self.entries.get(name)
    }

    /// The resources that a name or an alias stands for; none when it is unknown.
    #[must_use]
    pub fn find(&self, asked: &str) -> Vec<&Arc<Entry>> {
        if let Some(entry) = self.entries.get(asked) {
            return vec![entry];
        }
        let alias: Arc<str> = asked.into();
        let first = (Arc::clone(&alias), Arc::from(""));
        let found = self.aliases.range((Bound::Included(first), Bound::Unbounded)).take_while(|(other, _)| *other == alias);
        found.filter_map(|(_, name)| self.entries.get(name)).collect()
    }

    /// All resources as they are sent, the same bytes for all who are sent them at the same time.
    pub(super) fn whole(&self) -> Arc<Vec<u8>> {
        self.whole.at(self.generation, || self.entries.values().map(|entry| &entry.encoded))
    }

    /// The names that changed or went after `seen`; `None` when the memory of removals does not reach back that far.
    #[must_use]
    pub fn changed_since(&self, seen: u64) -> Option<Vec<Arc<str>>> {
        if seen < self.forgotten {
            return None;
        }
        let after = seen.saturating_add(1);
        Some(self.changes.range(after..).chain(self.removals.range(after..)).map(|(_, name)| Arc::clone(name)).collect())
    }

    /// What is sent of the changes after `seen` to who had everything then, by name; `None` as [`Self::changed_since`] says.
    pub(super) fn latest(&self, seen: u64) -> Option<Changed> {
        self.latest.between(seen, self.generation, || Seen::new(self, None).collect(seen))
    }

    /// Whether any resource is another in some place.
    pub(super) fn differs(&self) -> bool {
        self.differing > 0
    }

    /// Applies a change; false when it changes nothing.
    pub(super) fn apply(&mut self, change: Change) -> bool {
        let Change { name, mut aliases, body, places } = change;
        let Some(body) = body else { return self.remove(&name) };
        aliases.sort_unstable();
        aliases.dedup();
        let version = version(&body, &aliases);
        let places = placed(places, &aliases, &version);
        let old = self.entries.get(name.as_str());
        if old.is_some_and(|old| *old.version == *version && is_placed(old, &places)) {
            return false;
        }
        let old = old.cloned();
        let name: Arc<str> = old.as_ref().map_or_else(|| name.into(), |old| Arc::clone(&old.name));
        if let Some(old) = old {
            self.changes.remove(&old.changed);
            self.differing -= usize::from(!old.places.is_empty());
            self.forget_aliases(&old);
        }
        if let Some(generation) = self.removed.remove(&name) {
            self.removals.remove(&generation);
        }
        self.generation += 1;
        let mut entry = entry(&name, &version, &aliases, &body, self.generation);
        let mut made: HashMap<String, Arc<Entry>> = HashMap::new();
        for (place, (version, body)) in places {
            let seen = match made.get(&version) {
                Some(seen) => Arc::clone(seen),
                None => {
                    let seen = Arc::new(self::entry(&name, &version, &aliases, &body, self.generation));
                    made.insert(version, Arc::clone(&seen));
                    seen
                }
            };
            entry.places.insert(place, seen);
        }
        for alias in &entry.aliases {
            self.aliases.insert((Arc::clone(alias), Arc::clone(&name)));
        }
        self.changes.insert(self.generation, Arc::clone(&name));
        self.differing += usize::from(!entry.places.is_empty());
        self.entries.insert(name, Arc::new(entry));
        true
    }

    fn remove(&mut self, name: &str) -> bool {
        let Some(old) = self.entries.remove(name) else { return false };
        self.changes.remove(&old.changed);
        self.differing -= usize::from(!old.places.is_empty());
        self.forget_aliases(&old);
        self.generation += 1;
        self.removals.insert(self.generation, Arc::clone(&old.name));
        self.removed.insert(Arc::clone(&old.name), self.generation);
        if self.removals.len() > REMOVALS
            && let Some((generation, name)) = self.removals.pop_first()
        {
            self.removed.remove(&name);
            self.forgotten = generation;
        }
        true
    }

    fn forget_aliases(&mut self, entry: &Entry) {
        for alias in &entry.aliases {
            self.aliases.remove(&(Arc::clone(alias), Arc::clone(&entry.name)));
        }
    }
}

/// A resource that is the same everywhere.
fn entry(name: &Arc<str>, version: &str, aliases: &[String], body: &Any, changed: u64) -> Entry {
    Entry {
        name: Arc::clone(name),
        aliases: aliases.iter().map(|alias| Arc::from(alias.as_str())).collect(),
        version: version.into(),
        encoded: EncodedResource::new(name, version, aliases, body),
        changed,
        places: BTreeMap::new(),
    }
}

/// The places from which something else is seen than everywhere, with its version.
fn placed(places: Vec<(Arc<str>, Any)>, aliases: &[String], everywhere: &str) -> BTreeMap<Arc<str>, (String, Any)> {
    let versions = places.into_iter().map(|(place, body)| (place, (version(&body, aliases), body)));
    versions.filter(|(_, (version, _))| *version != everywhere).collect()
}

/// Whether an entry is seen from places as these say.
fn is_placed(entry: &Entry, places: &BTreeMap<Arc<str>, (String, Any)>) -> bool {
    let said = places.iter().map(|(place, (version, _))| (place, version.as_str()));
    let known = entry.places.iter().map(|(place, seen)| (place, &*seen.version));
    known.eq(said)
}

/// Aliases are part of what a client is sent, so they are part of the version.
fn version(body: &Any, aliases: &[String]) -> String {
    let mut hash = Sha256::new();
    hash.update((body.type_url.len() as u64).to_be_bytes());
    hash.update(&body.type_url);
    hash.update((body.value.len() as u64).to_be_bytes());
    hash.update(&body.value);
    for alias in aliases {
        hash.update((alias.len() as u64).to_be_bytes());
        hash.update(alias);
    }
    hash.finalize().iter().take(12).fold(String::with_capacity(24), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
