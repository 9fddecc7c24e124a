//! Who is told that a request goes no further while its body is on its way.

use std::future::pending;

use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{end::End, flow::Through};
use crate::{http::sizes::Bound, upstream::RequestBody};

/// Requests' bodies that are looked at on their way, or pass by way of processors, and where is told that one of these has ended the request.
pub struct Passage {
    /// How long it may be, where its route says so and its length is not known.
    pub bound: Option<Bound>,
    /// By whom, one after the other.
    pub through: Vec<(Through, Stopper)>,
    /// For further ones.
    pub stopper: Stopper,
    /// Whether it goes on.
    pub stopped: Stopped,
}

/// By whom a body passes.
pub struct Passes {
    bound: Option<(Bound, Stopper)>,
    through: Vec<(Through, Stopper)>,
}

impl Passage {
    /// By way of nobody, and of no more than so many bytes.
    pub fn bound(bound: Bound) -> Self {
        let (stopper, stopped) = Stopper::new();
        Self { bound: Some(bound), through: Vec::new(), stopper, stopped }
    }

    /// By whom it passes, and where is told how it ends.
    pub fn parts(self) -> (Option<Box<Passes>>, Option<Stopped>) {
        let Self { bound, through, stopper, stopped } = self;
        let bound = bound.map(|bound| (bound, stopper));
        (Some(Box::new(Passes { bound, through })), Some(stopped))
    }
}

impl Passes {
    /// What becomes of a request's body on its way; what was read before was looked at as it was read, if it is the `whole` of it.
    pub fn request(self, body: RequestBody, whole: bool) -> RequestBody {
        let Self { bound, through } = self;
        let body = match bound {
            Some((bound, stopper)) if !whole => bound.request(body, stopper),
            _ => body,
        };
        through.into_iter().fold(body, |body, (through, stopper)| through.request(body, stopper))
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
