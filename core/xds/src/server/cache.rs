//! What there is to serve: views of named resources of several types, which are changed together.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, LazyLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak},
};

use foldhash::fast::RandomState;
use tokio::sync::watch;

use super::{
    View,
    bell::Bell,
    calls::Calls,
    seen::{Seen, apart},
};
use crate::Any;

/// By names that no peer chooses. A change has each session look here several times.
type ByName<T> = HashMap<String, T, RandomState>;

/// A resource to be put into a view, or (without a body) taken out.
#[derive(Clone)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// Other names that find it on demand, such as `network/IP` of a workload.
    pub aliases: Vec<String>,
    /// The encoded resource; `None` removes it.
    pub body: Option<Any>,
    /// What it is in its stead as it is seen from some places, each given once.
    pub places: Vec<(Arc<str>, Any)>,
}

impl fmt::Debug for Change {
    /// Without the body, which may have a private key in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, aliases, body, places } = self;
        let body = body.as_ref().map(|body| &body.type_url);
        let places: Vec<&str> = places.iter().map(|(place, _)| &**place).collect();
        let mut shown = f.debug_struct("Change");
        shown.field("name", name).field("aliases", aliases).field("body", &body).field("places", &places).finish()
    }
}

impl Change {
    /// A new or changed resource.
    #[must_use]
    pub fn upsert(name: impl Into<String>, aliases: Vec<String>, body: Any) -> Self {
        Self { name: name.into(), aliases, body: Some(body), places: Vec::new() }
    }

    /// A resource that is gone.
    #[must_use]
    pub fn remove(name: impl Into<String>) -> Self {
        Self { name: name.into(), aliases: Vec::new(), body: None, places: Vec::new() }
    }
}

#[derive(Debug, Default)]
struct Types {
    types: ByName<View>,
    wake: Arc<Bell>,
    /// The places that somebody looks from, in whose names peers may have a say.
    places: HashMap<String, Weak<()>>,
}

/// Changes a view inside [`Cache::write`].
#[derive(Debug)]
pub struct Writer<'a> {
    types: &'a mut ByName<View>,
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

/// The types of one view.
#[derive(Clone, Copy)]
pub(super) struct Sight<'a> {
    types: Option<&'a ByName<View>>,
    /// Where it is looked from.
    place: Option<&'a str>,
}

impl<'a> Sight<'a> {
    /// What there is of the type.
    pub(super) fn of(self, type_url: &str) -> Seen<'a> {
        Seen::new(self.everywhere(type_url), self.place)
    }

    /// The same, wherever it is looked from.
    fn everywhere(self, type_url: &str) -> &'a View {
        static NOTHING: LazyLock<View> = LazyLock::new(View::default);
        self.types.and_then(|types| types.get(type_url)).unwrap_or_else(|| LazyLock::force(&NOTHING))
    }
}

/// All views. A view is what one kind of client sees: every node proxy the same one, each waypoint its own.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    /// A change wakes all sessions at once, which then look at it on all threads.
    views: Arc<RwLock<ByName<Types>>>,
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
        let mut views = self.views_mut();
        let types = views.entry(view.to_owned()).or_default();
        let mut writer = Writer { types: &mut types.types, changed: 0 };
        change(&mut writer);
        let changed = writer.changed;
        let wake = (changed > 0).then(|| Arc::clone(&types.wake));
        // A view of which nothing is left and that nobody sees is forgotten.
        if types.wake.receiver_count() == 0 && types.types.values().all(|content| content.entries().len() == 0) {
            views.remove(view);
        }
        drop(views);
        // Not before: the first that are woken would wait for the rest to be.
        if let Some(wake) = wake {
            wake.ring();
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
        self.all().get(view).map(|types| types.types.keys().cloned().collect()).unwrap_or_default()
    }

    /// The names of the views.
    #[must_use]
    pub fn views(&self) -> Vec<String> {
        self.all().keys().cloned().collect()
    }

    /// Looks at one type of a view; it is empty when there is none. The cache is not changed meanwhile.
    pub fn read<T>(&self, view: &str, type_url: &str, look: impl FnOnce(&View) -> T) -> T {
        self.look(view, |types| look(types.everywhere(type_url)))
    }

    /// Looks at all types of a view at the same moment. The cache can be looked at by others meanwhile, but not changed.
    pub(super) fn look<T>(&self, view: &str, look: impl FnOnce(Sight<'_>) -> T) -> T {
        let (view, place) = apart(view);
        let all = self.all();
        look(Sight { types: all.get(view).map(|types| &types.types), place })
    }

    /// Whether anybody waits for changes of the view, as its sessions do.
    #[must_use]
    pub fn is_watched(&self, view: &str) -> bool {
        self.all().get(apart(view).0).is_some_and(|types| types.wake.receiver_count() > 0)
    }

    /// Wakes when the view changes, in any place. Any number of changes between two looks is one wake-up.
    #[must_use]
    pub fn watch(&self, view: &str) -> watch::Receiver<u64> {
        self.views_mut().entry(apart(view).0.to_owned()).or_default().wake.subscribe()
    }

    /// Has all who look at a view look again, though nothing in it has changed: who may look has.
    pub fn wake(&self, view: &str) {
        let wake = self.all().get(apart(view).0).map(|types| types.wake.clone());
        if let Some(wake) = wake {
            wake.ring();
        }
    }

    /// Has it known, as long as this is held, that somebody looks at the view from the place that its name has; `None` where it has none.
    pub(super) fn stay(&self, view: &str) -> Option<Arc<()>> {
        let (view, Some(place)) = apart(view) else { return None };
        let mut views = self.views_mut();
        let places = &mut views.entry(view.to_owned()).or_default().places;
        places.retain(|_, there| there.strong_count() > 0);
        let there = places.get(place).and_then(Weak::upgrade).unwrap_or_default();
        places.insert(place.to_owned(), Arc::downgrade(&there));
        Some(there)
    }

    /// Whether anybody looks at the view from this place.
    #[must_use]
    pub fn is_seen_from(&self, view: &str, place: &str) -> bool {
        self.all().get(view).and_then(|types| types.places.get(place)).is_some_and(|there| there.strong_count() > 0)
    }

    /// Calls the part when the view changes. The view is kept, as one that is watched, for as long as what is returned is.
    pub(super) fn listen(&self, view: &str, calls: &Arc<Calls>, part: u8) -> watch::Receiver<u64> {
        let (wake, watched) = {
            let mut views = self.views_mut();
            let wake = &views.entry(apart(view).0.to_owned()).or_default().wake;
            (Arc::clone(wake), wake.subscribe())
        };
        // While it is rung, the cache can be looked at.
        wake.listen(calls, part);
        watched
    }

    fn all(&self) -> RwLockReadGuard<'_, ByName<Types>> {
        self.views.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn views_mut(&self) -> RwLockWriteGuard<'_, ByName<Types>> {
        // Each change leaves a view consistent before the next begins, so a caller's panic cannot break one.
        self.views.write().unwrap_or_else(PoisonError::into_inner)
    }
}
