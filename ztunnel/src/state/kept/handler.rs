//! Between the control plane and the state: what comes is kept, and what was kept comes first.

use std::{collections::BTreeMap, sync::Arc};

use ambit_xds::{Resource, client::Handler};

use super::{Kept, Kind};

/// A handler whose resources are kept, if they are to be. With the first batch it removes those of `doubtful` that do not come
/// with it: the control plane was not told of them ([`put_in_force`]), so it does not say that they are gone.
pub fn keeping(
    kept: Option<Arc<Kept>>,
    kind: Kind,
    mut doubtful: Vec<String>,
    mut inner: impl Handler + 'static,
) -> impl Handler + 'static {
    move |upserts: Vec<Resource>, mut removals: Vec<String>| {
        let Some(kept) = &kept else { return inner.apply(upserts, removals) };
        let came = |name: &String| upserts.iter().any(|resource| resource.name == *name) || removals.contains(name);
        let gone: Vec<String> = std::mem::take(&mut doubtful).into_iter().filter(|name| !came(name)).collect();
        removals.extend(gone);
        let (copy, gone) = (upserts.clone(), removals.clone());
        let rejected = inner.apply(upserts, removals);
        kept.note(kind, copy, gone, &rejected);
        rejected
    }
}

/// What is held of a type after a start, by what an earlier run has left.
#[derive(Debug, Default)]
pub struct InForce {
    /// The versions that are in force, by name, for the control plane.
    pub versions: Vec<(String, String)>,
    /// The names of which no version is in force, because they were not taken.
    pub doubtful: Vec<String>,
}

/// Puts resources of an earlier run in force.
pub fn put_in_force(resources: Vec<Resource>, mut handler: impl Handler) -> InForce {
    let names: Vec<String> = resources.iter().map(|resource| resource.name.clone()).collect();
    let mut versions: BTreeMap<String, String> = resources
        .iter()
        .filter(|resource| !resource.version.is_empty())
        .map(|resource| (resource.name.clone(), resource.version.clone()))
        .collect();
    for rejected in handler.apply(resources, Vec::new()) {
        versions.remove(&rejected.name);
    }
    let doubtful = names.into_iter().filter(|name| !versions.contains_key(name)).collect();
    InForce { versions: versions.into_iter().collect(), doubtful }
}
