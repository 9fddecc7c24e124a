//! What gRPC clients that speak xDS themselves are served: one view for all of them, which is there only while somebody looks at it. It has
//! some resources for each port of each Service, which a mesh without such clients should not have to hold and to make.
//!
//! It is made beside the pushes to everybody else, which wait for none of it: what changes is noted by name, once however often it changes,
//! and a task makes what was noted in steps (`making`), between which the index and the cache are free.

mod making;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ambit_xds::server::Cache;
use tokio::{
    sync::{Notify, watch},
    task::spawn_blocking,
    time::timeout,
};

use making::{Making, Part};

use crate::{mesh::Mesh, source::NamespacedName};

/// The view.
pub const CLIENT_VIEW: &str = "grpc";

/// The view stays for so long after somebody came, even if nobody looks at it: who comes is let in before the stream looks.
const LINGER: Duration = Duration::from_mins(1);

/// Keeps the view. Its clones keep the same one.
#[derive(Debug, Clone)]
pub struct Clients {
    cache: Cache,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    view: Mutex<Option<View>>,
    /// There may be something to make.
    wake: Notify,
}

/// The view while it is there.
#[derive(Debug)]
struct View {
    /// What is to be made, or to be made anew.
    stale: BTreeSet<Part>,
    /// When somebody came last.
    entered: Instant,
    /// Whether all that there was at first has been made.
    whole: watch::Sender<bool>,
}

/// What is to be done next.
enum Work {
    Make(BTreeSet<Part>),
    Forget,
}

impl Clients {
    /// Writes into `cache`, as soon as there is somebody to look at it.
    #[must_use]
    pub fn new(cache: Cache) -> Self {
        Self { cache, shared: Arc::default() }
    }

    /// Somebody comes: the view is there from now on, and whole when this completes. Somebody has to `keep` it meanwhile.
    pub async fn enter(&self, mesh: &Mesh) {
        let mut whole = self.begin(mesh);
        // It does not go while somebody waits for it.
        _ = whole.wait_for(|whole| *whole).await;
        if let Some(view) = self.lock().as_mut() {
            view.entered = Instant::now();
        }
    }

    fn begin(&self, mesh: &Mesh) -> watch::Receiver<bool> {
        // The index is held, so that what changes is either seen here or noted after.
        let index = mesh.index();
        let mut held = self.lock();
        let view = held.get_or_insert_with(|| {
            let services = index.objects().services.keys().cloned().map(Part::Service);
            let stale = services.chain([Part::Fixed]).collect();
            View { stale, entered: Instant::now(), whole: watch::Sender::new(false) }
        });
        view.entered = Instant::now();
        self.shared.wake.notify_one();
        view.whole.subscribe()
    }

    /// These Services are to be made anew, if the view is there. The index knows of what has changed.
    pub(super) fn note(&self, services: BTreeSet<NamespacedName>) {
        let mut held = self.lock();
        let Some(view) = held.as_mut() else { return };
        if !services.is_empty() || view.entered.elapsed() > LINGER {
            self.shared.wake.notify_one();
        }
        view.stale.extend(services.into_iter().map(Part::Service));
    }

    /// Makes what is to be made, for ever. Of all that keep the same view one does so.
    pub(super) async fn keep(&self, mesh: &Arc<Mesh>) {
        let mut making = Making::default();
        loop {
            making = self.catch_up(making, mesh).await;
            // Nothing wakes it when nobody looks at the view any more.
            _ = timeout(LINGER, self.shared.wake.notified()).await;
        }
    }

    /// Makes all that was noted, and what is noted meanwhile.
    pub(super) async fn catch_up(&self, mut making: Making, mesh: &Arc<Mesh>) -> Making {
        while let Some(work) = self.next() {
            let stays = matches!(work, Work::Make(_));
            match work {
                Work::Make(parts) => making.begin(parts),
                Work::Forget => making.forget(),
            }
            while !making.is_done() {
                making = step(making, mesh, &self.cache).await;
            }
            metrics::counter!("pilot_xds_pushes").increment(making.pushed());
            if stays && let Some(view) = self.lock().as_ref() {
                view.whole.send_if_modified(|whole| !mem::replace(whole, true));
            }
        }
        making
    }

    fn next(&self) -> Option<Work> {
        let mut held = self.lock();
        let view = held.as_mut()?;
        let awaited = view.entered.elapsed() <= LINGER || view.whole.receiver_count() > 0;
        if !awaited && !self.cache.is_watched(CLIENT_VIEW) {
            *held = None;
            return Some(Work::Forget);
        }
        (!view.stale.is_empty()).then(|| Work::Make(mem::take(&mut view.stale)))
    }

    fn lock(&self) -> MutexGuard<'_, Option<View>> {
        // Each change is made whole, so that a caller's panic leaves nothing half done.
        self.shared.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One step, on a thread that nobody else waits for.
async fn step(mut making: Making, mesh: &Arc<Mesh>, cache: &Cache) -> Making {
    let (mesh, cache) = (Arc::clone(mesh), cache.clone());
    let stepped = spawn_blocking(move || {
        making.step(&mesh, &cache);
        making
    });
    match stepped.await.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(making) => making,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime ends, and this task with it.
        Err(Err(_)) => std::future::pending().await,
    }
}
