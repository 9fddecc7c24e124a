//! Receiving: from the transport to plaintext.

use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Stream,
    fault::{Failure, Fault},
    incoming::Event,
    transport::Receiving,
};

impl<T> Stream<T> {
    /// The next plaintext among the bytes that have arrived. None when more are needed, or the peer has closed.
    fn next_data(&mut self) -> Result<Option<Bytes>, Fault> {
        while let Receiving::Open(incoming) = &mut self.receiving {
            let Some(record) = self.inbox.next_record()? else { return Ok(None) };
            match incoming.take(record)? {
                Event::Data(bytes) => return Ok(Some(bytes)),
                Event::Nothing => {}
                Event::KeyUpdate { requested } => {
                    incoming.rekey(&self.schedule.next_rx().map_err(Fault::ours)?)?;
                    self.due |= requested;
                }
                Event::Closed => {
                    self.receiving = Receiving::Ended;
                    self.inbox.clear();
                }
            }
        }
        Ok(None)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream<T> {
    /// The next plaintext, at least one byte; none at the end in order, which is the peer's close_notify.
    ///
    /// The bytes lie in the buffer into which the transport was read, up to 256 KB, which lives as long as one of its pieces does.
    ///
    /// # Errors
    /// When TLS fails, the peer refuses us ([`crate::PeerError::from_io`] says why) or closes without close_notify
    /// ([`io::ErrorKind::UnexpectedEof`]), or the transport fails. Then the same again for each further call.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.rest))));
        }
        loop {
            match self.next_data() {
                Ok(Some(bytes)) => return Poll::Ready(Ok(Some(bytes))),
                Ok(None) => {}
                Err(fault) => {
                    let error = self.fail(&fault);
                    // If it cannot be written now, closing will do it.
                    let _later = self.poll_flush_own(cx);
                    return Poll::Ready(Err(error));
                }
            }
            match &self.receiving {
                Receiving::Open(_) => {}
                Receiving::Ended => return Poll::Ready(Ok(None)),
                Receiving::Failed(failure) => return Poll::Ready(Err(failure.to_error())),
            }
            match ready!(self.inbox.poll_fill(&mut self.io, cx)) {
                Ok(0) => self.give_up(Failure::Transport(io::ErrorKind::UnexpectedEof)),
                Ok(_) => {}
                Err(error) => {
                    self.give_up(Failure::Transport(error.kind()));
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}
