//! Bytes of a peer all the way through: frames, header blocks, the state of the connection, and users of its tunnels who do anything
//! meanwhile. Whatever comes, nothing panics, what is kept is bounded, and what goes out is HTTP/2 that a decoder of the other side takes.

use ambit_fuzz::{Corpus, Target};
use fastrand::Rng;

use super::*;
use crate::frame::{Limits, PREFACE, encode as write, of_each_kind};

const FRAMES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/frames.txt");
const MOST: u32 = 6;

/// Heads of frames, settings and what stands in header blocks.
fn tokens() -> Vec<Vec<u8>> {
    let mut tokens: Vec<Vec<u8>> = vec![PREFACE.to_vec(), b"\x02\x07CONNECT".to_vec(), b"\x41\x0b10.0.0.1:80".to_vec()];
    for kind in 0..11 {
        for (len, flags, stream) in [(0, 0, 0), (0, 1, 1), (4, 0, 1), (5, 4, 3), (6, 0, 0), (8, 0, 0), (0, 5, 5), (255, 8, 1)] {
            tokens.push(vec![0, 0, len, kind, flags, 0, 0, 0, stream]);
        }
    }
    tokens.extend([[0, 4, 0x7f, 0xff, 0xff, 0xff], [0, 4, 0, 0, 0, 0], [0, 3, 0, 0, 0, 0], [0, 5, 0, 0, 0x40, 0]].map(Vec::from));
    // Changes of the table's size, an index into it, a name that is indexed, a string by Huffman code.
    tokens.extend([&b"\x20"[..], b"\x3f\xe1\x1f", b"\xbe", b"\x7e\x01a", b"\x00\x81\x07\x81\x07"].map(Vec::from));
    tokens
}

/// What a client may send: a request, bytes and all the rest; and what a server may.
fn client_says() -> Vec<(&'static str, Vec<u8>)> {
    let (mut hpack, mut out) = (Encoder::new(), Vec::new());
    write::preface(&mut out);
    write::settings(&mut out, &Parameters { initial_window_size: Some(70_000), ..Parameters::default() });
    let begun = out.clone();
    let baggage = [("baggage", "k8s.namespace.name=shop,service.name=web"), ("forwarded", "for=\"10.0.0.1:1\";host=a.b")];
    let headers = baggage.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).into_iter().collect();
    for id in [1, 3, 5] {
        write::headers(&mut out, &mut hpack, id, write::Opening::Connect("10.0.0.1:80"), &headers, false, 1 << 14);
        out.extend_from_slice(&write::data_head(id, 5, id == 5));
        out.extend_from_slice(b"hello");
    }
    let asked = out.clone();
    write::window_update(&mut out, 1, 1 << 20);
    write::settings_ack(&mut out);
    write::ping(&mut out, *b"lastcall");
    write::reset(&mut out, 3, 8);
    out.extend_from_slice(&write::data_head(1, 0, true));
    vec![("a client that has begun", begun), ("three requests", asked), ("a short life", out)]
}

fn server_says() -> Vec<u8> {
    let (mut hpack, mut out) = (Encoder::new(), Vec::new());
    write::settings(&mut out, &Parameters { max_concurrent_streams: Some(2), ..Parameters::default() });
    write::settings_ack(&mut out);
    write::headers(&mut out, &mut hpack, 1, write::Opening::Status(StatusCode::OK), &HeaderMap::new(), false, 1 << 14);
    out.extend_from_slice(&write::data_head(1, 5, true));
    out.extend_from_slice(b"hello");
    let reason = [("x-ambit-reason".parse().unwrap(), "connection_limit".parse().unwrap())].into_iter().collect();
    write::headers(&mut out, &mut hpack, 3, write::Opening::Status(StatusCode::SERVICE_UNAVAILABLE), &reason, true, 1 << 14);
    write::goaway(&mut out, 3, 0);
    out
}

/// One end with its users.
struct Case {
    mux: Mux,
    inward: Decoder,
    outward: Decoder,
    limits: Limits,
    /// Tunnels that have a user.
    used: Vec<u32>,
    arrived: usize,
}

impl Case {
    fn new(role: Role) -> Self {
        let limits = Limits::new(1 << 20, 16 << 10);
        let (inward, outward) = match role {
            Role::Client => (Decoder::client(limits), Decoder::server(limits)),
            Role::Server { .. } => (Decoder::server(limits), Decoder::client(limits)),
        };
        let settings = Settings { stream_window: 70_000, connection_window: 140_000, ..Settings::default() };
        let mut case = Self { mux: Mux::new(role, &settings, PLAIN), inward, outward, limits, used: Vec::new(), arrived: 0 };
        if role == Role::Client {
            for _ in 0..3 {
                assert!(case.mux.take_place(3));
                let opening = Opening { authority: "10.0.0.1:80", headers: &HeaderMap::new() };
                if let Poll::Ready(Ok(id)) = case.mux.poll_open(&Context::from_waker(Waker::noop()), opening) {
                    case.used.push(id);
                }
            }
        }
        case
    }

    /// Takes in some bytes; false when the connection is over.
    fn hears(&mut self, bytes: &[u8]) -> bool {
        self.arrived += bytes.len();
        self.inward.push(Bytes::copy_from_slice(bytes));
        loop {
            let frame = match self.inward.next() {
                Ok(None) => break,
                Ok(Some(frame)) => Ok(frame),
                Err(error) => Err(error),
            };
            if let Err(error) = self.mux.receive(frame) {
                let Failure::Protocol { code, .. } = Failure::from(error) else { panic!("{error}") };
                assert!(code <= code::HTTP_1_1_REQUIRED);
                self.mux.goodbye(code, Failure::from(error));
                return false;
            }
        }
        assert!(self.inward.held() <= self.limits.most_held(), "{} bytes held", self.inward.held());
        true
    }

    /// Users do something.
    fn users(&mut self, dice: &mut Rng) {
        while let Some(request) = self.mux.take_request() {
            assert!(request.authority.is_some());
            self.used.push(request.stream);
            let headers: usize = request.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
            assert!(headers <= self.limits.max_header_bytes as usize);
            let (status, end) = [(StatusCode::OK, false), (StatusCode::BAD_REQUEST, true)][usize::from(dice.u8(..4) == 0)];
            if dice.u8(..8) > 0 {
                // It may have gone meanwhile.
                let _gone = self.mux.respond(request.stream, status, &HeaderMap::new(), end);
            }
        }
        let mut cx = Context::from_waker(Waker::noop());
        let mut still = Vec::new();
        for id in std::mem::take(&mut self.used) {
            match dice.u8(..8) {
                0 => drop(self.mux.poll_chunk(id, &mut cx).map_ok(|chunk| self.mux.consumed(id, chunk.map_or(0, |it| it.len())))),
                1 => drop(self.mux.poll_drain(id, &mut cx, |pieces| Ok(pieces.first().map_or(0, |piece| piece.len())))),
                2 => drop(
                    self.mux.poll_fill(id, &mut cx, 1 << dice.u8(..18), |places| Ok(places.first().map_or(0, |it| it.len()))),
                ),
                3 => drop(self.mux.finish(id)),
                4 => self.mux.cancel(id),
                5 => drop((self.mux.poll_reset(id, &mut cx), self.mux.poll_answer(id, &mut cx))),
                6 => {
                    self.mux.let_go(id);
                    continue;
                }
                _ => {}
            }
            still.push(id);
        }
        self.used = still;
        while self.mux.grant() {}
        self.mux.take_wakes(&mut Vec::new());
    }

    /// Takes what is to be written.
    fn says(&mut self) {
        let mut batch = Batch::new(PLAIN);
        if let Some(carrying) = self.mux.take(&mut batch) {
            self.inward.progress(carrying);
        }
        self.outward.push(Bytes::copy_from_slice(batch.as_slice()));
        while let Some(frame) = self.outward.next().expect("what goes out is HTTP/2") {
            drop(frame);
            // The test's own decoder has no patience with a server that answers every frame.
            self.outward.renew();
        }
    }

    /// What is kept for the peer.
    fn bounded(&self) {
        assert!(self.mux.dead.len() <= RESETS_REMEMBERED);
        assert!(self.mux.live <= MOST as usize);
        let unread: usize = self.used.iter().map(|id| self.mux.unread(*id)).sum();
        assert!(unread <= self.arrived);
    }
}

fn connection(role: Role, bytes: &[u8], dice: &mut Rng) -> bool {
    let mut case = Case::new(role);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(dice.usize(1..=rest.len()));
        rest = after;
        let goes_on = case.hears(chunk);
        case.bounded();
        case.users(dice);
        case.says();
        if !goes_on {
            return case.inward.begun();
        }
    }
    case.inward.begun()
}

pub(crate) fn whatever_a_client_sends_a_server_goes_on_or_ends_in_order() {
    let corpus = client_says().into_iter().fold(Corpus::read(FRAMES), |corpus, (what, bytes)| corpus.with(what, bytes));
    let corpus = corpus.with("a frame of each kind", of_each_kind());
    let target = Target::new("frames of a client", corpus).tokens(tokens());
    target.run(|bytes, dice| connection(Role::Server { most: MOST }, bytes, dice));
}

pub(crate) fn whatever_a_server_sends_a_client_goes_on_or_ends_in_order() {
    let all = of_each_kind().split_off(PREFACE.len());
    let corpus = Corpus::new().with("a short life", server_says()).with("a frame of each kind", all);
    let target = Target::new("frames of a server", corpus).tokens(tokens());
    target.run(|bytes, dice| connection(Role::Client, bytes, dice));
}
