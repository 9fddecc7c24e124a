//! The body of a request on its way, and a copy of it for as long as it may have to be sent again.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    vec,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::http::Phase;

/// The longest body that is kept, in bytes (Envoy's default buffer). A request with a longer one is sent once.
const LONGEST: u64 = 1 << 20;

/// What a piece of a kept body takes besides its bytes, here and in the copies of it, in bytes: a body may come one byte at a time.
const PIECE: usize = 192;

/// The body of a request on its way: counts what passes.
#[derive(Debug)]
pub struct RequestBody(Kind);

#[derive(Debug)]
enum Kind {
    Empty,
    Streaming(Box<Streaming>),
    Again { chunks: vec::IntoIter<Bytes>, left: u64, trailers: Option<HeaderMap> },
}

#[derive(Debug)]
struct Streaming {
    inner: Incoming,
    sent: Arc<AtomicU64>,
    phase: Option<Phase>,
    keeping: Option<Kept>,
}

impl RequestBody {
    /// Counts into `sent`, and tells `phase` of its end.
    pub fn new(inner: Incoming, sent: Arc<AtomicU64>, phase: Option<Phase>) -> Self {
        Self(Kind::Streaming(Box::new(Streaming { inner, sent, phase, keeping: None })))
    }

    /// A body without bytes.
    pub fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// Keeps a copy of what passes, as long as there is `room` (in bytes, for all bodies together).
    pub fn keep(&mut self, room: &Arc<Semaphore>) -> Kept {
        let kept = Kept::default();
        if self.is_end_stream() {
            kept.state().whole = true;
        } else if let Kind::Streaming(streaming) = &mut self.0 {
            kept.state().room = Some(room.clone());
            streaming.keeping = Some(kept.clone());
        }
        kept
    }
}

impl Streaming {
    fn passed(&mut self, frame: &Option<Result<Frame<Bytes>, hyper::Error>>) {
        if let Some(Ok(frame)) = frame {
            if let Some(data) = frame.data_ref() {
                self.sent.fetch_add(data.len() as u64, Ordering::Relaxed);
            }
            if let Some(kept) = &self.keeping {
                kept.add(frame);
            }
        }
        // A body whose length is known may not be read beyond its last byte.
        if frame.is_none() || self.inner.is_end_stream() {
            if let Some(phase) = &self.phase {
                phase.complete();
            }
            if let Some(kept) = self.keeping.take().filter(|_| !matches!(frame, Some(Err(_)))) {
                kept.complete();
            }
        }
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // Its end will not pass any more.
        if let Some(kept) = self.keeping.take() {
            kept.lose();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Streaming(streaming) => {
                let frame = std::task::ready!(Pin::new(&mut streaming.inner).poll_frame(cx));
                streaming.passed(&frame);
                Poll::Ready(frame)
            }
            Kind::Again { chunks, left, trailers } => Poll::Ready(match chunks.next() {
                Some(chunk) => {
                    *left = left.saturating_sub(chunk.len() as u64);
                    Some(Ok(Frame::data(chunk)))
                }
                None => trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Streaming(streaming) => streaming.inner.is_end_stream(),
            Kind::Again { chunks, trailers, .. } => chunks.as_slice().is_empty() && trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Streaming(streaming) => streaming.inner.size_hint(),
            // Trailers need a coding that a known length would do without.
            Kind::Again { trailers: Some(_), .. } => SizeHint::new(),
            Kind::Again { left, .. } => SizeHint::with_exact(*left),
        }
    }
}

/// What has passed of a body. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Kept(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when nothing more comes.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    chunks: Vec<Bytes>,
    length: u64,
    trailers: Option<HeaderMap>,
    /// The end has passed, and everything before it is here.
    whole: bool,
    /// Where there may be more; `None` once the body is whole or was too much.
    room: Option<Arc<Semaphore>>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Kept {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, frame: &Frame<Bytes>) {
        let mut state = self.state();
        let Some(room) = state.room.clone() else { return };
        let data = frame.data_ref().filter(|data| !data.is_empty());
        let length = state.length + data.map_or(0, |data| data.len() as u64);
        let permit = u32::try_from(cost(frame)).ok().filter(|_| length <= LONGEST);
        let Some(permit) = permit.and_then(|cost| room.try_acquire_many_owned(cost).ok()) else {
            drop(state);
            return self.lose();
        };
        match &mut state.taken {
            Some(taken) => taken.merge(permit),
            None => state.taken = Some(permit),
        }
        if let Some(trailers) = frame.trailers_ref() {
            state.trailers = Some(trailers.clone());
        }
        // A part of a buffer of the connection would keep all of the buffer.
        state.chunks.extend(data.map(|data| Bytes::copy_from_slice(data)));
        state.length = length;
    }

    fn complete(&self) {
        let mut state = self.state();
        state.whole = state.room.take().is_some();
        drop(state);
        self.0.ended.notify_waiters();
    }

    fn lose(&self) {
        *self.state() = State::default();
        self.0.ended.notify_waiters();
    }

    /// The body once more, as soon as its end has passed; `None` when it was too much to keep, or broke off.
    pub async fn passed(&self) -> Option<RequestBody> {
        loop {
            let mut ended = pin!(self.0.ended.notified());
            ended.as_mut().enable();
            if self.state().room.is_none() {
                return self.again();
            }
            ended.await;
        }
    }

    /// The body once more; `None` when its end has not passed, or it was too much to keep.
    #[must_use]
    pub fn again(&self) -> Option<RequestBody> {
        let state = self.state();
        state.whole.then(|| {
            let (chunks, left, trailers) = (state.chunks.clone().into_iter(), state.length, state.trailers.clone());
            RequestBody(Kind::Again { chunks, left, trailers })
        })
    }
}

/// What it takes to keep this part of a body, in bytes.
fn cost(frame: &Frame<Bytes>) -> usize {
    let data = frame.data_ref().filter(|data| !data.is_empty()).map_or(0, |data| data.len() + PIECE);
    let trailers = frame.trailers_ref().into_iter().flatten();
    data + trailers.map(|(name, value)| name.as_str().len() + value.len() + PIECE).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn of(parts: &[&'static str], room: usize) -> (Kept, Arc<Semaphore>) {
        let room = Arc::new(Semaphore::new(room));
        let kept = Kept::default();
        kept.state().room = Some(room.clone());
        parts.iter().for_each(|part| kept.add(&Frame::data(Bytes::from_static(part.as_bytes()))));
        (kept, room)
    }

    #[tokio::test]
    async fn a_body_that_passed_whole_can_be_sent_again_as_often_as_wanted() {
        let (kept, room) = of(&["one", "", "two"], 1000);
        assert!(kept.again().is_none(), "its end has not passed");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-end", "1".parse().unwrap());
        kept.add(&Frame::trailers(trailers.clone()));
        kept.complete();
        for _ in 0..2 {
            let again = kept.again().unwrap().collect().await.unwrap();
            assert_eq!(again.trailers(), Some(&trailers));
            assert_eq!(again.to_bytes(), "onetwo");
        }
        assert_eq!(room.available_permits(), 1000 - "one".len() - "two".len() - "x-end1".len() - 3 * PIECE);
        drop(kept);
        assert_eq!(room.available_permits(), 1000, "the room is not given back");
    }

    #[tokio::test]
    async fn a_body_that_is_too_much_is_let_go() {
        let (kept, room) = of(&["one", "two", "x"], 5 + 2 * PIECE);
        kept.complete();
        assert!(kept.again().is_none());
        assert_eq!(room.available_permits(), 5 + 2 * PIECE);
        let long = Bytes::from(vec![0; usize::try_from(LONGEST).unwrap() + 1]);
        let (kept, _) = of(&[], 1 << 24);
        kept.add(&Frame::data(long));
        kept.complete();
        assert!(kept.again().is_none());
    }

    #[test]
    fn a_body_that_comes_byte_by_byte_takes_the_room_that_it_takes() {
        let (kept, room) = of(&["x"; 10], 10_000);
        assert_eq!(room.available_permits(), 10_000 - 10 * (1 + PIECE));
        let (lost, _) = of(&["x"; 100], 10_000);
        lost.complete();
        kept.complete();
        assert!(kept.again().is_some() && lost.again().is_none());
    }

    #[tokio::test]
    async fn who_waits_for_the_end_is_told() {
        for (whole, expected) in [(true, Some(3)), (false, None)] {
            let (kept, _room) = of(&["one"], 1000);
            let waits = tokio::spawn({
                let kept = kept.clone();
                async move { kept.passed().await.map(|body| body.size_hint().lower()) }
            });
            tokio::task::yield_now().await;
            if whole {
                kept.complete()
            } else {
                kept.lose()
            }
            assert_eq!(waits.await.unwrap(), expected);
            assert_eq!(kept.passed().await.is_some(), whole, "who asks later is told as well");
        }
    }

    #[test]
    fn what_is_sent_again_says_its_length() {
        let (kept, _) = of(&["one", "two"], 1000);
        kept.complete();
        let mut again = kept.again().unwrap();
        assert_eq!(again.size_hint().exact(), Some(6));
        assert!(!again.is_end_stream());
        assert!(
            again.keep(&Arc::new(Semaphore::new(9))).again().is_none(),
            "a body that is sent again is not kept a second time"
        );
        let nothing = RequestBody::empty().keep(&Arc::new(Semaphore::new(0)));
        assert!(nothing.again().unwrap().is_end_stream());
    }
}
