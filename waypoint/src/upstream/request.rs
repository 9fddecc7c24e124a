//! The body of a request on its way, for the first time or once more.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio_util::sync::DropGuard;

use super::kept::{Again, Keeper, Kept, LONGEST};
use crate::http::Phase;

/// The body of a request on its way: counts what passes.
#[derive(Debug)]
pub struct RequestBody(Kind);

#[derive(Debug)]
enum Kind {
    Empty,
    Streaming(Box<Streaming>),
    Again(Again),
}

#[derive(Debug)]
struct Streaming {
    inner: Incoming,
    sent: Arc<AtomicU64>,
    phase: Option<Phase>,
    /// Dropped once it has come whole, or does not come any more.
    arriving: Option<DropGuard>,
    keeping: Option<Keeper>,
}

impl RequestBody {
    /// Counts into `sent`, and tells `phase` and whoever `arriving` guards of its end.
    pub fn new(inner: Incoming, sent: Arc<AtomicU64>, phase: Option<Phase>, arriving: Option<DropGuard>) -> Self {
        Self(Kind::Streaming(Box::new(Streaming { inner, sent, phase, arriving, keeping: None })))
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
        match &mut self.0 {
            Kind::Streaming(streaming) if streaming.inner.size_hint().lower() <= LONGEST as u64 => {
                let (kept, keeper) = Kept::passing(room);
                streaming.keeping = Some(keeper);
                kept
            }
            _ => Kept::lost(),
        }
    }
}

impl Kept {
    /// The body once more; `None` when its end has not passed, or it was too much to keep.
    #[must_use]
    pub fn again(&self) -> Option<RequestBody> {
        self.whole().map(|again| RequestBody(Kind::Again(again)))
    }

    /// The same, as soon as nothing more of it comes.
    pub async fn passed(&self) -> Option<RequestBody> {
        self.ended().await;
        self.again()
    }
}

impl Streaming {
    fn passed(&mut self, frame: &Option<Result<Frame<Bytes>, hyper::Error>>) {
        if let Some(Ok(frame)) = frame {
            if let Some(data) = frame.data_ref() {
                self.sent.fetch_add(data.len() as u64, Ordering::Relaxed);
            }
            if let Some(keeping) = &self.keeping {
                keeping.add(frame);
            }
        }
        // A body whose length is known may not be read beyond its last byte.
        if frame.is_none() || self.inner.is_end_stream() {
            if let Some(phase) = &self.phase {
                phase.complete();
            }
            self.arriving = None;
            if let Some(keeping) = self.keeping.take().filter(|_| !matches!(frame, Some(Err(_)))) {
                keeping.complete();
            }
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
            Kind::Again(again) => Poll::Ready(again.part().map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Streaming(streaming) => streaming.inner.is_end_stream(),
            Kind::Again(again) => again.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Streaming(streaming) => streaming.inner.size_hint(),
            Kind::Again(again) => again.length().map_or_else(SizeHint::new, SizeHint::with_exact),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_again_says_its_length() {
        let room = Arc::new(Semaphore::new(1000));
        let (kept, keeper) = Kept::passing(&room);
        keeper.add(&Frame::data(Bytes::from_static(b"onetwo")));
        keeper.complete();
        let mut again = kept.again().unwrap();
        assert_eq!(again.size_hint().exact(), Some(6));
        assert!(!again.is_end_stream());
        assert!(again.keep(&room).again().is_none(), "a body that is sent again is not kept a second time");
        let nothing = RequestBody::empty().keep(&Arc::new(Semaphore::new(0)));
        assert!(nothing.again().unwrap().is_end_stream());
    }
}
