//! A body that somebody makes of another one while it passes.

use std::{
    fmt,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::Stream;
use http_body::Frame;

type Frames<E> = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, E>> + Send>>;

/// What is made of a body, frame by frame: only as fast as it is asked for.
pub struct Made<E> {
    /// Nobody ever waits for it: with the lock a body may be looked at from several threads, as other bodies may.
    frames: Mutex<Frames<E>>,
    over: bool,
}

impl<E> Made<E> {
    /// Of these frames, up to the first error.
    pub fn new(frames: impl Stream<Item = Result<Frame<Bytes>, E>> + Send + 'static) -> Self {
        Self { frames: Mutex::new(Box::pin(frames)), over: false }
    }

    /// The next frame.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let frames = self.frames.get_mut().unwrap_or_else(PoisonError::into_inner);
        let frame = ready!(frames.as_mut().poll_next(cx));
        self.over = !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame)
    }

    /// Whether its end has been seen.
    pub fn is_over(&self) -> bool {
        self.over
    }
}

impl<E> fmt::Debug for Made<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Made")
    }
}
