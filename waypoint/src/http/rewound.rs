//! A client's connection as the HTTP server reads it: first the bytes that were looked at, then the rest.
//!
//! A client may end its direction once its request is complete and still read the answer. A server that looks for the end of the
//! connection while it works, to notice clients that left, would take that for leaving; so the end is held back while an answer is
//! awaited, and a reset is not.
//!
//! A client may take its time between two requests, and not within the head of one: the time of a head begins with its first byte. A clock is set
//! only where a head does not come at once.
//!
//! What could be read in two ways (`ambiguous`) does not get to the server. It is given a line in its place that is none: so it answers what came
//! before, and this with 400, and closes the connection.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use ambit_hbone::copy::Side;
use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{Downstream, ambiguous::Framing};

/// No line of a head has such a byte, wherever in it this comes.
const REFUSED: &[u8] = b"\0\r\n\r\n";

const IDLE: u8 = 0;
const RECEIVING: u8 = 1;
const WAITING: u8 = 2;
const UPGRADED: u8 = 3;
/// It is answered, and its body still comes.
const TRAILING: u8 = 4;

/// Where the exchange on a connection of one request at a time stands.
#[derive(Debug, Clone, Default)]
pub struct Phase(Arc<Exchange>);

#[derive(Debug, Default)]
struct Exchange {
    state: AtomicU8,
    /// How many requests have begun.
    begun: AtomicU32,
    /// How many of them have ended.
    ended: AtomicU32,
    /// The head of one took too long.
    late: AtomicBool,
    /// The connection has ended, or can carry nothing any more.
    gone: AtomicBool,
}

impl Phase {
    /// A request has begun; its end is here already if `complete`. It is over when the guard is dropped.
    pub fn begin(&self, complete: bool) -> Over {
        self.0.begun.fetch_add(1, Ordering::AcqRel);
        self.0.state.store(if complete { WAITING } else { RECEIVING }, Ordering::Release);
        Over(self.clone())
    }

    /// The request has come to its end. Of no effect when all of the exchange already has.
    pub fn complete(&self) {
        let next = |state| match state {
            RECEIVING => Some(WAITING),
            TRAILING => Some(IDLE),
            _ => None,
        };
        let _over = self.0.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// No more requests come: what follows is of another protocol.
    pub fn upgraded(&self) {
        self.0.state.store(UPGRADED, Ordering::Release);
    }

    /// Whether the connection was ended because the head of a request took too long.
    pub fn late(&self) -> bool {
        self.0.late.load(Ordering::Acquire)
    }

    /// Whether the connection has ended, by whomever. It is said before those learn of it whose requests were on it.
    pub fn is_gone(&self) -> bool {
        self.0.gone.load(Ordering::Acquire)
    }

    fn goes(&self) {
        self.0.gone.store(true, Ordering::Release);
    }

    /// Completes when no request has begun, ended or been under way for `limit`, or for up to twice as long.
    pub async fn idle(&self, limit: Duration) {
        let counts = || (self.0.begun.load(Ordering::Acquire), self.0.ended.load(Ordering::Acquire));
        loop {
            let (begun, ended) = counts();
            tokio::time::sleep(limit).await;
            if begun == ended && counts() == (begun, ended) {
                return;
            }
        }
    }

    fn is(&self, state: u8) -> bool {
        self.0.state.load(Ordering::Acquire) == state
    }
}

/// Ends an exchange when dropped.
#[derive(Debug)]
pub struct Over(Phase);

impl Over {
    /// The exchange that it ends, and those beside it.
    pub fn phase(&self) -> Phase {
        self.0.clone()
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        let ended = |state| match state {
            UPGRADED => None,
            // What comes next is not the head of another request.
            RECEIVING => Some(TRAILING),
            _ => Some(IDLE),
        };
        self.0.0.ended.fetch_add(1, Ordering::AcqRel);
        let _unless_upgraded = self.0.0.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, ended);
    }
}

/// A connection whose first bytes are read again.
#[derive(Debug)]
pub struct Rewound {
    prefix: Bytes,
    stream: Downstream,
    phase: Phase,
    /// The longest that the head of a request may take; `None` for no limit.
    limit: Option<Duration>,
    /// The one that has begun.
    head: Option<Head>,
    read: Read,
}

/// How a connection is read.
#[derive(Debug)]
enum Read {
    /// As it comes.
    AsIs,
    /// As HTTP/1.1.
    Strictly(Box<Framing>),
    /// What is put back is the last that is read: it is refused.
    Refused,
    /// It is broken off.
    Broken,
}

/// The head of a request that has begun to come.
#[derive(Debug)]
struct Head {
    /// When it must have come.
    until: Instant,
    /// Tells when that is, once it is waited for.
    clock: Option<Pin<Box<Sleep>>>,
    /// How many requests had begun before it.
    before: u32,
}

impl Rewound {
    /// `stream` after `prefix`.
    pub fn new(prefix: Bytes, stream: Downstream) -> Self {
        Self { prefix, stream, phase: Phase::default(), limit: None, head: None, read: Read::AsIs }
    }

    /// The head of each request must come within `limit` of its first byte.
    #[must_use]
    pub fn with_head_limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// It is HTTP/1.1, and what could be read in two ways is refused.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.read = Read::Strictly(Box::default());
        self
    }

    /// Fails when the head of a request has taken too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let begun = self.phase.0.begun.load(Ordering::Acquire);
        // A head that was complete made a request begin.
        self.head.take_if(|head| head.before != begun);
        let Some(Head { until, clock, .. }) = &mut self.head else { return Poll::Pending };
        ready!(clock.get_or_insert_with(|| Box::pin(sleep_until(*until))).as_mut().poll(cx));
        self.phase.0.late.store(true, Ordering::Release);
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the head of a request took too long"))
    }

    /// Bytes were read.
    fn arrived(&mut self) {
        if let (Some(limit), None, true) = (self.limit, &self.head, self.phase.is(IDLE)) {
            let (until, before) = (Instant::now() + limit, self.phase.0.begun.load(Ordering::Acquire));
            self.head = Some(Head { until, clock: None, before });
        }
    }

    /// Leaves of what was read, which begins `before`, what can be read in one way only.
    fn look(&mut self, buf: &mut ReadBuf<'_>, before: usize) -> io::Result<()> {
        let Read::Strictly(framing) = &mut self.read else { return Ok(()) };
        if self.phase.is(UPGRADED) {
            return Ok(());
        }
        let Err(fault) = framing.pass(buf.filled().get(before..).unwrap_or_default()) else { return Ok(()) };
        // What is wrong in a body cannot be answered in the middle of it. And where another protocol was asked for, what comes may be of that,
        // and so would be what is put in its place.
        let broken = fault.in_body || framing.may_switch();
        buf.set_filled(before + fault.good);
        if broken {
            self.read = Read::Broken;
            self.prefix.clear();
            if fault.good > 0 {
                return Ok(());
            }
            self.phase.goes();
            return Err(in_two_ways());
        }
        self.read = Read::Refused;
        self.prefix = Bytes::from_static(REFUSED);
        // Nothing at all would be the end of the connection.
        if fault.good == 0 {
            self.put_back(buf);
        }
        Ok(())
    }

    /// Has the bytes read again that were looked at.
    fn put_back(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.prefix.len().min(buf.remaining());
        buf.put_slice(self.prefix.get(..count).unwrap_or_default());
        self.prefix.advance(count);
    }

    /// Where the exchange on this connection stands, to be kept up to date by whoever serves it.
    pub fn phase(&self) -> Phase {
        self.phase.clone()
    }
}

impl Drop for Rewound {
    fn drop(&mut self) {
        self.phase.goes();
    }
}

fn in_two_ways() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what came could be read in two ways")
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(late) = self.poll_late(cx) {
            return Poll::Ready(Err(late));
        }
        match self.read {
            Read::Refused if self.prefix.is_empty() => return Poll::Ready(Ok(())),
            Read::Broken => {
                self.phase.goes();
                return Poll::Ready(Err(in_two_ways()));
            }
            Read::AsIs | Read::Strictly(_) | Read::Refused => {}
        }
        let before = buf.filled().len();
        if self.prefix.is_empty() {
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
            if read.is_err() {
                self.phase.goes();
            } else if buf.filled().len() > before {
                self.arrived();
                return Poll::Ready(self.look(buf, before));
            } else if buf.remaining() > 0 {
                if self.phase.is(WAITING) {
                    return self.stream.poll_left(cx).map(Err);
                }
                self.phase.goes();
            }
            return Poll::Ready(read);
        }
        self.put_back(buf);
        self.arrived();
        Poll::Ready(self.look(buf, before))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        if written.is_err() {
            self.phase.goes();
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Side for Rewound {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.prefix.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.prefix))));
        }
        self.stream.poll_chunk(cx)
    }

    fn consumed(&mut self, count: usize) {
        // The bytes put back were acknowledged when they were first read; acknowledging them again only widens the window by as much.
        self.stream.consumed(count);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>> {
        self.stream.poll_send(cx, chunk)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_finish(cx)
    }

    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.stream.poll_failed(cx)
    }

    fn reset(&mut self) {
        self.stream.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_of_a_body_after_its_answer_is_not_taken_for_a_head() {
        let phase = Phase::default();
        let over = phase.begin(false);
        drop(over);
        assert!(phase.is(TRAILING));
        phase.complete();
        assert!(phase.is(IDLE));
        let over = phase.begin(false);
        phase.complete();
        assert!(phase.is(WAITING));
        drop(over);
        assert!(phase.is(IDLE));
        // A body that nobody read to its end.
        drop(phase.begin(false));
        let _over = phase.begin(true);
        assert!(phase.is(WAITING));
    }

    #[tokio::test]
    async fn a_connection_is_gone_once_its_end_was_read_or_nobody_has_it_any_more() {
        let pair = async || {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            (client, Rewound::new(Bytes::from_static(b"a"), listener.accept().await.unwrap().0.into()))
        };
        let (mut client, mut stream) = pair().await;
        let phase = stream.phase();
        tokio::io::AsyncWriteExt::write_all(&mut client, b"b").await.unwrap();
        drop(client);
        let mut read = [0; 2];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut read).await.unwrap();
        assert!(read == *b"ab" && !phase.is_gone(), "its end was not read yet");
        assert_eq!(tokio::io::AsyncReadExt::read(&mut stream, &mut read).await.unwrap(), 0);
        assert!(phase.is_gone());
        let (_client, stream) = pair().await;
        let phase = stream.phase();
        assert!(!phase.is_gone());
        drop(stream);
        assert!(phase.is_gone());
    }

    #[tokio::test]
    async fn a_connection_is_idle_once_no_request_is_under_way() {
        let (phase, limit) = (Phase::default(), Duration::from_millis(10));
        let over = phase.begin(true);
        assert!(tokio::time::timeout(limit * 10, phase.idle(limit)).await.is_err());
        drop(over);
        tokio::time::timeout(limit * 1000, phase.idle(limit)).await.unwrap();
    }
}
