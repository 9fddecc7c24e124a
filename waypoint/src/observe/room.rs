//! Room for what waits for collectors, by its size: much of it is headers, and how long those are is up to clients.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that may wait for a collector, or be on their way to it: of spans, and as much of records of access logs.
const BYTES: usize = 16 << 20;

/// Room for so much. Clones share it.
#[derive(Debug, Clone)]
pub struct Room(Arc<Semaphore>);

/// Room that is taken until this is dropped.
pub type Taken = OwnedSemaphorePermit;

impl Default for Room {
    fn default() -> Self {
        Self::of(BYTES)
    }
}

impl Room {
    /// Room for so many bytes.
    pub fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// Takes room, if there is so much left.
    pub fn take(&self, bytes: usize) -> Option<Taken> {
        self.0.clone().try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }
}
