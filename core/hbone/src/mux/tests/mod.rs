//! The state of a connection against frames made by hand.

mod endings;
pub(crate) mod fuzz;
mod partings;
mod requests;
mod sending;
mod stalled;
mod windows;

use std::{
    io::{IoSlice, IoSliceMut},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake},
};

use bytes::Bytes;
use http::StatusCode;

use super::*;
use crate::frame::{Decoder, Frame, FrameError, Limits};

const PLAIN: Shape = Shape { head: 0, tail: 0, most: 16 << 10 };
const SEALED: Shape = Shape { head: 5, tail: 17, most: 16 << 10 };

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Bell {
    fn rung(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// One end of a connection, and the peer's view of it.
struct End {
    mux: Mux,
    /// What the peer sends, on its way here.
    inward: Decoder,
    /// What it sends, on its way to the peer.
    outward: Decoder,
    peers: Encoder,
}

fn small_windows() -> Settings {
    Settings { stream_window: 100_000, connection_window: 300_000, ..Settings::default() }
}

impl End {
    fn new(role: Role, settings: &Settings) -> Self {
        let limits = Limits::new(1 << 20, 16 << 10);
        let (inward, outward) = match role {
            Role::Client => (Decoder::client(limits), Decoder::server(limits)),
            Role::Server { .. } => (Decoder::server(limits), Decoder::client(limits)),
        };
        let mut end = Self { mux: Mux::new(role, settings, PLAIN), inward, outward, peers: Encoder::new() };
        end.hears(|out, _| {
            if role != Role::Client {
                encode::preface(out);
            }
            encode::settings(out, &Parameters { initial_window_size: Some(1 << 20), ..Parameters::default() });
            encode::settings_ack(out);
            encode::window_update(out, 0, 100 << 20);
        })
        .unwrap();
        end.says();
        end
    }

    fn server() -> Self {
        Self::new(Role::Server { most: 50 }, &small_windows())
    }

    fn client() -> Self {
        Self::new(Role::Client, &small_windows())
    }

    /// A server with the tunnels 1, 3, 5 and so on, accepted.
    fn server_with(tunnels: u32) -> Self {
        let mut end = Self::server();
        for id in (0..tunnels).map(|n| 2 * n + 1) {
            end.asks(id).unwrap();
            end.mux.take_request().unwrap();
            end.mux.respond(id, StatusCode::OK, &HeaderMap::new(), false).unwrap();
        }
        end.says();
        end
    }

    /// A client with one tunnel that stands.
    fn client_with_tunnel() -> Self {
        let mut end = Self::client();
        assert!(end.mux.take_place(10));
        end.opens().unwrap();
        end.answers(1, StatusCode::OK, false).unwrap();
        end.says();
        end
    }

    fn opens(&mut self) -> Option<u32> {
        let opening = Opening { authority: "10.0.0.1:80", headers: &HeaderMap::new() };
        match self.mux.poll_open(&Context::from_waker(Waker::noop()), opening) {
            Poll::Ready(opened) => opened.ok(),
            Poll::Pending => None,
        }
    }

    /// The peer sends frames.
    fn hears(&mut self, encode: impl FnOnce(&mut Vec<u8>, &mut Encoder)) -> Result<(), FrameError> {
        let mut bytes = Vec::new();
        encode(&mut bytes, &mut self.peers);
        self.inward.push(bytes.into());
        loop {
            match self.inward.next() {
                Ok(Some(frame)) => self.mux.receive(Ok(frame))?,
                Ok(None) => return Ok(()),
                Err(error) => self.mux.receive(Err(error))?,
            }
        }
    }

    fn asks(&mut self, id: u32) -> Result<(), FrameError> {
        let opening = encode::Opening::Connect("10.0.0.1:80");
        self.hears(|out, hpack| encode::headers(out, hpack, id, opening, &HeaderMap::new(), false, 1 << 14))
    }

    fn answers(&mut self, id: u32, status: StatusCode, end: bool) -> Result<(), FrameError> {
        let opening = encode::Opening::Status(status);
        self.hears(|out, hpack| encode::headers(out, hpack, id, opening, &HeaderMap::new(), end, 1 << 14))
    }

    fn hears_data(&mut self, id: u32, len: usize, end: bool) -> Result<(), FrameError> {
        self.hears(|out, _| {
            out.extend_from_slice(&encode::data_head(id, u32::try_from(len).unwrap(), end));
            out.resize(out.len() + len, 7);
        })
    }

    /// What it writes, as frames.
    fn says(&mut self) -> Vec<Frame> {
        let mut batch = Batch::new(PLAIN);
        self.mux.take(&mut batch);
        self.outward.push(Bytes::copy_from_slice(batch.as_slice()));
        let mut frames = Vec::new();
        while let Some(frame) = self.outward.next().unwrap() {
            frames.push(frame);
        }
        frames
    }

    /// Offers `len` bytes; how many are taken.
    fn sends(&mut self, id: u32, len: usize, bell: &Arc<Bell>) -> Option<usize> {
        let waker = Waker::from(Arc::clone(bell));
        match self.mux.poll_fill(id, &mut Context::from_waker(&waker), len, |places| {
            Ok(places.iter().map(|place| place.len()).sum::<usize>())
        }) {
            Poll::Ready(sent) => Some(sent.unwrap()),
            Poll::Pending => None,
        }
    }

    /// Reads up to `len` bytes.
    fn reads(&mut self, id: u32, len: usize) -> Poll<std::io::Result<usize>> {
        let pass_on = |pieces: &[IoSlice<'_>]| Ok(len.min(pieces.iter().map(|piece| piece.len()).sum()));
        match self.mux.poll_drain(id, &mut Context::from_waker(Waker::noop()), pass_on) {
            Poll::Ready(Ok(passed)) => Poll::Ready(passed),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Wakes those whose turn it is, as the driver does.
    fn grants(&mut self) -> bool {
        let more = self.mux.grant();
        let mut wakes = Vec::new();
        self.mux.take_wakes(&mut wakes);
        wakes.into_iter().for_each(Waker::wake);
        more
    }
}

fn resets(frames: &[Frame]) -> Vec<(u32, u32)> {
    let reset = |frame: &Frame| if let Frame::Reset { stream, code } = frame { Some((*stream, *code)) } else { None };
    frames.iter().filter_map(reset).collect()
}

fn data(frames: &[Frame]) -> usize {
    frames.iter().map(|frame| if let Frame::Data { data, .. } = frame { data.len() } else { 0 }).sum()
}

fn code_of(result: Result<(), FrameError>) -> Option<u32> {
    match result {
        Err(FrameError::Connection { code, .. }) => Some(code),
        Err(FrameError::Stream { .. }) | Ok(()) => None,
    }
}

#[test]
fn the_state_of_a_tunnel_and_of_a_connection_is_small() {
    assert!(size_of::<Stream>() <= 320, "{}", size_of::<Stream>());
    assert!(size_of::<Mux>() <= 768, "{}", size_of::<Mux>());
}
