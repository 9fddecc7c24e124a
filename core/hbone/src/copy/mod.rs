//! The byte pump: joins a tunnel with a TCP connection, or any two sides, and counts while it goes.

pub(crate) mod early;
mod pair;
mod pump;
mod side;

use std::{
    future::poll_fn,
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    task::Context,
};

use futures::task::AtomicWaker;

use tokio::net::TcpStream;

use crate::TunnelStream;
use pair::Pair;
pub use side::{Side, TcpSide};

/// Bytes carried so far. Others may read them while the pump runs, and end it.
#[derive(Debug, Default)]
pub struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    /// One direction has come to its end.
    half: AtomicBool,
    cut: AtomicBool,
    /// The pump.
    waker: AtomicWaker,
}

impl Counters {
    /// Counts bytes that were carried without a pump.
    pub fn add(&self, sent: u64, received: u64) {
        self.sent.fetch_add(sent, Ordering::Relaxed);
        self.received.fetch_add(received, Ordering::Relaxed);
    }

    /// Whether one direction has come to its end, and the other not yet.
    #[must_use]
    pub fn is_half_open(&self) -> bool {
        self.half.load(Ordering::Relaxed)
    }

    /// Ends the pump, which resets both sides.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether [`Self::cut`] was called.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// Whether the pump is to end. Its task is woken when it is, by the first context that this is called with.
    fn watch(&self, cx: &Context<'_>, watched: &mut bool) -> bool {
        if !std::mem::replace(watched, true) {
            self.waker.register(cx.waker());
        }
        self.is_cut()
    }

    fn note_half_open(&self) {
        self.half.store(true, Ordering::Relaxed);
    }

    /// Bytes carried into the first side (the tunnel).
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes carried out of the first side (the tunnel).
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// How a pump ended.
#[derive(Debug)]
pub struct Outcome {
    /// Bytes carried into the first side (the tunnel).
    pub sent: u64,
    /// Bytes carried out of the first side (the tunnel).
    pub received: u64,
    /// What ended it.
    pub ended_by: EndedBy,
}

/// What ended a pump.
#[derive(Debug)]
pub enum EndedBy {
    /// Both directions came to their end.
    Finished,
    /// The first side (the tunnel) failed; the other was reset.
    First(io::Error),
    /// The second side (the TCP connection) failed; the other was reset.
    Second(io::Error),
    /// [`Counters::cut`]; both were reset.
    Cut,
}

impl EndedBy {
    /// The failure, if it was one.
    #[must_use]
    pub fn error(&self) -> Option<&io::Error> {
        match self {
            Self::Finished | Self::Cut => None,
            Self::First(error) | Self::Second(error) => Some(error),
        }
    }
}

impl AsRef<Self> for Counters {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Outcome {
    fn of(counters: &Counters, ended_by: EndedBy) -> Self {
        Self { sent: counters.sent(), received: counters.received(), ended_by }
    }
}

/// Carries bytes both ways between a tunnel and a TCP connection until both directions have ended or one side fails. The end of one
/// direction is passed on while the other goes on; a failure of one side resets the other. Dropping the future resets both. Bytes that went
/// with the request for the tunnel ([`crate::Pool::connect_for`]) are passed over in `tcp`, and count as sent.
pub fn pump<C>(tunnel: TunnelStream, tcp: TcpStream, counters: C) -> impl Future<Output = Outcome> + Send + Unpin + use<C>
where
    C: AsRef<Counters> + Send + Unpin,
{
    pump::Pump::new(tunnel, tcp, counters)
}

/// As [`pump`], between any two sides; not for a tunnel of [`crate::Pool::connect_for`].
pub fn join<A: Side, B: Side, C: AsRef<Counters>>(
    first: A,
    second: B,
    counters: C,
) -> impl Future<Output = Outcome> + use<A, B, C> {
    // Made before the future is first polled, so that both are reset even if it never is.
    let mut pair = Pair::new(first, second);
    poll_fn(move |cx| pair.poll(cx, counters.as_ref()).map(|ended_by| Outcome::of(counters.as_ref(), ended_by)))
}
