//! What this proxy has itself seen of endpoints: how many connections each carries, which ones keep failing, what host names stand for.
//! Decisions are made by it (`ambit_model::plan::Observed`), and it is told how they turn out.

mod names;
mod standings;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use ambit_model::{
    plan::{Name, Observed},
    workload::Uid,
};

pub use names::{Lookup, Names, System};
pub use standings::{Attempt, Rested, Standings};

/// What is seen of endpoints by all pods of the node. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    open: Arc<Mutex<HashMap<Uid, u32>>>,
    /// What host names stand for.
    pub names: Names,
}

impl Endpoints {
    /// Nothing was seen yet; host names are looked up in `names`.
    #[must_use]
    pub fn new(names: Names) -> Self {
        Self { names, ..Self::default() }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Uid, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection to this endpoint until what is returned is dropped.
    #[must_use]
    pub fn hold(&self, endpoint: &Uid) -> Held {
        *self.counts().entry(endpoint.clone()).or_default() += 1;
        Held { open: Arc::clone(&self.open), endpoint: endpoint.clone() }
    }

    /// What decisions for a pod that has had this experience are made by, now.
    #[must_use]
    pub fn seen_by<'a>(&'a self, pod: &'a Standings) -> Seen<'a> {
        Seen { endpoints: self, pod, now: Instant::now() }
    }
}

/// A connection to an endpoint that is counted.
#[derive(Debug)]
pub struct Held {
    open: Arc<Mutex<HashMap<Uid, u32>>>,
    endpoint: Uid,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.endpoint) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.endpoint);
            }
        }
    }
}

/// What has been seen of endpoints at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    endpoints: &'a Endpoints,
    pod: &'a Standings,
    now: Instant,
}

impl Observed for Seen<'_> {
    fn open(&self, endpoint: &Uid) -> u32 {
        self.endpoints.counts().get(endpoint).copied().unwrap_or_default()
    }

    fn rested(&self, endpoint: &Uid, port: u16) -> Option<Instant> {
        self.pod.rested(endpoint, port, self.now)
    }

    fn resolved(&self, hostname: &str) -> Name {
        self.endpoints.names.get(hostname, self.now)
    }

    fn now(&self) -> Option<Instant> {
        Some(self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_while_they_live_and_nothing_is_kept_of_them() {
        let endpoints = Endpoints::default();
        let (api, standings) = (Uid::from("api"), Standings::default());
        let open = |endpoints: &Endpoints| endpoints.seen_by(&standings).open(&Uid::from("api"));
        let (one, two) = (endpoints.hold(&api), endpoints.clone().hold(&api));
        assert_eq!(open(&endpoints), 2);
        drop(one);
        assert_eq!(open(&endpoints), 1);
        drop(two);
        assert!(open(&endpoints) == 0 && endpoints.counts().is_empty());
    }
}
