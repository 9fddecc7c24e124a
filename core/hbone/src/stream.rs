//! One tunnel: a stream of bytes each way.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{FlowControl, Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{connection::Slot, error::stream_error, window::Withheld};

/// An open tunnel.
///
/// Shutting down the writer half-closes it. Dropping it before that resets it, so that the peer can tell a cut from an end; dropping it
/// after that is like closing a socket: what was written still arrives, and the peer may write no more. What arrives is acknowledged to the sender only when it is read here, so a slow reader holds at most one stream window.
pub struct TunnelStream {
    send: SendStream<Bytes>,
    /// None once the peer's direction has ended.
    recv: Option<RecvStream>,
    flow: FlowControl,
    unread: Bytes,
    send_ended: bool,
    withheld: Arc<Withheld>,
    /// Our share of what is withheld.
    aside: usize,
    /// On the client's side: the place in its connection.
    slot: Option<Slot>,
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStream")
            .field("send_ended", &self.send_ended)
            .field("recv_ended", &self.recv.is_none())
            .finish_non_exhaustive()
    }
}

impl TunnelStream {
    pub(crate) fn new(send: SendStream<Bytes>, mut recv: RecvStream, withheld: Arc<Withheld>, slot: Option<Slot>) -> Self {
        let flow = recv.flow_control().clone();
        Self { send, recv: Some(recv), flow, unread: Bytes::new(), send_ended: false, withheld, aside: 0, slot }
    }

    /// The next bytes without a copy, or none at the end. Acknowledge them with [`TunnelStream::consumed`] once they are passed on.
    ///
    /// # Errors
    /// When the peer resets the tunnel or its connection is lost.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.unread.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.unread))));
        }
        let Some(recv) = &mut self.recv else { return Poll::Ready(Ok(None)) };
        loop {
            match ready!(recv.poll_data(cx)) {
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => return Poll::Ready(Ok(Some(chunk))),
                Some(Err(error)) => return Poll::Ready(Err(stream_error(&error))),
                None => break,
            }
        }
        self.recv = None;
        Poll::Ready(Ok(None))
    }

    /// Acknowledges `count` bytes of what [`TunnelStream::poll_chunk`] gave: the peer may send as many more.
    pub fn consumed(&mut self, count: usize) {
        let waited = count.min(self.aside);
        if waited > 0 {
            self.aside -= waited;
            self.withheld.subtract(waited);
        }
        // Fails only for more than was received or on a stream that is over; then there is nothing to acknowledge.
        let _over = self.flow.release_capacity(count);
    }

    /// Says that `count` bytes of what [`TunnelStream::poll_chunk`] gave will wait for a slow reader, so that tunnels beside this one
    /// are not held up by them. They still count for this one.
    pub fn set_aside(&mut self, count: usize) {
        self.aside += count;
        self.withheld.add(count);
    }

    /// Sends as much of `chunk` as the peer's window and our buffer allow, without a copy, and takes it off its front.
    ///
    /// # Errors
    /// When the peer resets the tunnel or its connection is lost.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>> {
        if chunk.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.poll_room(cx, chunk.len()))?;
        let part = chunk.split_to(room.min(chunk.len()));
        let count = part.len();
        self.send.send_data(part, false).map_err(|e| stream_error(&e))?;
        Poll::Ready(Ok(count))
    }

    /// Ends our direction. What was sent before still arrives.
    ///
    /// # Errors
    /// When the tunnel is reset already.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.send_ended {
            return Ok(());
        }
        self.send_ended = true;
        self.send.send_data(Bytes::new(), true).map_err(|e| stream_error(&e))
    }

    /// Cuts the tunnel in both directions; the peer sees a reset.
    pub fn reset(&mut self) {
        if !self.send_ended || self.recv.is_some() {
            self.send.send_reset(Reason::CANCEL);
            self.send_ended = true;
            self.recv = None;
        }
    }

    /// Ready when the peer has reset the tunnel, whether or not anything is being read or written. A peer that has ended its
    /// direction and wants nothing more of ours resets too; what it sent before can still be read.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match ready!(self.send.poll_reset(cx)) {
            Ok(reason) => {
                let text = format!("the peer reset the tunnel ({reason})");
                Poll::Ready(io::Error::new(io::ErrorKind::ConnectionReset, text))
            }
            Err(error) => Poll::Ready(stream_error(&error)),
        }
    }

    /// Waits until at least one and at most `wanted` bytes may be sent.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        if self.send_ended {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "this direction of the tunnel has ended")));
        }
        loop {
            self.send.reserve_capacity(wanted);
            let room = self.send.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(stream_error(&error))),
                None => {
                    let error = match self.poll_reset(cx) {
                        Poll::Ready(error) => error,
                        Poll::Pending => io::Error::new(io::ErrorKind::BrokenPipe, "the tunnel is closed"),
                    };
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let Some(mut chunk) = ready!(self.poll_chunk(cx))? else { return Poll::Ready(Ok(())) };
        let count = chunk.len().min(buf.remaining());
        buf.put_slice(&chunk.split_to(count));
        self.unread = chunk;
        self.consumed(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.poll_room(cx, buf.len()))?;
        let mut from = buf;
        let part = from.copy_to_bytes(room.min(buf.len()));
        let count = part.len();
        self.send.send_data(part, false).map_err(|e| stream_error(&e))?;
        Poll::Ready(Ok(count))
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
        self.withheld.subtract(self.aside);
        if !self.send_ended {
            self.reset();
        } else if let (Some(recv), Some(slot)) = (self.recv.take(), self.slot.take()) {
            // The framing would reset the stream, and on the client's side that overtakes what we wrote before.
            slot.part(recv);
        }
    }
}
