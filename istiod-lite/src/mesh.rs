//! What the parts of the control plane share: the index, and the problems in its input.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::{
    index::{Index, MeshConfig},
    source::Problem,
};

/// The state of the mesh as the control plane knows it. `push` is the only writer.
#[derive(Debug)]
pub struct Mesh {
    index: RwLock<Index>,
    problems: ArcSwap<Vec<Problem>>,
    generation: watch::Sender<u64>,
}

impl Mesh {
    /// An empty mesh, at generation 0.
    #[must_use]
    pub fn new(config: MeshConfig) -> Self {
        Self { index: RwLock::new(Index::new(config)), problems: ArcSwap::default(), generation: watch::Sender::new(0) }
    }

    /// The index, for a look; never across an await.
    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong with the input at present.
    #[must_use]
    pub fn problems(&self) -> Arc<Vec<Problem>> {
        self.problems.load_full()
    }

    pub(crate) fn set_problems(&self, problems: Arc<Vec<Problem>>) {
        self.problems.store(problems);
    }

    /// Counts the batches that were applied and pushed; 0 until the first, which is the whole state at start.
    #[must_use]
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    pub(crate) fn advance(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}
