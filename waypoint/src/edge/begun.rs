//! A client's connection of which the first bytes were read, to be passed on with them.

use std::{
    io,
    task::{Context, Poll},
};

use ambit_hbone::copy::{Side, TcpSide};
use bytes::Bytes;
use tokio::net::TcpStream;

/// The connection, as one side of a pump.
#[derive(Debug)]
pub struct Begun {
    /// What was read of it, until it is passed on.
    first: Bytes,
    rest: TcpSide,
}

impl Begun {
    /// `stream` after `first`.
    pub fn new(first: Bytes, stream: TcpStream) -> Self {
        Self { first, rest: stream.into() }
    }
}

impl Side for Begun {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.first))));
        }
        self.rest.poll_chunk(cx)
    }

    fn reads_ahead(&self) -> bool {
        self.rest.reads_ahead()
    }

    fn consumed(&mut self, count: usize) {
        // A socket is told nothing of that.
        self.rest.consumed(count);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>> {
        self.rest.poll_send(cx, chunk)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.rest.poll_finish(cx)
    }

    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.rest.poll_failed(cx)
    }

    fn reset(&mut self) {
        self.rest.reset();
    }
}
