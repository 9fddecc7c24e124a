//! The threads that carry the connections of the node. What turns out to be bulk beside small requests goes to a thread of its own, with the
//! tunnel that it fills.

use std::{io, num::NonZero, sync::Arc};

use ambit_hbone::aside;
use ambit_runtime::workers::{self, Begin, Settings, Worker};

use crate::{
    bulk::{self, Bulk},
    proxy::Proxy,
};

/// All workers. What the connections of each share is all but the tunnels shared with the others.
#[derive(Debug)]
pub struct Workers {
    workers: workers::Workers<Proxy>,
    /// None where there is to be one thread.
    bulk: Option<Arc<Bulk>>,
}

impl Workers {
    /// Starts the first of `count` workers; one for each core when that is not given.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(proxy: Proxy, count: Option<NonZero<usize>>) -> io::Result<Self> {
        let count = workers::count(count);
        let bulk = (count > 1).then(Arc::<Bulk>::default);
        let settings = Settings { awake: proxy.limits.awake, begin: bulk.clone().map(hands_to), ..Settings::default() };
        let others = (1..count).map(|_| Arc::new(proxy.with_own_tunnels())).collect();
        Ok(Self { workers: workers::Workers::start(Arc::new(proxy), others, settings)?, bulk })
    }

    /// The worker that accepts.
    #[must_use]
    pub fn first(&self) -> &Worker<Proxy> {
        self.workers.first()
    }

    /// What the connections of each worker share, also of those that are not started.
    pub fn proxies(&self) -> impl Iterator<Item = &Arc<Proxy>> {
        self.workers.shared()
    }

    /// The worker that takes the next connection.
    #[must_use]
    pub fn choose(&self) -> &Worker<Proxy> {
        self.workers.choose()
    }

    /// Ends all workers with what they still do. Not to be called by a task of theirs.
    pub fn stop(&self) {
        self.workers.stop();
        if let Some(bulk) = &self.bulk {
            bulk.stop();
        }
    }
}

/// Has a worker hand bulk to the thread for that.
fn hands_to(bulk: Arc<Bulk>) -> Begin {
    Arc::new(move || {
        // It begins as the thread that started it, whose bulk may be aside.
        bulk::run_soon(false);
        let bulk = Arc::clone(&bulk);
        aside::hand_bulk_to(move || bulk.runtime(), bulk::run_soon);
    })
}
