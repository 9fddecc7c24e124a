//! The one who owns a connection's transport: reads, lets frames do their work, seals and writes, and keeps the time.
//!
//! In one turn everything that has arrived is read and all tunnels that it concerns are woken; what they send in answer is collected and
//! goes out in the next turn, sealed and written at once.

mod clock;
mod ending;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use clock::REST;
pub(crate) use clock::after;

use crate::{
    Settings, aside,
    frame::{Decoder, Limits, code},
    mux::{Batch, Failure, Link, Mux, Role, Shape},
    pace,
    transport::Transport,
};

/// Less memory than this, or traffic that needs no more, is not worth a look at the clock.
const SMALL: usize = 1 << 10;
/// Bytes that are read before what waits is made to hold only the memory that it needs.
const COMPACT: usize = 32 << 20;
/// The ping after which it is known which tunnels are the last.
const LAST_CALL: [u8; 8] = *b"lastcall";

/// The times that a driver keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) ping_interval: Duration,
    pub(crate) ping_timeout: Duration,
    /// How long a header block may take.
    pub(crate) header: Duration,
    /// How long the peer may take until it has begun.
    pub(crate) preface: Option<Duration>,
    /// Closed after so long without a tunnel: for the client's side.
    pub(crate) idle: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// Over: what is left is written.
    Flushing,
    /// The transport is told.
    Closing,
    /// The peer has to read what was written before the connection goes away under it.
    Lingering,
    Over,
}

/// How a connection ended: an error unless it was in order.
pub(crate) type Ended = Result<(), Failure>;

/// Drives one connection. Dropping it ends the connection, and every tunnel in it.
pub(crate) struct Driver<T> {
    io: T,
    link: Arc<Link>,
    decoder: Decoder,
    /// Sealed, and being written.
    batch: Batch,
    written: usize,
    wakes: Vec<Waker>,
    phase: Phase,
    ended: Ended,
    times: Times,
    timer: Pin<Box<Sleep>>,
    next_ping: Instant,
    /// When the answer to our ping must be there.
    pong_by: Option<Instant>,
    /// What our last ping says: a peer that does not read it cannot answer it.
    alive: [u8; 8],
    /// Something has come since the timer last looked.
    heard: bool,
    /// Bytes read since what waits was compacted.
    read: usize,
    begun_by: Option<Instant>,
    /// The number of the header block that has begun, and when it must be there.
    block_by: Option<(u32, Instant)>,
    /// Something went in or out since the timer last looked.
    busy: bool,
    /// The timer looks again soon.
    watches: bool,
    /// On the server's side: no further tunnels.
    shutting: bool,
    /// It was on the thread for bulk when it was last polled.
    aside: bool,
}

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        // Handles of tunnels may live longer.
        let gone = || Failure::lost(io::ErrorKind::BrokenPipe, "its task was ended");
        self.link.with(|mux| mux.fail(self.ended.clone().err().unwrap_or_else(gone)));
    }
}

impl<T: Transport> Driver<T> {
    /// Begins a connection; nothing is written before the first poll.
    pub(crate) fn new(io: T, role: Role, settings: &Settings, times: Times) -> Self {
        let shape = Shape::of(&io);
        let limits = Limits::new(settings.max_frame_size, settings.max_header_bytes);
        let decoder = if role == Role::Client { Decoder::client(limits) } else { Decoder::server(limits) };
        let now = Instant::now();
        Self {
            io,
            link: Arc::new(Link::new(Mux::new(role, settings, shape))),
            decoder,
            batch: Batch::new(shape),
            written: 0,
            wakes: Vec::new(),
            phase: Phase::Running,
            ended: Ok(()),
            times,
            timer: Box::pin(tokio::time::sleep_until(now + REST)),
            next_ping: after(now, times.ping_interval),
            pong_by: None,
            alive: [0; 8],
            heard: false,
            read: 0,
            block_by: None,
            begun_by: times.preface.map(|limit| after(now, limit)),
            busy: true,
            watches: true,
            shutting: false,
            aside: false,
        }
        .timed(now)
    }

    fn timed(mut self, now: Instant) -> Self {
        let next = self.next_look(now, None);
        self.timer.as_mut().reset(next);
        self
    }

    /// The state that handles of tunnels share with this driver.
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Whether the peer has begun to speak HTTP/2.
    pub(crate) fn has_begun(&self) -> bool {
        self.decoder.begun()
    }

    /// Asks the client to open no more tunnels, and ends when those that are open have. For the server's side.
    pub(crate) fn shut(&mut self) {
        self.shutting = true;
        self.link.with(|mux| mux.shut(LAST_CALL));
    }

    /// Ends the connection with its tunnels.
    pub(crate) fn cut(&mut self) {
        self.end(Ok(()), code::NO_ERROR);
    }

    /// Goes on until nothing more can be done now.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if std::mem::replace(&mut self.aside, aside::is_aside()) != aside::is_aside() {
            self.io.move_here();
        }
        self.link.lock().unpark();
        let mut bulk = false;
        let mut blocked = false;
        if matches!(self.phase, Phase::Running | Phase::Flushing) {
            match self.poll_output(cx) {
                Ok(Output::Written) => {}
                Ok(Output::Blocked) => blocked = true,
                Ok(Output::More) => bulk = true,
                Err(error) => self.broken(cx, error),
            }
        }
        if self.phase == Phase::Running {
            bulk |= self.poll_input(cx);
        }
        while self.timer.as_mut().poll(cx).is_ready() && self.phase != Phase::Over {
            self.look();
        }
        if self.phase == Phase::Running {
            self.settle();
        }
        self.poll_ending(cx, blocked);
        if self.phase == Phase::Over {
            let (link, ended) = (Arc::clone(&self.link), self.ended.clone());
            link.with(|mux| mux.fail(ended.clone().err().unwrap_or(Failure::Closed)));
            return Poll::Ready(ended);
        }
        self.park(cx, bulk, blocked);
        Poll::Pending
    }

    /// Wakes whom this turn concerns, and then sleeps, or lets them run before the next turn; with `bulk` also those of whom only the kernel
    /// knows yet.
    fn park(&mut self, cx: &mut Context<'_>, bulk: bool, blocked: bool) {
        let mut mux = self.link.lock();
        mux.note_pressure(blocked);
        mux.note_output(self.batch.capacity());
        let more = mux.grant() && !blocked;
        mux.take_wakes(&mut self.wakes);
        let writable = matches!(self.phase, Phase::Running | Phase::Flushing) && mux.has_output() && !blocked;
        let again = bulk || more || writable || mux.is_urgent();
        if mux.belongs_aside(self.aside) != self.aside && (self.aside || aside::is_home()) {
            aside::wish();
        }
        if !again {
            mux.park(cx.waker(), blocked);
        }
        drop(mux);
        self.wakes.drain(..).for_each(Waker::wake);
        if bulk {
            pace::give_way(cx);
        } else if again {
            cx.waker().wake_by_ref();
        }
        if self.busy && !self.watches {
            self.watches = true;
            let soon = Instant::now() + REST;
            if soon < self.timer.deadline() {
                self.timer.as_mut().reset(soon);
                // So that its end wakes this task.
                let _still = self.timer.as_mut().poll(&mut Context::from_waker(cx.waker()));
            }
        }
    }

    /// Writes the batch at hand, then takes, seals and writes the next.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> io::Result<Output> {
        let (mut work, turn) = (0, pace::turn());
        loop {
            while let Some(left) = self.batch.as_slice().get(self.written..).filter(|left| !left.is_empty()) {
                match self.io.poll_write(cx, left) {
                    Poll::Pending => return Ok(Output::Blocked),
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(count)) => {
                        self.written += count;
                        work += count;
                    }
                    Poll::Ready(Err(error)) => return Err(error),
                }
            }
            self.batch.clear();
            self.written = 0;
            if work >= turn {
                return Ok(Output::More);
            }
            let Some(carrying) = self.link.lock().take(&mut self.batch) else { return Ok(Output::Written) };
            self.busy |= self.batch.capacity() > SMALL;
            self.decoder.progress(carrying);
            self.io.begin()?;
            let Self { batch, io, .. } = self;
            batch.seal(|piece| io.seal(piece))?;
        }
    }

    /// Reads what has arrived. Returns whether there may be more at once.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.link.lock().may_read() {
            return false;
        }
        let (mut work, turn) = (0, pace::turn());
        let mut end = None;
        while work < turn {
            match self.io.poll_chunk(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(Some(chunk))) => {
                    work += chunk.len();
                    self.decoder.push(chunk);
                }
                Poll::Ready(Ok(None)) => {
                    end = Some(None);
                    break;
                }
                Poll::Ready(Err(error)) => {
                    end = Some(Some(error));
                    break;
                }
            }
        }
        if work > 0 {
            self.busy |= work > SMALL;
            self.heard = true;
            self.read += work;
            self.decode();
        }
        if self.phase == Phase::Running {
            match end {
                None => return work >= turn,
                Some(None) => self.peer_closed(),
                Some(Some(error)) => {
                    self.fail(Failure::Lost(Arc::new(error)));
                    // The transport may have something to say about it.
                    self.close();
                }
            }
        }
        false
    }

    /// Lets the frames that have arrived do their work.
    fn decode(&mut self) {
        let mut mux = self.link.lock();
        let error = loop {
            let frame = match self.decoder.next() {
                Ok(Some(frame)) => Ok(frame),
                Ok(None) => break None,
                Err(error) => Err(error),
            };
            if let Err(error) = mux.receive(frame) {
                break Some(error);
            }
        };
        mux.take_wakes(&mut self.wakes);
        if self.read >= COMPACT {
            self.read = 0;
            mux.compact();
        }
        drop(mux);
        self.wakes.drain(..).for_each(Waker::wake);
        self.watch_block();
        if let Some(error) = error {
            let failure = Failure::from(error);
            let code = if let Failure::Protocol { code, .. } = failure { code } else { code::PROTOCOL_ERROR };
            self.end(Err(failure), code);
        }
    }
}

/// How far writing came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// Everything is written.
    Written,
    /// The transport takes no more for now.
    Blocked,
    /// There may be more, after others have had their turn.
    More,
}

impl<T: Transport> Future for Driver<T> {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        Driver::poll(&mut self, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drives_a_connection_is_small() {
        let size = size_of::<Driver<ambit_tls::Stream<tokio::net::TcpStream>>>();
        assert!(size <= 1536, "{size}");
    }
}
