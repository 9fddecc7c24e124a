//! What has passed of a request's body, for as long as somebody may want it once more, and no longer.

use std::{
    mem::replace,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::request::Streaming;

/// The longest body that is kept where a route has use for it, in bytes (Envoy's default buffer). A request with a longer one is sent once.
pub const LONGEST: usize = 1 << 20;
/// The longest start of a body that is kept in case the endpoint gives its request back unseen, in bytes.
pub const SHORT: usize = 64 << 10;
/// What a trailer takes besides its text, in bytes.
const FIELD: usize = 192;
/// The longest piece in which a body is sent once more, so that a slow reader does not have all of it waiting on its connection.
const PIECE: usize = 64 << 10;

/// Wants a body once more. When the last clone is gone, what is kept of the body is let go.
#[derive(Debug, Clone)]
pub struct Kept(Arc<Shared>);

/// Fills what is kept, from where the body passes.
#[derive(Debug)]
pub(super) struct Keeper(Weak<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Told when nothing more comes.
    ended: Notify,
}

#[derive(Debug)]
enum State {
    /// More may come.
    Passing(Part),
    /// The end has passed, and everything before it is here.
    Whole(Again),
    /// Where it passed nobody reads it any more: what has passed, and where the rest comes from.
    Back(Part, Box<Streaming>),
    /// It was too much, or broke off.
    Lost,
}

/// What has come so far, in one piece of memory: a body may come one byte at a time.
#[derive(Debug)]
pub(super) struct Part {
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// How much is kept at most, in bytes.
    most: usize,
    /// Where there may be more room, in bytes.
    room: Arc<Semaphore>,
    /// What is used of it.
    taken: Option<OwnedSemaphorePermit>,
}

/// A body on its way once more. The bytes hold their room wherever they are, on a connection too.
#[derive(Debug, Clone)]
pub(super) struct Again {
    data: Bytes,
    trailers: Option<HeaderMap>,
}

/// Bytes with the room that they use.
struct Held {
    data: Vec<u8>,
    _taken: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Kept {
    fn new(state: State) -> Self {
        Self(Arc::new(Shared { state: Mutex::new(state), ended: Notify::new() }))
    }

    /// Of a body that ends at once.
    pub(super) fn nothing() -> Self {
        Self::new(State::Whole(Again { data: Bytes::new(), trailers: None }))
    }

    /// Of a body that is not kept.
    pub(super) fn lost() -> Self {
        Self::new(State::Lost)
    }

    /// Of a body that is about to pass, up to `most` bytes and as long as there is `room` (in bytes, for all bodies together).
    pub(super) fn passing(room: &Arc<Semaphore>, most: usize) -> (Self, Keeper) {
        let part = Part { data: Vec::new(), trailers: None, most, room: room.clone(), taken: None };
        let kept = Self::new(State::Passing(part));
        let keeper = Keeper(Arc::downgrade(&kept.0));
        (kept, keeper)
    }

    /// The body once more; `None` when its end has not passed, or it was too much to keep.
    pub(super) fn whole(&self) -> Option<Again> {
        match &*self.0.state() {
            State::Whole(again) => Some(again.clone()),
            State::Passing(_) | State::Back(..) | State::Lost => None,
        }
    }

    /// What has passed of the body, and where the rest comes from, as soon as nobody reads it any more where it passed; `None` when what
    /// has passed was too much to keep. Only one can have a rest.
    pub(super) async fn back(&self) -> Option<(Again, Option<Box<Streaming>>)> {
        self.ended().await;
        let mut state = self.0.state();
        match replace(&mut *state, State::Lost) {
            State::Back(part, rest) => Some((part.done(), Some(rest))),
            State::Whole(again) => {
                *state = State::Whole(again.clone());
                Some((again, None))
            }
            State::Passing(_) | State::Lost => None,
        }
    }

    /// Waits until nothing more of the body comes.
    pub(super) async fn ended(&self) {
        loop {
            let mut ended = pin!(self.0.ended.notified());
            ended.as_mut().enable();
            if !self.0.is_passing() {
                return;
            }
            ended.await;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_passing(&self) -> bool {
        matches!(*self.state(), State::Passing(_))
    }

    fn lose(&self) {
        // What was there is let go without the lock.
        let before = replace(&mut *self.state(), State::Lost);
        drop(before);
        self.ended.notify_waiters();
    }
}

impl Keeper {
    /// What it fills, if anybody still wants it.
    pub fn kept(&self) -> Option<Kept> {
        self.0.upgrade().map(Kept)
    }

    /// A part of the body passes. Says whether what comes after it is to be kept too.
    pub fn add(&self, frame: &Frame<Bytes>) -> bool {
        let Some(shared) = self.0.upgrade() else { return false };
        let fits = match &mut *shared.state() {
            State::Passing(part) => part.add(frame),
            State::Whole(_) | State::Back(..) | State::Lost => return false,
        };
        if !fits {
            shared.lose();
        }
        fits
    }

    /// The end has passed.
    pub fn complete(self) {
        let Some(shared) = self.0.upgrade() else { return };
        let mut state = shared.state();
        *state = match replace(&mut *state, State::Lost) {
            State::Passing(part) => State::Whole(part.done()),
            ended => ended,
        };
        drop(state);
        shared.ended.notify_waiters();
    }

    /// Nobody reads the body any more where it passed, and its end has not come: the rest is for whoever wants it.
    pub fn back(self, rest: Box<Streaming>) {
        let Some(shared) = self.0.upgrade() else { return };
        let mut state = shared.state();
        let (now, unwanted) = match replace(&mut *state, State::Lost) {
            State::Passing(part) => (State::Back(part, rest), None),
            ended => (ended, Some(rest)),
        };
        *state = now;
        drop(state);
        shared.ended.notify_waiters();
        // Not with the lock.
        drop(unwanted);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Its end will not pass any more.
        if let Some(shared) = self.0.upgrade().filter(|shared| shared.is_passing()) {
            shared.lose();
        }
    }
}

impl Part {
    /// Of a body that is read as far as somebody says, while there is `room` (in bytes, for all bodies together).
    pub fn new(room: &Arc<Semaphore>) -> Self {
        Self { data: Vec::new(), trailers: None, most: usize::MAX, room: room.clone(), taken: None }
    }

    /// What has come, without trailers.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The trailers that have come.
    pub fn trailers(&mut self) -> Option<&mut HeaderMap> {
        self.trailers.as_mut()
    }

    /// Whether there was room for it.
    pub fn add(&mut self, frame: &Frame<Bytes>) -> bool {
        if let Some(data) = frame.data_ref() {
            if !self.grow(self.data.len() + data.len()) {
                return false;
            }
            self.data.extend_from_slice(data);
        } else if let Some(trailers) = frame.trailers_ref() {
            if !self.take(trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum()) {
                return false;
            }
            self.trailers = Some(trailers.clone());
        }
        true
    }

    /// Has these bytes in the place of those that have come; trailers stay. Says whether there was room for them.
    pub fn replace(&mut self, data: &[u8]) -> bool {
        self.data.clear();
        let fits = self.grow(data.len());
        if fits {
            self.data.extend_from_slice(data);
        }
        fits
    }

    /// Makes place for `length` bytes: at least twice as much as before, so that many small parts are not moved each time one comes.
    fn grow(&mut self, length: usize) -> bool {
        let now = self.data.capacity();
        if length <= now {
            return true;
        }
        let grown = now.saturating_mul(2).min(self.most).max(length);
        if length > self.most || !self.take(grown - now) {
            return false;
        }
        self.data.reserve_exact(grown - self.data.len());
        true
    }

    fn take(&mut self, bytes: usize) -> bool {
        let Some(permit) = u32::try_from(bytes).ok().and_then(|bytes| self.room.clone().try_acquire_many_owned(bytes).ok())
        else {
            return false;
        };
        match &mut self.taken {
            Some(taken) => taken.merge(permit),
            None => self.taken = Some(permit),
        }
        true
    }

    /// Nothing is added to it any more.
    pub fn done(self) -> Again {
        let Self { data, trailers, taken, .. } = self;
        Again { data: Bytes::from_owner(Held { data, _taken: taken }), trailers }
    }
}

impl Again {
    /// Of bytes that are at hand.
    pub fn of(data: Bytes) -> Self {
        Self { data, trailers: None }
    }

    /// What comes next of it.
    pub fn part(&mut self) -> Option<Frame<Bytes>> {
        if self.data.is_empty() {
            return self.trailers.take().map(Frame::trailers);
        }
        Some(Frame::data(self.data.split_to(self.data.len().min(PIECE))))
    }

    /// Whether nothing more comes.
    pub fn is_end(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    /// What is still to come in bytes; `None` with trailers, which need a coding that a known length would do without.
    pub fn length(&self) -> Option<u64> {
        self.trailers.is_none().then_some(self.data.len() as u64)
    }
}

#[cfg(test)]
mod tests;
