//! What there is to serve: views of named resources, each with the version of its content and a log of what changed when.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::{self, Write as _},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::{encoded::EncodedResource, whole::Whole};
use crate::Any;

/// Removals remembered per type. A session that fell further behind compares everything it holds, or begins anew.
const REMOVALS: usize = 1 << 14;

/// A resource to be put into a view, or (without a body) taken out.
#[derive(Clone)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// Other names that find it on demand, such as `network/IP` of a workload.
    pub aliases: Vec<String>,
    /// The encoded resource; `None` removes it.
    pub body: Option<Any>,
}

impl fmt::Debug for Change {
    /// Without the body, which may have a private key in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, aliases, body } = self;
        let body = body.as_ref().map(|body| &body.type_url);
        f.debug_struct("Change").field("name", name).field("aliases", aliases).field("body", &body).finish()
    }
}

impl Change {
    /// A new or changed resource.
    #[must_use]
    pub fn upsert(name: impl Into<String>, aliases: Vec<String>, body: Any) -> Self {
        Self { name: name.into(), aliases, body: Some(body) }
    }

    /// A resource that is gone.
    #[must_use]
    pub fn remove(name: impl Into<String>) -> Self {
        Self { name: name.into(), aliases: Vec::new(), body: None }
    }
}

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
}

impl Entry {
    /// The resource.
    #[must_use]
    pub fn body(&self) -> Any {
        self.encoded.body()
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

    fn apply(&mut self, change: Change) -> bool {
        let Change { name, mut aliases, body } = change;
        let Some(body) = body else { return self.remove(&name) };
        aliases.sort_unstable();
        aliases.dedup();
        let version = version(&body, &aliases);
        let old = self.entries.get(name.as_str());
        if old.is_some_and(|old| *old.version == *version) {
            return false;
        }
        let old = old.cloned();
        let name: Arc<str> = old.as_ref().map_or_else(|| name.into(), |old| Arc::clone(&old.name));
        if let Some(old) = old {
            self.changes.remove(&old.changed);
            self.forget_aliases(&old);
        }
        if let Some(generation) = self.removed.remove(&name) {
            self.removals.remove(&generation);
        }
        let encoded = EncodedResource::new(&name, &version, &aliases, &body);
        let aliases: Box<[Arc<str>]> = aliases.into_iter().map(Arc::from).collect();
        for alias in &aliases {
            self.aliases.insert((Arc::clone(alias), Arc::clone(&name)));
        }
        self.generation += 1;
        self.changes.insert(self.generation, Arc::clone(&name));
        let entry = Entry { name: Arc::clone(&name), aliases, version: version.into(), encoded, changed: self.generation };
        self.entries.insert(name, Arc::new(entry));
        true
    }

    fn remove(&mut self, name: &str) -> bool {
        let Some(old) = self.entries.remove(name) else { return false };
        self.changes.remove(&old.changed);
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

#[derive(Debug, Default)]
struct Types {
    types: HashMap<String, View>,
    wake: watch::Sender<u64>,
}

/// Changes a view inside [`Cache::write`].
#[derive(Debug)]
pub struct Writer<'a> {
    types: &'a mut HashMap<String, View>,
    changed: usize,
}

impl Writer<'_> {
    /// Applies changes to one type.
    pub fn update(&mut self, type_url: &str, changes: impl IntoIterator<Item = Change>) {
        let content = self.types.entry(type_url.to_owned()).or_default();
        self.changed += changes.into_iter().filter_map(|change| content.apply(change).then_some(())).count();
    }

    /// Makes `all` the whole content of one type: what is not in it is removed.
    pub fn replace(&mut self, type_url: &str, all: Vec<Change>) {
        let content = self.types.entry(type_url.to_owned()).or_default();
        let names: BTreeSet<&str> = all.iter().map(|change| change.name.as_str()).collect();
        let stale: Vec<Change> =
            content.entries().filter(|entry| !names.contains(&*entry.name)).map(|entry| Change::remove(&*entry.name)).collect();
        self.update(type_url, all.into_iter().chain(stale));
    }
}

/// All views. A view is what one kind of client sees: every node proxy the same one, each waypoint its own.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    views: Arc<Mutex<HashMap<String, Types>>>,
}

impl Cache {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes several types of a view in one step: a session sees all of it or nothing, and is woken once. The cache is locked
    /// while `change` runs. Returns how many resources really changed.
    pub fn write(&self, view: &str, change: impl FnOnce(&mut Writer<'_>)) -> usize {
        let mut views = self.lock();
        let types = views.entry(view.to_owned()).or_default();
        let mut writer = Writer { types: &mut types.types, changed: 0 };
        change(&mut writer);
        let changed = writer.changed;
        if changed > 0 {
            types.wake.send_modify(|count| *count += 1);
        }
        // A view of which nothing is left and that nobody sees is forgotten.
        if types.wake.receiver_count() == 0 && types.types.values().all(|content| content.entries.is_empty()) {
            views.remove(view);
        }
        changed
    }

    /// Changes one type of a view. Returns how many resources really changed.
    pub fn update(&self, view: &str, type_url: &str, changes: impl IntoIterator<Item = Change>) -> usize {
        self.write(view, |writer| writer.update(type_url, changes))
    }

    /// Makes `all` the whole content of one type of a view. Returns how many resources really changed.
    pub fn replace(&self, view: &str, type_url: &str, all: Vec<Change>) -> usize {
        self.write(view, |writer| writer.replace(type_url, all))
    }

    /// Removes every resource of a view; its sessions are told.
    pub fn clear(&self, view: &str) {
        self.write(view, |writer| {
            let types: Vec<String> = writer.types.keys().cloned().collect();
            types.iter().for_each(|type_url| writer.replace(type_url, Vec::new()));
        });
    }

    /// The types of a view that ever had a resource.
    #[must_use]
    pub fn types(&self, view: &str) -> Vec<String> {
        self.lock().get(view).map(|types| types.types.keys().cloned().collect()).unwrap_or_default()
    }

    /// The names of the views.
    #[must_use]
    pub fn views(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Looks at one type of a view; it is empty when there is none. The cache is locked meanwhile.
    pub fn read<T>(&self, view: &str, type_url: &str, look: impl FnOnce(&View) -> T) -> T {
        match self.lock().get(view).and_then(|types| types.types.get(type_url)) {
            Some(resources) => look(resources),
            None => look(&View::default()),
        }
    }

    /// Whether anybody waits for changes of the view, as its sessions do.
    #[must_use]
    pub fn is_watched(&self, view: &str) -> bool {
        self.lock().get(view).is_some_and(|types| types.wake.receiver_count() > 0)
    }

    /// Wakes when the view changes. Any number of changes between two looks is one wake-up.
    #[must_use]
    pub fn watch(&self, view: &str) -> watch::Receiver<u64> {
        self.lock().entry(view.to_owned()).or_default().wake.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Types>> {
        // Each change leaves a view consistent before the next begins, so a caller's panic cannot break one.
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
