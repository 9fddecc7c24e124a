//! The endpoints as requests find them. To sort them out takes a moment, but for tables of hashes, which take some milliseconds and more: no
//! request waits for those, and meanwhile what was there before holds.

use std::{
    mem::replace,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use ambit_model::balance::{Locality, Policy, Rules, Spread, Standing};
use arc_swap::{ArcSwap, Guard};
use tokio::runtime::Handle;

use super::{Place, Sorted};

/// The endpoints as they were sorted out last.
#[derive(Debug, Default)]
pub(super) struct Latest {
    sorted: ArcSwap<Sorted>,
    /// How often they were looked at.
    number: AtomicU64,
    making: Mutex<Making>,
}

/// What is made of them.
#[derive(Debug, Default)]
struct Making {
    /// The number of what is in force.
    number: u64,
    /// What comes next: only the last that was asked for, so that there are never more than two of them.
    next: Option<Work>,
    /// Somebody makes what comes next.
    busy: bool,
}

/// Endpoints that are to be sorted out.
#[derive(Debug)]
pub(super) struct Work {
    number: u64,
    localities: Vec<Locality<Place>>,
    rules: Rules,
    overprovisioning: u32,
}

impl Work {
    fn sorted(&self) -> Sorted {
        let members = self.localities.iter().flat_map(|locality| &locality.members);
        let taking = members.filter(|member| member.standing != Standing::Unhealthy).map(|member| member.item.clone()).collect();
        let spread = Spread::by_key(&self.localities, &self.rules, self.overprovisioning, key);
        Sorted { spread, taking, named: OnceLock::new() }
    }
}

/// Envoy's text for the address of an endpoint, so that a hash leads to the same one through either.
fn key(place: &Place) -> String {
    place.endpoint.target.name().map_or_else(|| place.host.to_string(), |name| name.to_string())
}

impl Latest {
    /// What is in force.
    pub(super) fn load(&self) -> Guard<Arc<Sorted>> {
        self.sorted.load()
    }

    /// What is to be made of endpoints as they stand now. To be called by one at a time, for what comes later counts.
    pub(super) fn next(&self, localities: Vec<Locality<Place>>, rules: Rules, overprovisioning: u32) -> Work {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        Work { number, localities, rules, overprovisioning }
    }

    /// Makes it, and puts it in force unless something later is.
    pub(super) fn make(&self, work: &Work) {
        let sorted = Arc::new(work.sorted());
        let mut making = self.making();
        if work.number > making.number {
            making.number = work.number;
            self.sorted.store(sorted);
        }
    }

    /// The same, beside the caller where it takes its time.
    pub(super) fn make_aside(self: &Arc<Self>, work: Work) {
        let runtime = Handle::try_current().ok().filter(|_| matches!(work.rules.policy, Policy::Hash(_)));
        let Some(runtime) = runtime else { return self.make(&work) };
        {
            let mut making = self.making();
            making.next = Some(work);
            if replace(&mut making.busy, true) {
                return;
            }
        }
        let latest = self.clone();
        // It ends by itself once nothing is left to be made, and nobody waits for it.
        runtime.spawn_blocking(move || {
            while let Some(work) = latest.take() {
                latest.make(&work);
            }
        });
    }

    /// What comes next; whoever finds nothing is not busy any more.
    fn take(&self) -> Option<Work> {
        let mut making = self.making();
        let next = making.next.take();
        making.busy = next.is_some();
        next
    }

    fn making(&self) -> MutexGuard<'_, Making> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
