//! The state of a connection against frames made by hand.

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
fn pieces_are_sealed_once_each_and_hold_the_frames_in_order() {
    let mut batch = Batch::new(SEALED);
    batch.append(&encode::data_head(9, 0, true));
    let mut byte = 0_u8;
    for len in [1_usize, 100, 16_375, 16_376, 70_000, 3] {
        let filled = batch
            .data(1, len, |places| {
                for place in places.iter_mut() {
                    place.fill_with(|| {
                        byte = byte.wrapping_add(1);
                        byte
                    });
                }
                Ok(places.iter().map(|place| place.len()).sum())
            })
            .unwrap();
        assert_eq!(filled, len);
    }
    let mut plain = Vec::new();
    batch
        .seal(|piece| {
            assert!(piece.len() <= SEALED.most + 22);
            plain.extend_from_slice(&piece[5..piece.len() - 17]);
            piece.fill(0xee);
            Ok(())
        })
        .unwrap();
    assert!(batch.as_slice().iter().all(|byte| *byte == 0xee), "a byte goes out that was not sealed");
    let mut decoder = Decoder::client(Limits::new(1 << 14, 1 << 14));
    let mut settings = Vec::new();
    encode::settings(&mut settings, &Parameters::default());
    decoder.push(settings.into());
    decoder.push(plain.into());
    let mut expected = 0_u8;
    let mut seen = 0;
    while let Some(frame) = decoder.next().unwrap() {
        if let Frame::Data { stream: 1, data, .. } = frame {
            seen += data.len();
            for byte in data {
                expected = expected.wrapping_add(1);
                assert_eq!(byte, expected);
            }
        }
    }
    assert_eq!(seen, 1 + 100 + 16_375 + 16_376 + 70_000 + 3);
}

#[test]
fn a_fill_that_comes_short_or_fails_sends_what_it_filled_and_no_more() {
    let mut end = End::server_with(1);
    let mut cx = Context::from_waker(Waker::noop());
    let short = end.mux.poll_fill(1, &mut cx, 100_000, |_| Ok(20_000));
    assert!(matches!(short, Poll::Ready(Ok(20_000))));
    let failed = end.mux.poll_fill(1, &mut cx, 100_000, |_| Err(std::io::ErrorKind::WouldBlock.into()));
    assert!(matches!(failed, Poll::Ready(Err(Unfilled::Source(_)))));
    assert_eq!(data(&end.says()), 20_000);
}

#[test]
fn a_tunnel_takes_all_of_the_batch_when_alone_and_a_share_of_it_while_others_wait() {
    let (mut end, bell) = (End::server_with(3), Arc::<Bell>::default());
    assert_eq!(end.sends(1, 1 << 20, &bell), Some(256 << 10));
    assert_eq!(end.sends(1, 1 << 20, &bell), None);
    assert_eq!(
        end.sends(3, 1 << 20, &bell),
        Some(16 << 10),
        "a tunnel that has sent nothing is let in even if the batch is full"
    );
    assert_eq!(end.sends(3, 1 << 20, &bell), None);
    assert_eq!(data(&end.says()), 272 << 10);
    assert!(!end.grants());
    assert_eq!(bell.rung(), 2);
    assert_eq!(end.sends(5, 1 << 20, &bell), Some(256 << 10));
    assert_eq!(end.sends(1, 1 << 20, &bell), Some(16 << 10));
    assert_eq!(end.sends(1, 1 << 20, &bell), None);
    end.says();
    assert_eq!(end.sends(3, 1 << 20, &bell), Some(64 << 10), "while another waits");
}

#[test]
fn those_who_wait_are_woken_in_the_order_they_came_and_none_is_forgotten() {
    let mut end = End::server_with(20);
    let bells: Vec<Arc<Bell>> = (0..20).map(|_| Arc::default()).collect();
    assert_eq!(end.sends(1, 1 << 20, &bells[0]), Some(256 << 10));
    for (n, id) in (1..40).step_by(2).enumerate() {
        let _first = end.sends(id, 1 << 20, &bells[n]);
        while end.sends(id, 1 << 20, &bells[n]).is_some() {}
    }
    end.says();
    let mut order = Vec::new();
    while order.len() < 20 {
        // Those who are woken send nothing: the next ones must have their turn all the same.
        let more = end.grants();
        order.extend(bells.iter().enumerate().filter(|(_, bell)| bell.rung() > 0).map(|(n, _)| n));
        assert!(more || order.len() == 20, "{order:?}");
    }
    assert_eq!(order, (0..20).collect::<Vec<_>>());
}

#[test]
fn windows_below_nothing_hold_a_tunnel_back_until_they_are_above_it() {
    let (mut end, bell) = (End::server_with(1), Arc::<Bell>::default());
    assert_eq!(end.sends(1, 200_000, &bell), Some(200_000));
    end.says();
    let window = |size| Parameters { initial_window_size: Some(size), ..Parameters::default() };
    end.hears(|out, _| encode::settings(out, &window(100_000))).unwrap();
    assert_eq!(end.sends(1, 10, &bell), None);
    end.hears(|out, _| encode::window_update(out, 1, 100_000)).unwrap();
    end.grants();
    assert_eq!((bell.rung(), end.sends(1, 10, &bell)), (0, None), "the window is exactly 0");
    end.hears(|out, _| encode::window_update(out, 1, 5)).unwrap();
    end.grants();
    assert_eq!((bell.rung(), end.sends(1, 10, &bell)), (1, Some(5)));
    assert_eq!(end.sends(1, 10, &bell), None);
    end.hears(|out, _| encode::settings(out, &window(100_001))).unwrap();
    end.grants();
    assert_eq!((bell.rung(), end.sends(1, 10, &bell)), (1, Some(1)));
}

#[test]
fn the_connections_window_is_waited_for() {
    let (mut end, bell) = (End::server_with(2), Arc::<Bell>::default());
    end.mux.window = 1000;
    assert_eq!(end.sends(1, 5000, &bell), Some(1000));
    assert_eq!((end.sends(1, 5000, &bell), end.sends(3, 5000, &bell)), (None, None));
    end.says();
    assert!(!end.grants());
    assert_eq!(bell.rung(), 0);
    end.hears(|out, _| encode::window_update(out, 0, 3000)).unwrap();
    end.grants();
    assert_eq!(bell.rung(), 2);
    assert_eq!((end.sends(1, 5000, &bell), end.sends(3, 5000, &bell)), (Some(3000), None));
}

#[test]
fn windows_that_grow_too_large_end_what_they_belong_to() {
    let most = (1 << 31) - 1;
    let mut end = End::server_with(1);
    end.hears(|out, _| encode::window_update(out, 1, most)).unwrap();
    assert_eq!(resets(&end.says()), [(1, code::FLOW_CONTROL_ERROR)]);
    assert_eq!(code_of(end.hears(|out, _| encode::window_update(out, 0, most))), Some(code::FLOW_CONTROL_ERROR));
    let mut end = End::server_with(1);
    end.hears(|out, _| encode::window_update(out, 1, most - (1 << 20))).unwrap();
    let wider = Parameters { initial_window_size: Some((1 << 20) + 1), ..Parameters::default() };
    assert_eq!(code_of(end.hears(|out, _| encode::settings(out, &wider))), Some(code::FLOW_CONTROL_ERROR));
}

#[test]
fn bytes_beyond_a_window_are_a_flow_control_error() {
    let mut end = End::server_with(1);
    end.hears_data(1, 100_000, false).unwrap();
    end.hears_data(1, 1, false).unwrap();
    assert_eq!(resets(&end.says()), [(1, code::FLOW_CONTROL_ERROR)]);

    let mut end = End::server_with(5);
    end.mux.credit = Credit::new(65_535);
    end.hears_data(1, 60_000, false).unwrap();
    end.says();
    end.mux.credit = Credit::new(65_535);
    assert_eq!(code_of(end.hears_data(3, 65_536, false)), Some(code::FLOW_CONTROL_ERROR));
}

#[test]
fn what_is_read_is_given_back_when_half_a_window_has_come_together() {
    let mut end = End::server_with(1);
    let widened = |frames: &[Frame], of: u32| -> u32 {
        let by = |frame: &Frame| match frame {
            Frame::WindowUpdate { stream, increment } if *stream == of => Some(*increment),
            _ => None,
        };
        frames.iter().filter_map(by).sum()
    };
    end.hears_data(1, 90_000, false).unwrap();
    assert_eq!(widened(&end.says(), 1), 0);
    assert!(matches!(end.reads(1, 49_999), Poll::Ready(Ok(49_999))));
    assert_eq!(widened(&end.says(), 1), 0);
    assert!(matches!(end.reads(1, 1), Poll::Ready(Ok(1))));
    assert_eq!(widened(&end.says(), 1), 50_000);
    // The connection's window does not wait for the reader.
    end.hears_data(1, 60_000, false).unwrap();
    assert_eq!(widened(&end.says(), 0), 150_000);
}

#[test]
fn more_is_acknowledged_than_was_handed_out_and_nothing_comes_of_it() {
    let mut end = End::server_with(1);
    end.hears_data(1, 60_000, false).unwrap();
    end.says();
    end.mux.consumed(1, 60_000);
    assert!(end.says().is_empty());
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(Some(chunk))) = end.mux.poll_chunk(1, &mut cx) else { panic!("no chunk") };
    end.mux.consumed(1, chunk.len() + 1000);
    assert_eq!(end.says().len(), 1);
}

#[test]
fn frames_of_idle_streams_end_the_connection() {
    let frames: [fn(&mut Vec<u8>); 4] = [
        |out| out.extend_from_slice(&encode::data_head(7, 0, false)),
        |out| encode::reset(out, 7, code::CANCEL),
        |out| encode::window_update(out, 7, 1),
        // By nothing: a stream's error, of a stream that is none.
        |out| out.extend_from_slice(&[0, 0, 4, 8, 0, 0, 0, 0, 7, 0, 0, 0, 0]),
    ];
    for frame in frames {
        for mut end in [End::server_with(2), End::client_with_tunnel()] {
            assert_eq!(code_of(end.hears(|out, _| frame(out))), Some(code::PROTOCOL_ERROR));
        }
    }
    assert_eq!(code_of(End::client_with_tunnel().answers(9, StatusCode::OK, false)), Some(code::PROTOCOL_ERROR));
}

#[test]
fn frames_after_the_end_of_a_stream_are_its_error_and_those_after_our_reset_are_none() {
    let mut end = End::server_with(2);
    end.hears_data(1, 10, true).unwrap();
    end.hears_data(1, 10, false).unwrap();
    assert_eq!(resets(&end.says()), [(1, code::STREAM_CLOSED)]);
    end.mux.cancel(3);
    assert_eq!(resets(&end.says()), [(3, code::CANCEL)]);
    end.hears_data(3, 10, false).unwrap();
    end.hears(|out, _| encode::window_update(out, 3, 1)).unwrap();
    end.asks(3).unwrap();
    end.hears(|out, _| encode::reset(out, 3, code::CANCEL)).unwrap();
    assert!(end.says().is_empty());
    assert_eq!(code_of(end.asks(1)), None);
    // A number that was passed over is closed.
    end.asks(9).unwrap();
    assert_eq!(code_of(end.asks(7)), Some(code::PROTOCOL_ERROR));
}

#[test]
fn requests_beyond_the_limit_are_refused_until_a_tunnel_has_ended() {
    let mut end = End::server_with(50);
    end.says();
    end.asks(101).unwrap();
    assert_eq!(resets(&end.says()), [(101, code::REFUSED_STREAM)]);
    end.mux.finish(1).unwrap();
    end.asks(103).unwrap();
    assert_eq!(resets(&end.says()), [(103, code::REFUSED_STREAM)], "half of a tunnel is open");
    end.hears_data(1, 0, true).unwrap();
    end.asks(105).unwrap();
    assert!(resets(&end.says()).is_empty());
    assert_eq!(end.mux.take_request().unwrap().stream, 105);
}

#[test]
fn nothing_is_read_while_the_answers_to_what_was_read_wait() {
    let mut end = End::server_with(1);
    for _ in 0..5000 {
        assert!(end.mux.batch.len() < 66 << 10);
        if !end.mux.may_read() {
            break;
        }
        end.hears(|out, _| encode::ping(out, [0; 8])).unwrap();
    }
    assert!(!end.mux.may_read());
    assert!(end.says().iter().all(|frame| matches!(frame, Frame::Pong(_))));
    assert!(end.mux.may_read());
}

#[test]
fn nothing_is_read_while_answers_to_requests_wait() {
    let mut end = End::server();
    for n in 0..5000 {
        if !end.mux.may_read() {
            assert!(n > 1000);
            return;
        }
        end.asks(2 * n + 1).unwrap();
        let request = end.mux.take_request().unwrap();
        end.mux.respond(request.stream, StatusCode::FORBIDDEN, &HeaderMap::new(), true).unwrap();
        end.mux.let_go(request.stream);
        assert!(end.mux.batch.len() < 66 << 10);
    }
    panic!("all of it was read");
}

#[test]
fn a_request_that_is_given_up_before_anybody_has_seen_it_reaches_no_handler() {
    let mut end = End::server();
    end.asks(1).unwrap();
    end.asks(3).unwrap();
    end.hears(|out, _| encode::reset(out, 1, code::CANCEL)).unwrap();
    assert_eq!(end.mux.take_request().unwrap().stream, 3);
    assert!(end.mux.streams.get(1).is_none());
}

#[test]
fn a_pong_counts_only_for_the_ping_that_it_answers() {
    let mut end = End::server();
    end.hears(|out, _| encode::pong(out, *b"whatever")).unwrap();
    end.mux.ping(*b"whatever");
    assert!(!end.mux.take_pong_of(*b"whatever"));
    end.hears(|out, _| encode::pong(out, *b"whatever")).unwrap();
    assert!(end.mux.take_pong_of(*b"whatever"));
    assert!(end.mux.pings.is_empty());
}

#[test]
fn a_server_that_shuts_waits_for_those_who_still_read_what_has_ended() {
    let mut end = End::server_with(1);
    end.mux.shut(*b"lastcall");
    end.mux.shut_finally();
    end.hears_data(1, 1000, true).unwrap();
    end.mux.finish(1).unwrap();
    assert!(!end.mux.is_over());
    end.mux.let_go(1);
    assert!(end.mux.is_over());
}

#[test]
fn an_end_and_a_reset_after_it_leave_what_came_before_to_be_read() {
    let mut end = End::client_with_tunnel();
    end.hears_data(1, 100, true).unwrap();
    end.hears(|out, _| encode::reset(out, 1, code::NO_ERROR)).unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(end.mux.poll_reset(1, &mut cx).is_ready());
    assert!(matches!(end.reads(1, 1000), Poll::Ready(Ok(100))));
    assert!(matches!(end.reads(1, 1000), Poll::Ready(Ok(0))));
}

#[test]
fn a_reset_before_the_end_is_an_error_after_what_came_before() {
    let mut end = End::client_with_tunnel();
    end.hears_data(1, 100, false).unwrap();
    end.hears(|out, _| encode::reset(out, 1, code::CANCEL)).unwrap();
    assert!(matches!(end.reads(1, 1000), Poll::Ready(Ok(100))));
    let Poll::Ready(Err(error)) = end.reads(1, 1000) else { panic!("no error") };
    assert_eq!(error.to_string(), "the peer reset the tunnel (CANCEL)");
}

#[test]
fn a_tunnel_that_is_closed_after_its_end_keeps_its_place_until_the_peer_has_ended_it() {
    let mut end = End::client_with_tunnel();
    end.hears_data(1, 1000, false).unwrap();
    end.mux.finish(1).unwrap();
    end.mux.let_go(1);
    assert!(resets(&end.says()).is_empty());
    assert_eq!(end.mux.places.taken(), 1);
    end.hears_data(1, 60_000, false).unwrap();
    assert_eq!(end.says().len(), 1, "the window is widened although nobody reads");
    end.hears_data(1, 0, true).unwrap();
    assert_eq!((end.mux.places.taken(), end.mux.parting), (0, 0));
    assert_eq!(end.mux.credit.due(), None);
}

#[test]
fn a_tunnel_that_is_closed_after_its_end_is_reset_when_too_much_still_comes_or_it_takes_too_long() {
    let mut end = End::client_with_tunnel();
    end.mux.finish(1).unwrap();
    end.mux.let_go(1);
    end.says();
    for _ in 0..5 {
        end.hears_data(1, 50_000, false).unwrap();
    }
    assert!(resets(&end.says()).is_empty());
    end.hears_data(1, 50_000, false).unwrap();
    assert_eq!(resets(&end.says()), [(1, code::CANCEL)]);
    assert_eq!((end.mux.places.taken(), end.mux.parting), (0, 0));

    let mut end = End::client_with_tunnel();
    end.mux.finish(1).unwrap();
    end.mux.let_go(1);
    end.says();
    let until = end.mux.end_partings(Some(Instant::now())).unwrap();
    assert_eq!(end.mux.end_partings(Some(until)), None);
    assert_eq!(resets(&end.says()), [(1, code::CANCEL)]);
    assert_eq!(end.mux.places.taken(), 0);
}

#[test]
fn the_server_asks_a_client_to_stop_when_nobody_reads_a_tunnel_any_more() {
    let mut end = End::server_with(1);
    end.mux.finish(1).unwrap();
    end.mux.let_go(1);
    let frames = end.says();
    assert!(
        matches!(frames[..], [Frame::Data { end: true, .. }, Frame::Reset { stream: 1, code: code::NO_ERROR }]),
        "{frames:?}"
    );
    assert_eq!(end.mux.live, 0);
}

#[test]
fn tunnels_beyond_the_last_one_of_a_goaway_were_not_looked_at_and_the_others_go_on() {
    let mut end = End::client_with_tunnel();
    assert!(end.mux.take_place(10));
    assert_eq!(end.opens(), Some(3));
    end.hears(|out, _| encode::goaway(out, 1, code::NO_ERROR)).unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Err(Unanswered::Reset(reset))) = end.mux.poll_answer(3, &mut cx) else { panic!("not reset") };
    assert_eq!(reset.by, Side::Away);
    assert_eq!(end.sends(1, 100, &Arc::default()), Some(100));
    assert!(!end.mux.take_place(10));
    assert_eq!(end.opens(), None);
}

#[test]
fn requests_wait_for_the_peers_leave() {
    let mut end = End::client();
    let two = Parameters { max_concurrent_streams: Some(2), ..Parameters::default() };
    end.hears(|out, _| encode::settings(out, &two)).unwrap();
    assert_eq!((end.opens(), end.opens(), end.opens()), (Some(1), Some(3), None));
    assert_eq!(end.mux.opening.len(), 1);
    end.answers(1, StatusCode::FORBIDDEN, true).unwrap();
    assert_eq!(end.opens(), None);
    end.mux.let_go(1);
    assert_eq!(end.opens(), Some(5));
}

#[test]
fn first_bytes_go_with_a_request_only_where_the_peer_has_told_its_settings_and_within_its_windows() {
    let fill = |places: &mut [IoSliceMut<'_>]| Ok(places.iter().map(|place| place.len()).sum());
    let mut new = Mux::new(Role::Client, &small_windows(), PLAIN);
    let opening = Opening { authority: "10.0.0.1:80", headers: &HeaderMap::new() };
    let Poll::Ready(Ok(id)) = new.poll_open(&Context::from_waker(Waker::noop()), opening) else { panic!("not opened") };
    assert_eq!(new.send_early(id, fill).unwrap(), 0);
    let mut end = End::client();
    let id = end.opens().unwrap();
    end.mux.streams.get_mut(id).unwrap().send_window = 100;
    assert_eq!(end.mux.send_early(id, fill).unwrap(), 100);
    assert_eq!(end.mux.send_early(id, fill).unwrap(), 0);
    assert_eq!(data(&end.says()), 100);
    let id = end.opens().unwrap();
    let nothing = |_: &mut [IoSliceMut<'_>]| Err(std::io::ErrorKind::WouldBlock.into());
    assert_eq!(end.mux.send_early(id, nothing).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(data(&end.says()), 0);
}

#[test]
fn it_is_known_whether_first_bytes_may_have_left_when_a_connection_is_lost_before_the_answer() {
    let fill = |places: &mut [IoSliceMut<'_>]| Ok(places.iter().map(|place| place.len()).sum());
    for (early, taken, written, left) in [
        (true, true, true, true),
        (true, true, false, false),
        (true, false, true, false),
        (true, false, false, false),
        (false, true, true, false),
    ] {
        let mut end = End::client();
        let id = end.opens().unwrap();
        if early {
            assert!(end.mux.send_early(id, fill).unwrap() > 0);
        }
        if taken {
            end.says();
        }
        if !written {
            end.mux.not_written();
        }
        end.mux.fail(Failure::Silent("gone"));
        let answer = end.mux.poll_answer(id, &mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Err(Unanswered::Connection { early_bytes_left, .. })) = answer else { panic!("{answer:?}") };
        assert_eq!(early_bytes_left, left, "{early} {taken} {written}");
    }
}

#[test]
fn a_failure_reaches_every_tunnel_that_has_not_ended_and_takes_nothing_from_one_that_has() {
    let (mut end, bell) = (End::server_with(3), Arc::<Bell>::default());
    end.hears_data(3, 10, true).unwrap();
    let waker = Waker::from(Arc::clone(&bell));
    let mut cx = Context::from_waker(&waker);
    assert!(end.mux.poll_chunk(1, &mut cx).is_pending());
    end.mux.fail(Failure::Silent("gone"));
    end.grants();
    assert_eq!(bell.rung(), 1);
    assert!(matches!(end.mux.poll_chunk(1, &mut cx), Poll::Ready(Err(_))));
    assert!(matches!(end.mux.poll_chunk(3, &mut cx), Poll::Ready(Ok(Some(_)))));
    assert!(matches!(end.mux.poll_chunk(3, &mut cx), Poll::Ready(Ok(None))));
    assert!(end.mux.finish(1).is_err());
}

#[test]
fn a_reader_that_cannot_pass_on_is_woken_by_a_failure_and_not_by_bytes() {
    let (mut end, bell) = (End::server_with(1), Arc::<Bell>::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut cx = Context::from_waker(&waker);
    assert!(end.mux.poll_cut(1, &mut cx).is_pending());
    end.hears_data(1, 10, false).unwrap();
    end.grants();
    assert_eq!(bell.rung(), 0);
    end.hears(|out, _| encode::reset(out, 1, code::CANCEL)).unwrap();
    end.grants();
    assert_eq!(bell.rung(), 1);
    assert!(end.mux.poll_cut(1, &mut cx).is_ready());
}

#[test]
fn at_rest_a_connection_holds_no_buffers() {
    let (mut end, bell) = (End::server_with(1), Arc::<Bell>::default());
    assert_eq!(end.sends(1, 200_000, &bell), Some(200_000));
    end.mux.rest();
    assert!(end.mux.batch.capacity() > 200_000, "what was not written yet stays");
    end.says();
    end.mux.rest();
    assert_eq!((end.mux.batch.capacity(), end.mux.scratch.capacity(), end.mux.dead.capacity()), (0, 0, 0));
}

#[test]
fn the_state_of_a_tunnel_and_of_a_connection_is_small() {
    assert!(size_of::<Stream>() <= 320, "{}", size_of::<Stream>());
    assert!(size_of::<Mux>() <= 768, "{}", size_of::<Mux>());
}
