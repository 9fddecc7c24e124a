//! A connection that stopped being HTTP (WebSocket): bytes both ways until both sides have ended, or a time of its route is over.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use ambit_model::Reason;
use ambit_runtime::drain::Watch;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{forward::if_any, times::Times};
use crate::observe::Record;

/// Carries the bytes of an upgraded connection to their end, and holds what it is to hold until then; the drain's deadline cuts it, and so do
/// the times of its stream.
pub async fn carry<H>(
    client: OnUpgrade,
    upstream: OnUpgrade,
    mut record: Box<Record>,
    held: H,
    drain: Watch,
    times: Option<Box<Times>>,
) {
    let sent = record.sent.clone();
    let received = times.as_ref().map_or_else(Arc::default, |times| times.received().clone());
    match tokio::try_join!(client, upstream) {
        Err(error) => {
            record.reason = Reason::UpstreamProtocolError;
            record.error = Some(error.to_string());
        }
        Ok((client, upstream)) => {
            let mut client = Counted::new(client, &sent);
            let mut upstream = Counted::new(upstream, &received);
            let carried = tokio::io::copy_bidirectional(&mut client, &mut upstream);
            let outcome = tokio::select! {
                biased;
                // First: what carries without a pause uses up what its task may do in one turn, and a clock that is looked at after that never
                // tells that its time is over.
                (_, refusal) = if_any(times) => Err(refusal),
                outcome = carried => Ok(outcome),
            };
            record.reason = match &outcome {
                Ok(Ok(_)) => Reason::Ok,
                Ok(Err(_)) if drain.is_draining() => Reason::Draining,
                Ok(Err(_)) if client.failed => Reason::ClientReset,
                Ok(Err(_)) => Reason::UpstreamReset,
                Err(refusal) => refusal.reason,
            };
            record.error = match outcome {
                Ok(outcome) => outcome.err().map(|error| error.to_string()),
                Err(refusal) => Some(refusal.to_string()),
            };
            record.received = received.load(Ordering::Relaxed);
        }
    }
    drop((record, held));
}

/// One side: counts what is read from it, and remembers whether it was the one that failed.
struct Counted<'a> {
    inner: TokioIo<Upgraded>,
    count: &'a AtomicU64,
    failed: bool,
}

impl<'a> Counted<'a> {
    fn new(inner: Upgraded, count: &'a AtomicU64) -> Self {
        Self { inner: TokioIo::new(inner), count, failed: false }
    }

    fn noted<T>(&mut self, result: io::Result<T>) -> Poll<io::Result<T>> {
        self.failed |= result.is_err();
        Poll::Ready(result)
    }
}

impl AsyncRead for Counted<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        self.count.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        self.noted(result)
    }
}

impl AsyncWrite for Counted<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.inner).poll_write(cx, buf));
        self.noted(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.inner).poll_flush(cx));
        self.noted(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.inner).poll_shutdown(cx));
        self.noted(result)
    }
}
