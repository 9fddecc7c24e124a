//! The body of a response on its way to the client.

use std::{
    fmt,
    mem::replace,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll, ready},
};

use ambit_model::Reason;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{Over, arrival::Expiry, poll_filled, times::Times};
use crate::{
    compiled::Counted,
    observe::{InFlight, Record},
    upstream::{Broken, Lease, Made, RequestBody, broken_by},
};

/// A body made here, or one that streams through.
pub struct ResponseBody(Kind);

enum Kind {
    Local(Bytes),
    Streaming(Box<Streaming>),
    /// Was read before, or is another in its place; with what the response holds all the same.
    Put(Box<RequestBody>, Option<Box<Streaming>>),
    /// Passes by way of somebody who may change it, and who has what the response holds.
    Made(Made<BodyError>),
}

/// What a response that streams through holds until its end: the upstream connection, its record, its place among those in flight.
pub struct Streaming {
    /// The upstream's body.
    pub inner: Incoming,
    /// The connection it comes on.
    pub lease: Option<Lease>,
    /// Its record.
    pub record: Box<Record>,
    /// Its place, and its end on the client's connection.
    pub hold: (InFlight, Over),
    /// Its place among those of its cluster.
    pub counted: Counted,
    /// When it must have ended.
    pub deadline: Option<Expiry>,
    /// How long it may last and be silent, where its route says so.
    pub times: Option<Box<Times>>,
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The upstream broke it.
    #[error("the upstream broke the response: {0}")]
    Upstream(#[from] hyper::Error),
    /// What was put in its place broke off.
    #[error("what was put in the place of the response broke off: {0}")]
    Put(#[from] Broken),
    /// It goes no further, as this says.
    #[error("the response goes no further: {0}")]
    Processed(String),
    /// It took too long.
    #[error("the response took longer than the route allows")]
    TimedOut,
    /// Its stream was silent, or lasted, for too long.
    #[error("the stream is over: {0}")]
    Over(Reason),
}

impl ResponseBody {
    /// A body made here.
    pub fn local(bytes: Bytes) -> Self {
        Self(Kind::Local(bytes))
    }

    /// A body that streams through.
    pub fn streaming(streaming: Streaming) -> Self {
        Self(Kind::Streaming(Box::new(streaming)))
    }

    /// Whether it is what comes from an endpoint, as it comes.
    pub fn is_streaming(&self) -> bool {
        matches!(self.0, Kind::Streaming(_))
    }

    /// Has this body in its place; of what is not read yet nothing more is.
    pub fn put(&mut self, body: RequestBody) {
        let mut held = match replace(&mut self.0, Kind::Local(Bytes::new())) {
            // What passes by way of somebody ends with who has it.
            Kind::Local(_) | Kind::Made(_) => None,
            Kind::Streaming(held) => Some(held),
            Kind::Put(_, held) => held,
        };
        if let Some(held) = &mut held
            && let Some(lease) = held.lease.take()
        {
            // Its connection cannot be used again.
            drop(lease);
            held.record.reason = Reason::Ok;
        }
        self.0 = Kind::Put(Box::new(body), held);
    }

    /// Has it pass by way of somebody.
    pub fn pass(&mut self, by: impl FnOnce(Self) -> Made<BodyError>) {
        let inner = Self(replace(&mut self.0, Kind::Local(Bytes::new())));
        self.0 = Kind::Made(by(inner));
    }

    /// Leaves out what was made here: the response to `HEAD` has no body, and the server for HTTP/2 would send one.
    pub fn leave_out(&mut self) {
        match &mut self.0 {
            Kind::Local(bytes) => bytes.clear(),
            Kind::Put(body, _) => **body = RequestBody::empty(),
            Kind::Streaming(_) => {}
            // Of an answer to `HEAD` nothing passes but what was made here.
            Kind::Made(_) => self.0 = Kind::Local(Bytes::new()),
        }
    }

    /// The record of a response from an endpoint in whose place there is going to be another, whose record it becomes.
    pub fn record(&mut self) -> Option<&mut Record> {
        let (Kind::Streaming(held) | Kind::Put(_, Some(held))) = &mut self.0 else { return None };
        held.lease = None;
        Some(held.record.as_mut())
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseBody")
    }
}

impl Streaming {
    fn finished(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.release();
            self.record.reason = Reason::Ok;
        }
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // A body whose length is known is not read beyond its last byte.
        if self.inner.is_end_stream() {
            self.finished();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let streaming = match &mut self.0 {
            Kind::Local(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Kind::Local(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Streaming(streaming) => streaming,
            Kind::Put(body, _) => return Pin::new(body.as_mut()).poll_frame(cx).map_err(BodyError::from),
            Kind::Made(made) => return made.poll(cx),
        };
        if let Some(deadline) = &mut streaming.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            streaming.record.reason = Reason::RequestTimeout;
            (streaming.lease, streaming.deadline) = (None, None);
            return Poll::Ready(Some(Err(BodyError::TimedOut)));
        }
        if let Some(times) = &mut streaming.times
            && let Poll::Ready((_, refusal)) = Pin::new(times.as_mut()).poll(cx)
        {
            streaming.record.reason = refusal.reason;
            streaming.record.error = Some(refusal.to_string());
            (streaming.lease, streaming.deadline, streaming.times) = (None, None, None);
            return Poll::Ready(Some(Err(BodyError::Over(refusal.reason))));
        }
        match ready!(poll_filled(&mut streaming.inner, cx)) {
            None => {
                streaming.finished();
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                let (lease, cut) = (streaming.lease.take(), streaming.record.cut.take());
                if let Some(refusal) = cut.as_deref().and_then(|cut| cut.get()) {
                    streaming.record.refused(refusal);
                } else {
                    streaming.record.reason = broken_by(&error);
                    streaming.record.error = Some(error.to_string());
                    if let Some(lease) = lease {
                        lease.broke();
                    }
                }
                Poll::Ready(Some(Err(error.into())))
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    streaming.record.received += data.len() as u64;
                    if let Some(times) = &streaming.times {
                        times.received().fetch_add(data.len() as u64, Ordering::Relaxed);
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    if let Some(status) = trailers.get("grpc-status") {
                        streaming.record.grpc_status = status.to_str().ok().and_then(|s| s.parse().ok());
                    }
                    streaming.record.trailed(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Local(bytes) => bytes.is_empty(),
            Kind::Streaming(streaming) => streaming.inner.is_end_stream(),
            Kind::Put(body, _) => body.is_end_stream(),
            Kind::Made(made) => made.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Local(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Streaming(streaming) => streaming.inner.size_hint(),
            Kind::Put(body, _) => body.size_hint(),
            Kind::Made(_) => SizeHint::new(),
        }
    }
}
