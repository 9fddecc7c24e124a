//! One tunnel: a stream of bytes each way.

use std::{
    fmt,
    io::{self, IoSlice, IoSliceMut},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    frame::code,
    mux::{Link, Mux, Unanswered, Unfilled},
};

/// An open tunnel.
///
/// Shutting down the writer half-closes it. Dropping it before that resets it, so that the peer can tell a cut from an end; dropping it
/// after that is like closing a socket: what was written still arrives, and the peer may write no more. What arrives is acknowledged to
/// the sender only when it is read here, so a slow reader holds at most one stream window. One task at a time may read it, and one write.
pub struct TunnelStream {
    link: Arc<Link>,
    id: u32,
    /// Bytes of the client that were sent before the answer, and are still in its socket.
    early: u32,
}

/// The connection that a tunnel is in, for those who keep the tunnel for later use. Holding it keeps nothing alive.
#[derive(Clone)]
pub struct Carrier(Weak<Link>);

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carrier").field("stays", &self.stays()).finish()
    }
}

impl Carrier {
    /// Whether the connection is to carry further tunnels. Once the peer has said that it goes away, or the pool has closed the connection,
    /// what is under way may end in it, and what is new belongs elsewhere: some time later it is cut.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.0.upgrade().is_some_and(|link| {
            let mux = link.lock();
            mux.places.is_open() && mux.failure().is_none()
        })
    }
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStream").field("id", &self.id).finish_non_exhaustive()
    }
}

impl TunnelStream {
    /// The handle of a stream: there is only this one.
    pub(crate) fn new(link: Arc<Link>, id: u32) -> Self {
        Self { link, id, early: 0 }
    }

    /// The connection that this tunnel is in.
    #[must_use]
    pub fn carrier(&self) -> Carrier {
        Carrier(Arc::downgrade(&self.link))
    }

    /// So many bytes of the client went with the request.
    pub(crate) fn set_early(&mut self, count: u32) {
        self.early = count;
    }

    /// The next bytes without a copy, or none at the end. Acknowledge them with [`TunnelStream::consumed`] once they are passed on.
    ///
    /// # Errors
    /// When the peer resets the tunnel or its connection is lost.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        self.with(|mux, id| mux.poll_chunk(id, cx))
    }

    /// Acknowledges `count` bytes of what [`TunnelStream::poll_chunk`] gave: the peer may send as many more.
    pub fn consumed(&mut self, count: usize) {
        self.with(|mux, id| mux.consumed(id, count));
    }

    /// Sends as much of `chunk` as the windows and the share of this tunnel in what waits to be written allow, and takes it off its front.
    ///
    /// # Errors
    /// When the peer resets the tunnel or its connection is lost.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>> {
        let count = ready!(self.poll_copy(cx, chunk))?;
        chunk.advance(count);
        Poll::Ready(Ok(count))
    }

    /// Ends our direction. What was sent before still arrives.
    ///
    /// # Errors
    /// When the tunnel is reset already.
    pub fn finish(&mut self) -> io::Result<()> {
        self.with(Mux::finish)
    }

    /// Cuts the tunnel in both directions; the peer sees a reset.
    pub fn reset(&mut self) {
        self.with(Mux::cancel);
    }

    /// Ready when the peer has reset the tunnel, whether or not anything is being read or written. A peer that has ended its
    /// direction and wants nothing more of ours resets too; what it sent before can still be read. To be called by the task that reads.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.with(|mux, id| mux.poll_reset(id, cx))
    }

    /// As [`Self::poll_reset`], but only before the peer's direction has ended, for one who cannot pass on what arrives.
    pub(crate) fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.with(|mux, id| mux.poll_cut(id, cx))
    }

    /// Sends what `fill` puts into the places that it is given.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        fill: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> Poll<Result<usize, Unfilled>> {
        self.with(|mux, id| mux.poll_fill(id, cx, most, fill))
    }

    /// Passes on what has arrived: 0 at the end. The outer error is the tunnel's, the inner one that of `pass_on`.
    pub(crate) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        pass_on: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> Poll<io::Result<io::Result<usize>>> {
        self.with(|mux, id| mux.poll_drain(id, cx, pass_on))
    }

    /// Sends what `fill` gives of what the client says before the answer. What it gives stays in the client's socket.
    ///
    /// # Errors
    /// Those of `fill`.
    pub(crate) fn send_early(&mut self, fill: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>) -> io::Result<()> {
        let count = self.with(|mux, id| mux.send_early(id, fill))?;
        self.set_early(count);
        Ok(())
    }

    /// Bytes of the client that were sent before the answer.
    pub(crate) fn early(&self) -> u32 {
        self.early
    }

    /// As [`Self::early`], for the one who passes over them.
    pub(crate) fn take_early(&mut self) -> u32 {
        std::mem::take(&mut self.early)
    }

    /// Notes whether this tunnel carries bulk. Returns whether it belongs on the thread for bulk.
    pub(crate) fn note_bulk(&mut self, bulk: bool) -> bool {
        self.with(|mux, id| mux.note_bulk(id, bulk))
    }

    /// Bytes that have arrived and were not read.
    pub(crate) fn unread(&self) -> usize {
        self.link.lock().unread(self.id)
    }

    /// Whether the peer has ended its direction, even if that was not read yet.
    pub(crate) fn has_received_end(&self) -> bool {
        self.link.lock().has_received_end(self.id)
    }

    /// The answer to the request, on the client's side.
    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(StatusCode, HeaderMap), Unanswered>> {
        self.with(|mux, id| mux.poll_answer(id, cx))
    }

    /// Answers the request, on the server's side.
    pub(crate) fn respond(&mut self, status: StatusCode, headers: &HeaderMap, end: bool) -> io::Result<()> {
        self.with(|mux, id| mux.respond(id, status, headers, end))
    }

    /// Refuses the request as one that nobody has looked at, on the server's side.
    pub(crate) fn decline(self) {
        self.with(|mux, id| mux.reset(id, code::REFUSED_STREAM));
    }

    fn with<R>(&self, work: impl FnOnce(&mut Mux, u32) -> R) -> R {
        self.link.with(|mux| work(mux, self.id))
    }

    /// Sends a copy of as many of the first bytes of `from` as can be sent now.
    fn poll_copy(&mut self, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        if from.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let copy = |places: &mut [IoSliceMut<'_>]| {
            let mut left = from;
            for place in places {
                let count = left.len().min(place.len());
                left.copy_to_slice(place.get_mut(..count).unwrap_or_default());
            }
            Ok(from.len() - left.len())
        };
        self.poll_fill(cx, from.len(), copy).map_err(|(Unfilled::Tunnel(error) | Unfilled::Source(error))| error)
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let copy = |pieces: &[IoSlice<'_>]| {
            let before = buf.remaining();
            for piece in pieces {
                buf.put_slice(piece.get(..piece.len().min(buf.remaining())).unwrap_or_default());
            }
            Ok(before - buf.remaining())
        };
        ready!(self.poll_drain(cx, copy))??;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_copy(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task writes what was handed to it without being asked.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish())
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        self.with(Mux::let_go);
    }
}
