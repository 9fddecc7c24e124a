//! What is seen of a view from a place: some of its resources are others there than everywhere else.

use std::sync::Arc;

use super::{Entry, View, latest::Changed};

/// What stands between the name of a view and that of a place.
const AT: char = '@';

/// The name of a view as it is seen from a place.
#[must_use]
pub fn seen_from(view: &str, place: &str) -> String {
    format!("{view}{AT}{place}")
}

/// The name of a view, without the place that it is seen from.
#[must_use]
pub fn seen_by_all(view: &str) -> &str {
    apart(view).0
}

/// A view, and the place that it is seen from, if its name has one.
pub(super) fn apart(view: &str) -> (&str, Option<&str>) {
    view.split_once(AT).map_or((view, None), |(view, place)| (view, Some(place)))
}

/// A view as it is seen from a place, or from nowhere in particular.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    view: &'a View,
    place: Option<&'a str>,
}

impl<'a> Seen<'a> {
    pub(super) fn new(view: &'a View, place: Option<&'a str>) -> Self {
        // Most views are the same everywhere.
        Self { view, place: place.filter(|_| view.differs()) }
    }

    /// As [`View::generation`].
    pub(super) fn generation(self) -> u64 {
        self.view.generation()
    }

    /// Every resource, by name.
    pub(super) fn entries(self) -> impl ExactSizeIterator<Item = &'a Arc<Entry>> {
        self.view.entries().map(move |entry| Entry::at(entry, self.place))
    }

    /// The resource of a name.
    pub(super) fn get(self, name: &str) -> Option<&'a Arc<Entry>> {
        self.view.get(name).map(|entry| Entry::at(entry, self.place))
    }

    /// The resources that a name or an alias stands for.
    pub(super) fn find(self, asked: &str) -> Vec<&'a Arc<Entry>> {
        self.view.find(asked).into_iter().map(|entry| Entry::at(entry, self.place)).collect()
    }

    /// As [`View::changed_since`]: what changed in any place.
    pub(super) fn changed_since(self, seen: u64) -> Option<Vec<Arc<str>>> {
        self.view.changed_since(seen)
    }

    /// All resources as they are sent.
    pub(super) fn whole(self) -> Arc<Vec<u8>> {
        if self.place.is_none() {
            return self.view.whole();
        }
        let mut bytes = Vec::new();
        self.entries().for_each(|entry| entry.encoded.put_field(&mut bytes));
        Arc::new(bytes)
    }

    /// As [`View::latest`].
    pub(super) fn latest(self, seen: u64) -> Option<Changed> {
        if self.place.is_none() { self.view.latest(seen) } else { self.collect(seen) }
    }

    /// What is sent of the changes after `seen`.
    pub(super) fn collect(self, seen: u64) -> Option<Changed> {
        let mut names = self.changed_since(seen)?;
        names.sort_unstable();
        let (mut resources, mut removed) = (Vec::new(), Vec::new());
        for name in names {
            match self.get(&name) {
                Some(entry) => entry.encoded.put_field(&mut resources),
                None => removed.push(name.to_string()),
            }
        }
        Some(Changed { resources: Arc::new(resources), removed })
    }
}
