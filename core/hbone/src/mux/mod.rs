//! The state of one connection of tunnels, for both roles, without I/O.
//!
//! The driver feeds it what the peer sends ([`Mux::receive`]) and takes what is to be written ([`Mux::take`]); the handles of tunnels
//! put bytes into the batch and take them out of inboxes. All of it is behind the one lock of [`Link`]: on a runtime of one thread it is
//! never contended. Who is to be woken is noted under the lock and woken after it.

mod batch;
mod credit;
mod failure;
mod held;
mod inbox;
mod link;
mod open;
mod places;
mod receive;
mod send;
mod stalled;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod user;

use std::{collections::VecDeque, task::Waker};

use http::HeaderMap;
use tokio::time::{Duration, Instant};

pub(crate) use batch::{Batch, Shape};
use credit::Credit;
use failure::Reset;
pub(crate) use failure::{Failure, Side};
pub use held::limit_unread;
pub(crate) use inbox::Inbox;
pub(crate) use link::Link;
pub(crate) use open::{EARLY, Opening, Unopenable};
pub(crate) use places::Places;
pub(crate) use send::Unfilled;
use stream::{Stream, Streams};
pub(crate) use user::Unanswered;

use crate::{
    Settings,
    frame::{Parameters, code, encode},
    hpack::Encoder,
    refused::{Refused, Tally},
};

/// Streams reset here whose frames under way are still expected for a while. Those of a stream that is forgotten would be answered
/// with a reset each.
const RESETS_REMEMBERED: usize = 1024;
/// Windows of RFC 9113, section 6.9.2, before anything else is said.
const FIRST_WINDOW: i64 = 65_535;
const LARGEST_WINDOW: i64 = (1 << 31) - 1;
/// Tunnels that a client opens before it knows how many the server allows.
const FIRST_STREAMS: usize = 100;
/// No more is read while so many bytes of answers (to pings, settings, frames of dead streams, requests) wait to be written. Two sides that both
/// do not read, for this reason, are ended by the pings that they do not answer.
const MOST_ANSWERS: usize = 64 << 10;
/// The largest number of a stream.
const LAST_STREAM: u32 = (1 << 31) - 1;

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    /// With the number of tunnels that the client may open.
    Server {
        most: u32,
    },
}

/// A request that has come to the server.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) stream: u32,
    pub(crate) authority: Option<String>,
    pub(crate) headers: HeaderMap,
}

/// What the peer has told of itself.
#[derive(Debug)]
struct Peer {
    initial_window: i64,
    max_frame: u32,
    max_streams: usize,
    /// Its settings have come.
    has_told: bool,
}

/// The state of a connection.
#[derive(Debug)]
pub(crate) struct Mux {
    role: Role,
    stream_window: u32,
    /// The most that one tunnel may have in the batch.
    send_buffer: usize,
    peer: Peer,
    streams: Streams,
    /// Streams that are open for the protocol.
    live: usize,
    /// The highest number used by the client.
    last: u32,
    /// Streams that we have reset, the oldest first.
    dead: VecDeque<u32>,
    credit: Credit,
    /// What we may send in all tunnels together.
    window: i64,
    batch: Batch,
    /// Number of the batch, so that nothing needs to be reset when it is taken.
    turn: u32,
    /// Tunnels that wait for room in the batch, or in the connection's window.
    waiting: VecDeque<u32>,
    /// Bytes in the batch that answer what the peer sent.
    answers: usize,
    /// Frames in the batch that carry something.
    carrying: u32,
    scratch: Vec<u8>,
    encoder: Encoder,
    wakes: Vec<Waker>,
    /// The driver while it sleeps.
    driver: Option<Waker>,
    /// The driver waits for the transport to take the batch before, so that more bytes are no news to it.
    blocked: bool,
    /// Since when there have been bytes that wait, after the transport, or the peer's window, was full.
    pressed: Option<Instant>,
    /// There are bytes to be written.
    stirred: bool,
    /// Something else has changed that the driver must see.
    urgent: bool,
    /// The server's requests that no handler has yet.
    requests: VecDeque<Request>,
    /// What was refused without a handler.
    refused: Tally,
    /// Those who wait for the peer's leave to open a tunnel.
    opening: Vec<Waker>,
    pub(crate) places: Places,
    /// Streams that are parting.
    parting: usize,
    /// Streams that carry bulk beside small requests.
    bulk: usize,
    failure: Option<Failure>,
    /// The peer's last word: it takes no more.
    away: bool,
    /// The last stream that we said we would look at.
    shutting: Option<u32>,
    /// The peer has taken our settings.
    acknowledged: bool,
    /// Nothing of the batch that was taken last has left.
    unwritten: bool,
    /// Our pings, and whether they were answered.
    pings: Vec<([u8; 8], bool)>,
}

impl Mux {
    /// The state at the beginning; our first frames are in the batch.
    pub(crate) fn new(role: Role, settings: &Settings, shape: Shape) -> Self {
        let mut mux = Self {
            role,
            stream_window: settings.stream_window,
            send_buffer: settings.send_buffer.max(1),
            peer: Peer { initial_window: FIRST_WINDOW, max_frame: 1 << 14, max_streams: FIRST_STREAMS, has_told: false },
            streams: Streams::default(),
            live: 0,
            last: 0,
            dead: VecDeque::new(),
            credit: Credit::new(settings.connection_window.max(65_535)),
            window: FIRST_WINDOW,
            batch: Batch::new(shape),
            turn: 0,
            waiting: VecDeque::new(),
            answers: 0,
            carrying: 0,
            scratch: Vec::new(),
            encoder: Encoder::new(),
            wakes: Vec::new(),
            driver: None,
            blocked: false,
            pressed: None,
            stirred: false,
            urgent: false,
            requests: VecDeque::new(),
            refused: Tally::default(),
            opening: Vec::new(),
            places: Places::new(Instant::now()),
            parting: 0,
            bulk: 0,
            failure: None,
            away: false,
            shutting: None,
            acknowledged: false,
            unwritten: false,
            pings: Vec::new(),
        };
        mux.begin(settings);
        mux
    }

    fn begin(&mut self, settings: &Settings) {
        let mut says = Parameters {
            initial_window_size: Some(settings.stream_window),
            max_frame_size: Some(settings.max_frame_size),
            max_header_list_size: Some(settings.max_header_bytes),
            ..Parameters::default()
        };
        match self.role {
            Role::Client => says.enable_push = Some(false),
            Role::Server { most } => says.max_concurrent_streams = Some(most),
        }
        let (client, wider) = (self.role == Role::Client, i64::from(settings.connection_window) - FIRST_WINDOW);
        self.control(|out| {
            if client {
                encode::preface(out);
            }
            encode::settings(out, &says);
            if let Ok(wider @ 1..) = u32::try_from(wider) {
                encode::window_update(out, 0, wider);
            }
        });
    }

    /// Puts frames of the connection itself into the batch.
    fn control(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut out = std::mem::take(&mut self.scratch);
        encode(&mut out);
        self.batch.append(&out);
        out.clear();
        self.scratch = out;
        self.stirred = true;
    }

    /// As [`Self::control`], for what the peer's frames bring about.
    fn answer_peer(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let before = self.batch.len();
        self.control(encode);
        self.answers += self.batch.len().saturating_sub(before);
    }

    /// Whether more may be read: not while the peer does not take our answers to what it sent before.
    pub(crate) fn may_read(&self) -> bool {
        self.answers < MOST_ANSWERS
    }

    /// Takes what is to be written, and leaves `empty` for what comes next. Says how many frames carry something.
    pub(crate) fn take(&mut self, empty: &mut Batch) -> Option<u32> {
        if self.batch.is_empty() {
            return None;
        }
        std::mem::swap(&mut self.batch, empty);
        self.turn = self.turn.wrapping_add(1);
        (self.answers, self.stirred) = (0, false);
        Some(std::mem::take(&mut self.carrying))
    }

    /// The connection is broken, and nothing of the batch that was taken last was written.
    pub(crate) fn not_written(&mut self) {
        self.unwritten = true;
    }

    /// Whether what was put into the batch of that number may have left.
    fn may_have_left(&self, turn: u32) -> bool {
        turn != self.turn && !(self.unwritten && turn == self.turn.wrapping_sub(1))
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Goes to sleep: `driver` is woken when there is something to do. `blocked`: the transport does not take what was to be written
    /// before, so that more of it is not worth waking for.
    pub(crate) fn park(&mut self, driver: &Waker, blocked: bool) {
        self.stirred = false;
        self.blocked = blocked;
        self.driver = Some(driver.clone());
    }

    /// A turn of the driver has ended. `blocked`: the transport takes no more for now.
    pub(crate) fn note_pressure(&mut self, blocked: bool) {
        if blocked || (self.window <= 0 && !self.waiting.is_empty()) {
            self.pressed.get_or_insert_with(Instant::now);
        } else if self.batch.is_empty() {
            self.pressed = None;
        }
    }

    /// Whether there have been bytes that wait all the time for so long: the connection carries less than its tunnels would. So it does
    /// with bulk in it, behind which all that is small would wait.
    pub(crate) fn is_pressed(&self, for_long: Duration) -> bool {
        self.bulk > 0 || self.pressed.is_some_and(|since| since.elapsed() >= for_long)
    }

    /// Notes whether a tunnel carries bulk. Returns whether it belongs on the thread for bulk.
    pub(crate) fn note_bulk(&mut self, id: u32, bulk: bool) -> bool {
        // What is left of one that has ended is its user's alone.
        let Some(stream) = self.streams.get_mut(id).filter(|stream| !stream.closed()) else { return false };
        if stream.bulk != bulk {
            stream.bulk = bulk;
            self.bulk = if bulk { self.bulk + 1 } else { self.bulk.saturating_sub(1) };
        }
        bulk && self.belongs_aside(false)
    }

    /// Whether the connection belongs on the thread for bulk: it is there and still carries some, or most of its tunnels do. Those that are
    /// small would wait for that thread whenever it has the lock.
    pub(crate) fn belongs_aside(&self, is_there: bool) -> bool {
        self.bulk > 0 && (is_there || self.live < 2 * self.bulk)
    }

    /// The driver is awake, and will see all that is so now.
    pub(crate) fn unpark(&mut self) {
        (self.driver, self.urgent) = (None, false);
    }

    /// Whether something has changed since [`Self::unpark`] that the driver must see.
    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Sends a ping.
    pub(crate) fn ping(&mut self, payload: [u8; 8]) {
        self.pings.push((payload, false));
        self.control(|out| encode::ping(out, payload));
    }

    /// Whether our ping `payload` was answered; true once.
    pub(crate) fn take_pong_of(&mut self, payload: [u8; 8]) -> bool {
        self.pings.iter().position(|ping| *ping == (payload, true)).map(|at| self.pings.remove(at)).is_some()
    }

    /// Ends everything: every tunnel fails with `failure`, if it has not ended before.
    pub(crate) fn fail(&mut self, failure: Failure) {
        if self.failure.is_some() {
            return;
        }
        self.failure = Some(failure);
        self.places.close();
        for stream in self.streams.iter_mut() {
            stream.stir(&mut self.wakes);
        }
        self.wakes.append(&mut self.opening);
        self.end_partings(None);
        (self.live, self.waiting) = (0, VecDeque::new());
        self.requests.clear();
        self.urgent = true;
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Tells the peer that the connection is over, and ends it.
    pub(crate) fn goodbye(&mut self, code: u32, failure: Failure) {
        if self.failure.is_none() {
            let last = if self.role == Role::Client { 0 } else { self.shutting.unwrap_or(self.last).min(self.last) };
            self.control(|out| encode::goaway(out, last, code));
        }
        self.fail(failure);
    }

    /// Asks the client to open no more tunnels; which ones still come is known when it has answered the ping that follows.
    pub(crate) fn shut(&mut self, ping: [u8; 8]) {
        self.shutting = Some(LAST_STREAM);
        self.control(|out| encode::goaway(out, LAST_STREAM, code::NO_ERROR));
        self.ping(ping);
    }

    /// The client knows: says which tunnels are the last.
    pub(crate) fn shut_finally(&mut self) {
        let last = self.last;
        self.shutting = Some(last);
        self.control(|out| encode::goaway(out, last, code::NO_ERROR));
    }

    /// Whether no tunnel is open or will be.
    pub(crate) fn is_over(&self) -> bool {
        match self.role {
            Role::Client => self.places.is_done(),
            Role::Server { .. } => {
                // Also those that have ended: their handlers may still pass on what they have received.
                self.streams.is_empty() && self.shutting.is_some_and(|last| last < LAST_STREAM)
            }
        }
    }

    /// The next request for a handler.
    pub(crate) fn take_request(&mut self) -> Option<Request> {
        while let Some(request) = self.requests.pop_front() {
            if self.streams.get(request.stream).is_some_and(|stream| stream.reset.is_none()) {
                return Some(request);
            }
            // Given up before anybody looked at it.
            self.remove(request.stream);
        }
        None
    }

    /// What was refused since the last call.
    pub(crate) fn take_refused(&mut self) -> Option<Tally> {
        (!self.refused.is_empty()).then(|| std::mem::take(&mut self.refused))
    }

    /// Notes that a request was refused that no handler looked at.
    pub(crate) fn note_refused(&mut self, refused: Refused) {
        self.refused.count(refused);
    }

    /// What the peer may send in a new stream: at least what it assumes as long as it has not taken our settings.
    fn first_receive_window(&self) -> i64 {
        let window = i64::from(self.stream_window);
        if self.acknowledged { window } else { window.max(FIRST_WINDOW) }
    }

    /// Those to be woken once the lock is released.
    pub(crate) fn take_wakes(&mut self, into: &mut Vec<Waker>) {
        into.append(&mut self.wakes);
    }

    /// What has waited for a while no longer holds the buffers into which it was read.
    pub(crate) fn compact(&mut self) {
        for stream in self.streams.iter_mut() {
            stream.inbox.compact();
        }
    }

    /// Notes the memory for what is to be sent, `beside` that in the batch.
    pub(crate) fn note_output(&mut self, beside: usize) {
        let output = self.batch.capacity() + beside;
        self.credit.account.set_output(output);
    }

    /// Some time has passed: the batch keeps as much memory as was needed meanwhile, and no more is counted than is held. `beside`: as for
    /// [`Self::note_output`].
    pub(crate) fn settle(&mut self, beside: usize) {
        self.batch.settle();
        let output = self.batch.capacity() + beside;
        self.credit.settle(output);
    }

    /// Nothing has happened for a while: gives memory back.
    pub(crate) fn rest(&mut self) {
        self.streams.shrink();
        self.scratch = Vec::new();
        self.opening.shrink_to_fit();
        self.wakes.shrink_to_fit();
        self.waiting.shrink_to_fit();
        self.requests.shrink_to_fit();
        if self.live == 0 {
            // What the peer had under way when it was reset has arrived since.
            self.dead = VecDeque::new();
        }
    }
}
