//! A connection that stopped being HTTP (WebSocket): bytes both ways until both sides have ended.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
};

use ambit_model::Reason;
use ambit_runtime::drain::Watch;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::observe::Record;

/// Carries the bytes of an upgraded connection to their end, and holds what it is to hold until then; the drain's deadline cuts it.
pub async fn carry<H>(client: OnUpgrade, upstream: OnUpgrade, mut record: Box<Record>, held: H, drain: Watch) {
    let sent = record.sent.clone();
    let received = AtomicU64::new(0);
    match tokio::try_join!(client, upstream) {
        Err(error) => {
            record.reason = Reason::UpstreamProtocolError;
            record.error = Some(error.to_string());
        }
        Ok((client, upstream)) => {
            let mut client = Counted::new(client, &sent);
            let mut upstream = Counted::new(upstream, &received);
            let outcome = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            record.reason = match &outcome {
                Ok(_) => Reason::Ok,
                Err(_) if drain.is_draining() => Reason::Draining,
                Err(_) if client.failed => Reason::ClientReset,
                Err(_) => Reason::UpstreamReset,
            };
            record.error = outcome.err().map(|error| error.to_string());
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
