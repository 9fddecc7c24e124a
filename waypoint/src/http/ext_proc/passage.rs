//! Who is told that a request goes no further while its body is on its way.

use std::future::pending;

use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{end::End, flow::Through};

/// Requests' bodies that pass by way of processors, and where is told that one of these has ended the request.
pub struct Passage {
    /// By whom, one after the other.
    pub through: Vec<(Through, Stopper)>,
    /// For further ones.
    pub stopper: Stopper,
    /// Whether it goes on.
    pub stopped: Stopped,
}

impl Passage {
    /// By whom it passes, and where is told how it ends.
    pub fn parts(self) -> (Vec<(Through, Stopper)>, Option<Stopped>) {
        let Self { through, stopped, .. } = self;
        (through, Some(stopped))
    }
}

/// Where is said that a request goes no further.
#[derive(Clone)]
pub struct Stopper {
    end: mpsc::Sender<End>,
    unheard: CancellationToken,
}

/// Where is heard that a request goes no further. Once this is dropped its body breaks off instead.
pub struct Stopped {
    end: mpsc::Receiver<End>,
    _heard: DropGuard,
}

impl Stopper {
    /// Both ends.
    pub fn new() -> (Self, Stopped) {
        let (said, end) = mpsc::channel(1);
        let unheard = CancellationToken::new();
        let stopped = Stopped { end, _heard: unheard.clone().drop_guard() };
        (Self { end: said, unheard }, stopped)
    }

    /// Completes when nobody would answer with this any more.
    pub async fn stop(&self, end: End) {
        // There is room for one, and one is enough.
        let _ = self.end.try_send(end);
        self.unheard.cancelled().await;
    }
}

impl Stopped {
    /// What the client is answered, if it ever comes to that.
    pub async fn ended(&mut self) -> End {
        match self.end.recv().await {
            Some(end) => end,
            None => pending().await,
        }
    }
}
