//! The body of a request on its way, for the first time or once more.

use std::{
    future::poll_fn,
    mem::replace,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::DropGuard;

use super::{
    kept::{Again, Keeper, Kept, LONGEST, Part, SHORT},
    made::Made,
};
use crate::http::{EXPLAIN, Phase, client_certificate, poll_filled};

/// The body of a request on its way: counts what passes.
#[derive(Debug)]
pub struct RequestBody(Kind);

#[derive(Debug)]
enum Kind {
    Empty,
    Streaming(Box<Streaming>),
    Again(Again),
    /// What has passed before, then the rest as it comes.
    Resumed(Again, Box<Streaming>),
    /// Of the waypoint's own, as it is said; ends when its sender is dropped.
    Fed(mpsc::Receiver<Bytes>),
}

/// A body as it comes from the client.
#[derive(Debug)]
pub(super) struct Streaming {
    /// What was read of it before, and comes first.
    before: Option<Box<Again>>,
    /// That was all of it.
    over: bool,
    inner: Source,
    sent: Arc<AtomicU64>,
    phase: Option<Phase>,
    /// Dropped once it has come whole, or does not come any more.
    arriving: Option<DropGuard>,
    keeping: Option<Keeper>,
    /// It was asked for what comes next: the head of its request was taken to be sent.
    begun: bool,
    /// Set when it has come whole.
    whole: Option<Arc<OnceLock<Instant>>>,
}

/// Where a body comes from.
#[derive(Debug)]
enum Source {
    Client(Incoming),
    /// From the client, by way of somebody who may change it.
    Made(Made<Broken>),
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Its client broke it.
    #[error(transparent)]
    Client(#[from] hyper::Error),
    /// What its processor says goes before it.
    #[error("its external processor has ended the request")]
    Processed,
    /// It is longer than its route lets pass.
    #[error("it is longer than its route lets pass")]
    TooLong,
}

impl RequestBody {
    /// Counts into `sent`, and tells `phase` and whoever `arriving` guards of its end. What was read of it before comes first.
    pub fn new(
        inner: Incoming,
        before: Option<Box<Beginning>>,
        sent: Arc<AtomicU64>,
        phase: Option<Phase>,
        arriving: Option<DropGuard>,
    ) -> Self {
        // Nobody reads it, or waits for what is here already.
        if before.is_none() && inner.is_end_stream() {
            return Self(Kind::Empty);
        }
        let over = before.as_deref().is_some_and(Beginning::is_whole);
        let before = before.map(|before| before.part.done()).filter(|before| !before.is_end()).map(Box::new);
        let inner = Source::Client(inner);
        Self(Kind::Streaming(Box::new(Streaming {
            before,
            over,
            inner,
            sent,
            phase,
            arriving,
            keeping: None,
            begun: false,
            whole: None,
        })))
    }

    /// What is made of one that comes from the client, which knows itself what has come of it.
    pub fn made(made: Made<Broken>) -> Self {
        Self(Kind::Streaming(Box::new(Streaming {
            before: None,
            over: false,
            inner: Source::Made(made),
            sent: Arc::default(),
            phase: None,
            arriving: None,
            keeping: None,
            begun: false,
            whole: None,
        })))
    }

    /// Notes when it has come whole, as a log asks for.
    pub fn note_end(&mut self, whole: &Arc<OnceLock<Instant>>) {
        match &mut self.0 {
            Kind::Streaming(streaming) if !streaming.is_end() => streaming.whole = Some(whole.clone()),
            _ => _ = whole.set(Instant::now()),
        }
    }

    /// A body that is at hand.
    pub fn of(data: Bytes) -> Self {
        Self(if data.is_empty() { Kind::Empty } else { Kind::Again(Again::of(data)) })
    }

    /// A body of what is said one after the other.
    pub fn fed(parts: mpsc::Receiver<Bytes>) -> Self {
        Self(Kind::Fed(parts))
    }

    /// A body without bytes.
    pub fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// Keeps a copy of what passes for as long as what is returned is held, and there is `room` (in bytes, for all bodies together).
    pub fn keep(&mut self, room: &Arc<Semaphore>) -> Kept {
        if self.is_end_stream() {
            return Kept::nothing();
        }
        let kept = match &mut self.0 {
            Kind::Streaming(streaming) => streaming.keep(room, LONGEST),
            _ => None,
        };
        kept.unwrap_or_else(Kept::lost)
    }

    /// Keeps the start of it, if nobody does yet, in case the endpoint gives the request back unseen. `None` when it is too long for that,
    /// or was on its way before.
    pub fn spare(&mut self, room: &Arc<Semaphore>) -> Option<Kept> {
        match &mut self.0 {
            Kind::Streaming(streaming) => streaming.keep(room, SHORT),
            Kind::Empty | Kind::Again(_) | Kind::Resumed(..) | Kind::Fed(_) => None,
        }
    }
}

/// What was read of a body before its request is sent on.
#[derive(Debug)]
pub struct Beginning {
    part: Part,
    whole: bool,
}

/// Why a body was not read.
#[derive(Debug)]
pub enum Unread {
    /// Too much of other bodies is kept.
    NoRoom,
    /// It broke off.
    Broke(hyper::Error),
}

impl Beginning {
    /// Of a body of which nothing was read yet; there is `room` for what is kept of all bodies, in bytes.
    pub fn new(room: &Arc<Semaphore>) -> Self {
        Self { part: Part::new(room), whole: false }
    }

    /// Reads on until there are so many bytes, and perhaps a frame more, or the body has ended.
    ///
    /// # Errors
    /// When there is no room for it, or it broke off.
    pub async fn read(&mut self, body: &mut Incoming, bytes: usize) -> Result<(), Unread> {
        while !self.whole && self.length() < bytes {
            match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await.map(|frame| frame.map(heard)) {
                None => self.whole = true,
                Some(Err(error)) => return Err(Unread::Broke(error)),
                Some(Ok(frame)) if !self.part.add(&frame) => return Err(Unread::NoRoom),
                // A body whose length is known may not be read beyond its last byte.
                Some(Ok(_)) => self.whole = body.is_end_stream(),
            }
        }
        Ok(())
    }

    /// How many bytes were read.
    #[must_use]
    pub fn length(&self) -> usize {
        self.part.data().len()
    }

    /// Takes what comes next of a body that is read elsewhere. Says whether there was room for it.
    pub fn add(&mut self, frame: &Frame<Bytes>) -> bool {
        self.part.add(frame)
    }

    /// Has these bytes in the place of all that was read, and of all that may follow. Says whether there was room for them.
    pub fn replace(&mut self, data: &[u8]) -> bool {
        self.whole = true;
        self.part.replace(data)
    }

    /// The trailers that were read.
    pub fn trailers(&mut self) -> Option<&mut HeaderMap> {
        self.part.trailers()
    }

    /// What was read as a body of its own.
    #[must_use]
    pub fn into_body(self) -> RequestBody {
        RequestBody(Kind::Again(self.part.done()))
    }

    /// Whether that was all.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// The first bytes, no more than `most`.
    #[must_use]
    pub fn start(&self, most: usize) -> Bytes {
        let data = self.part.data();
        Bytes::copy_from_slice(data.get(..most).unwrap_or(data))
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Kind::Streaming(streaming) = &mut self.0 else { return };
        // Of a request whose body was not begun it is not known whether its head is still to be sent, whatever is said of its connection.
        if !streaming.begun {
            return;
        }
        let Some(keeper) = streaming.keeping.take() else { return };
        if let Kind::Streaming(rest) = replace(&mut self.0, Kind::Empty) {
            keeper.back(rest);
        }
    }
}

impl Kept {
    /// The body once more; `None` when its end has not passed, or it was too much to keep.
    #[must_use]
    pub fn again(&self) -> Option<RequestBody> {
        self.whole().map(|again| RequestBody(Kind::Again(again)))
    }

    /// The body once more, as soon as it is not read any more by the connection that it was given to, which has failed: what has passed of
    /// it, and the rest as it comes. `None` when too much has passed to be kept, or it is not known that it was to be sent at all.
    pub async fn resumed(&self) -> Option<RequestBody> {
        let (before, rest) = self.back().await?;
        Some(RequestBody(match rest {
            Some(rest) => Kind::Resumed(before, rest),
            None => Kind::Again(before),
        }))
    }

    /// The same as [`Kept::again`], as soon as nothing more of it comes.
    pub async fn passed(&self) -> Option<RequestBody> {
        self.ended().await;
        self.again()
    }
}

/// What came from the client as it goes on: what is asked of waypoints is for nobody else, among the headers or after the body, and in neither
/// place does a client say who it is: there are servers that take what comes after a body for headers.
fn heard(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        trailers.remove(EXPLAIN);
        client_certificate(trailers, None);
    }
    frame
}

impl Streaming {
    /// Keeps up to `most` bytes of what passes, or goes on with what is kept already.
    fn keep(&mut self, room: &Arc<Semaphore>, most: usize) -> Option<Kept> {
        if let Some(kept) = self.keeping.as_ref().and_then(Keeper::kept) {
            return Some(kept);
        }
        if self.begun || self.size_hint().lower() > most as u64 {
            return None;
        }
        let (kept, keeper) = Kept::passing(room, most);
        self.keeping = Some(keeper);
        Some(kept)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.begun = true;
        let before = self.before.as_mut().and_then(|before| before.part());
        self.before.take_if(|before| before.is_end());
        let frame = match before {
            Some(frame) => Some(Ok(frame)),
            None if self.over => None,
            None => ready!(self.inner.poll(cx)).map(|frame| frame.map(heard)),
        };
        self.passed(&frame);
        Poll::Ready(frame)
    }

    /// Whether nothing more comes.
    fn is_end(&self) -> bool {
        self.before.is_none() && (self.over || self.inner.is_end())
    }

    fn size_hint(&self) -> SizeHint {
        let Some(before) = &self.before else { return self.rest() };
        // With trailers it needs a coding that a known length would do without.
        let (Some(before), rest) = (before.length(), self.rest()) else { return SizeHint::new() };
        let mut hint = SizeHint::new();
        hint.set_lower(before.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper() {
            hint.set_upper(before.saturating_add(upper));
        }
        hint
    }

    /// How much of it was not read yet.
    fn rest(&self) -> SizeHint {
        if self.over { SizeHint::with_exact(0) } else { self.inner.size_hint() }
    }

    fn passed(&mut self, frame: &Option<Result<Frame<Bytes>, Broken>>) {
        if let Some(Ok(frame)) = frame {
            if let Some(data) = frame.data_ref() {
                self.sent.fetch_add(data.len() as u64, Ordering::Relaxed);
            }
            self.keeping.take_if(|keeping| !keeping.add(frame));
        } else if frame.is_some() {
            // What broke off has no rest: asked once more, it would seem to have ended there.
            self.keeping = None;
        }
        // A body whose length is known may not be read beyond its last byte.
        if frame.is_none() || self.is_end() {
            if let Some(phase) = &self.phase {
                phase.complete();
            }
            self.arriving = None;
            if let Some(whole) = self.whole.take() {
                let _ = whole.set(Instant::now());
            }
            if let Some(keeping) = self.keeping.take() {
                keeping.complete();
            }
        }
    }
}

impl Source {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self {
            Self::Client(incoming) => poll_filled(incoming, cx).map_err(Broken::from),
            Self::Made(made) => made.poll(cx),
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Self::Client(incoming) => incoming.is_end_stream(),
            Self::Made(made) => made.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(incoming) => incoming.size_hint(),
            Self::Made(_) => SizeHint::new(),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Streaming(streaming) => streaming.poll(cx),
            Kind::Again(again) => Poll::Ready(again.part().map(Ok)),
            Kind::Resumed(before, rest) => match before.part() {
                Some(frame) => Poll::Ready(Some(Ok(frame))),
                None => rest.poll(cx),
            },
            Kind::Fed(parts) => parts.poll_recv(cx).map(|part| part.map(|part| Ok(Frame::data(part)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Streaming(streaming) => streaming.is_end(),
            Kind::Again(again) => again.is_end(),
            Kind::Resumed(before, rest) => before.is_end() && rest.is_end(),
            Kind::Fed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Streaming(streaming) => streaming.size_hint(),
            // Its request has a head already, which says its length if the client did: each try is written as the first one.
            Kind::Again(_) | Kind::Resumed(..) | Kind::Fed(_) => SizeHint::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_again_is_written_as_the_first_time_and_not_kept() {
        let room = Arc::new(Semaphore::new(1000));
        let (kept, keeper) = Kept::passing(&room, LONGEST);
        keeper.add(&Frame::data(Bytes::from_static(b"onetwo")));
        keeper.complete();
        let mut again = kept.again().unwrap();
        assert_eq!(again.size_hint().exact(), None, "its head says its length, or nobody does");
        assert!(!again.is_end_stream());
        assert!(again.keep(&room).again().is_none(), "a body that is sent again is not kept a second time");
        let nothing = RequestBody::empty().keep(&Arc::new(Semaphore::new(0)));
        assert!(nothing.again().unwrap().is_end_stream());
    }
}
