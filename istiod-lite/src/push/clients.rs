//! What gRPC clients that speak xDS themselves are served: one view for all of them, which is there only while somebody looks at it. It has
//! some resources for each port of each Service, which a mesh without such clients should not have to hold and to make.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ambit_xds::server::{Cache, Change};

use super::translated;
use crate::{index::Index, mesh::Mesh, source::NamespacedName};

/// The view.
pub const CLIENT_VIEW: &str = "grpc";

/// The view stays for so long after somebody came, even if nobody looks at it: who comes is let in before the stream looks.
const LINGER: Duration = Duration::from_mins(1);

/// A resource by its type and name.
type Name = (&'static str, String);

/// Keeps the view. Its clones keep the same one.
#[derive(Debug, Clone)]
pub struct Clients {
    cache: Cache,
    view: Arc<Mutex<Option<View>>>,
}

/// The view while it is there.
#[derive(Debug)]
struct View {
    /// The resources of each Service in it.
    names: BTreeMap<NamespacedName, BTreeSet<Name>>,
    /// When somebody came last.
    entered: Instant,
}

impl Clients {
    /// Writes into `cache`, as soon as there is somebody to look at it.
    #[must_use]
    pub fn new(cache: Cache) -> Self {
        Self { cache, view: Arc::default() }
    }

    /// Somebody comes: the view is there from now on, and whole when this returns.
    pub fn enter(&self, mesh: &Mesh) {
        // The index is held until all is written, so that no push of something newer comes before.
        let index = mesh.index();
        let mut held = self.lock();
        let now = Instant::now();
        if let Some(view) = held.as_mut() {
            view.entered = now;
            return;
        }
        let view = held.insert(View { names: BTreeMap::new(), entered: now });
        let services: BTreeSet<_> = index.objects().services.keys().cloned().collect();
        self.write(&index, view, services, translated::fixed_for_clients());
    }

    /// Translates these Services anew, if the view is there. Returns how many resources really changed. The caller holds the index.
    pub(super) fn update(&self, index: &Index, services: BTreeSet<NamespacedName>) -> usize {
        let mut held = self.lock();
        let Some(view) = held.as_mut() else { return 0 };
        if view.entered.elapsed() > LINGER && !self.cache.is_watched(CLIENT_VIEW) {
            self.cache.clear(CLIENT_VIEW);
            *held = None;
            return 0;
        }
        if services.is_empty() { 0 } else { self.write(index, view, services, Vec::new()) }
    }

    fn write(
        &self,
        index: &Index,
        view: &mut View,
        services: BTreeSet<NamespacedName>,
        mut changes: Vec<(&'static str, Change)>,
    ) -> usize {
        for service in services {
            let made = translated::for_clients(index, &service);
            let names: BTreeSet<Name> = made.iter().map(|(type_url, change)| (*type_url, change.name.clone())).collect();
            let before = view.names.remove(&service).unwrap_or_default();
            changes.extend(before.difference(&names).map(|(type_url, name)| (*type_url, Change::remove(name.as_str()))));
            changes.extend(made);
            if !names.is_empty() {
                view.names.insert(service, names);
            }
        }
        self.cache.write(CLIENT_VIEW, |writer| {
            for (type_url, change) in changes {
                writer.update(type_url, [change]);
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<View>> {
        // What is written is written whole, so that a caller's panic leaves nothing half done.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
