//! Streams of requests that were changed by chance, cut by chance: as long as nothing is refused, hyper finds the requests, and the bytes of their
//! bodies, that are found here; and what it refuses itself it has read no further.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    pin::{Pin, pin},
    slice,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use ambit_fuzz::{Corpus, Target};
use bytes::Bytes;
use fastrand::Rng;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{At, Framing};

/// A request whose head has come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Found {
    /// Bytes of its body that have come.
    body: u64,
    /// All of it.
    ended: bool,
}

/// A connection on which these pieces come, one with each read, and then nothing. What is written to it is lost.
struct Wire(VecDeque<Bytes>);

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(mut piece) = self.0.pop_front() else { return Poll::Pending };
        let count = piece.len().min(buf.remaining());
        buf.put_slice(&piece.split_to(count));
        if !piece.is_empty() {
            self.0.push_front(piece);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Whether there is something to do still, where nothing more comes.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What hyper finds, and whether it waits for more. Of requests that are answered before their bodies were read nothing is known but that they came.
fn by_hyper(pieces: VecDeque<Bytes>, reads_bodies: bool) -> (Vec<Found>, bool) {
    let all = RefCell::new(Vec::<Found>::new());
    let found = &all;
    let service = service_fn(move |mut request: Request<Incoming>| {
        let number = found.borrow().len();
        found.borrow_mut().push(Found::default());
        async move {
            if reads_bodies {
                while let Some(frame) = request.body_mut().frame().await {
                    let count = frame?.data_ref().map_or(0, Bytes::len);
                    found.borrow_mut()[number].body += count as u64;
                }
                found.borrow_mut()[number].ended = true;
            }
            Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new()))
        }
    });
    // The least that it takes, so that there are heads which are too long.
    let mut serving = pin!(http1::Builder::new().max_buf_size(8 << 10).serve_connection(TokioIo::new(Wire(pieces)), service));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let waits = loop {
        let is_over = serving.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if is_over || !woken.0.swap(false, Ordering::Relaxed) {
            break !is_over;
        }
    };
    let found = all.borrow().clone();
    (found, waits)
}

/// What is found here, byte by byte; nothing where something is refused.
fn by_framing(bytes: &[u8]) -> Option<(Vec<Found>, At)> {
    let (mut framing, mut found) = (Framing::default(), Vec::<Found>::new());
    for byte in bytes {
        let before = framing.at;
        framing.pass(slice::from_ref(byte)).ok()?;
        let ended = framing.at == At::Before;
        match (before, found.last_mut()) {
            (At::Head, _) if framing.at != At::Head => found.push(Found { body: 0, ended }),
            (At::Body(_) | At::Chunk(_), Some(last)) => *last = Found { body: last.body + 1, ended },
            (At::Trailers, Some(last)) => last.ended = ended,
            _ => {}
        }
    }
    Some((found, framing.at))
}

fn cut(bytes: &[u8], dice: &mut Rng) -> VecDeque<Bytes> {
    let longest = [1, 7, 60, 1000, bytes.len().max(1)][dice.usize(..5)];
    let (mut rest, mut pieces) = (Bytes::copy_from_slice(bytes), VecDeque::new());
    while !rest.is_empty() {
        pieces.push_back(rest.split_to(dice.usize(1..=longest).min(rest.len())));
    }
    pieces
}

/// Whether it was all read by both.
fn check(bytes: &[u8], dice: &mut Rng) -> bool {
    let pieces = cut(bytes, dice);
    let here = by_framing(bytes);
    let mut framing = Framing::default();
    let passes = pieces.iter().try_for_each(|piece| framing.pass(piece)).is_ok();
    assert_eq!(passes.then_some(framing.at), here.as_ref().map(|(_, at)| *at), "it is read in another way in pieces");
    let Some((mut here, _)) = here else { return false };
    let reads_bodies = dice.u8(..4) > 0;
    if !reads_bodies {
        here.fill(Found::default());
    }
    let (there, waits) = by_hyper(pieces, reads_bodies);
    if waits {
        assert_eq!(there, here, "hyper finds others");
        return true;
    }
    // It has refused something, or was told to close the connection. The last that it found may be broken off.
    let begins = |(there, here): (&Found, &Found)| there == here || (!there.ended && there.body <= here.body);
    let last = there.len().saturating_sub(1);
    let whole = there.len() <= here.len() && there[..last] == here[..last];
    assert!(whole && there.iter().zip(&here).all(begins), "hyper finds others than {here:?}: {there:?}");
    false
}

/// Requests as clients send them, odd ones among them, and some that hyper refuses.
fn corpus() -> Corpus {
    const CHUNKED: &str = "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunked = |body: &str| format!("{CHUNKED}{body}GET /next HTTP/1.1\r\nhost: a\r\n\r\n");
    let get = |fields: &str| format!("GET /a HTTP/1.1\r\nhost: a\r\n{fields}\r\nGET /next HTTP/1.1\r\nhost: a\r\n\r\n");
    let smuggled = "GET /smuggled HTTP/1.1\r\n\r\n";
    let of_length = |fields: &str, body: &str| {
        format!("PUT /a HTTP/1.1\r\n{fields}content-length: {}\r\n\r\n{body}GET /next HTTP/1.1\r\n\r\n", body.len())
    };
    Corpus::new()
        .with("two", get(""))
        .with("empty lines before it", format!("\r\n\r\n{}", get("")))
        .with("bytes that are no text", [b"GET /a HTTP/1.1\r\nx-a: ".as_slice(), &[0x80, 0xff], b"\r\n\r\n"].concat())
        .with("an empty value", get("x-a:\r\nx-b: \t \r\n"))
        .with("a whole URI", get("").replacen("/a", "http://a/a", 1))
        .with("HTTP/1.0", get("").replacen("1.1", "1.0", 1))
        .with("HTTP/1.0, kept", get("connection: keep-alive\r\n").replacen("1.1", "1.0", 1))
        .with("the last one", get("connection: close\r\n"))
        .with("another protocol", get("connection: upgrade\r\nupgrade: websocket\r\n"))
        .with("HTTP/2, later", get("connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n"))
        .with("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .with("HTTP/2 after another", format!("{}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", get("")))
        .with("CONNECT", get("").replacen("GET /a", "CONNECT a:1", 1))
        .with("a length", of_length("", smuggled))
        .with("a body that is asked for", of_length("expect: 100-continue\r\n", "hello"))
        .with("a body that does not come", "PUT /a HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        .with("chunks", chunked(&format!("5\r\nhello\r\n{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len())))
        .with("chunks with more to them", chunked("0005;a=\"b c\" \r\nhello\r\n1 ;d\r\n!\r\n00\r\n\r\n"))
        .with("fields after chunks", chunked("5\r\nhello\r\n0\r\nx-a: b\r\ncontent-length: 9\r\n\r\n"))
        .with("a chunk that is too long", chunked("ffffffffffffffff\r\nhello\r\n0\r\n\r\n"))
        .with("a head that is too long", get(&format!("x-a: {}\r\n", "b".repeat(9 << 10))))
        .with("too many fields", get(&"x-a: b\r\n".repeat(101)))
}

#[test]
fn where_a_message_ends_hyper_finds_its_end_too() {
    let tokens: [&[u8]; 26] = [
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b";",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"0;a=b\r\n",
        b"00000000000000000000",
        b"content-length: 5\r\n",
        b"content-length: 0\r\n",
        b"Content-Length:  27 \r\n",
        b"transfer-encoding: chunked\r\n",
        b"Transfer-Encoding:chunked\t\r\n",
        b"transfer-encoding: gzip, chunked\r\n",
        b"connection: close\r\n",
        b"connection: keep-alive\r\n",
        b"expect: 100-continue\r\n",
        b"upgrade: websocket\r\n",
        b"HTTP/1.0",
        b"GET / HTTP/1.1\r\n\r\n",
        b"x-a: b\r\n c\r\n",
    ];
    // Most of what is changed by chance is refused by one of both.
    Target::new("requests beside hyper", corpus()).tokens(tokens).least_read(0.01).run(check);
}
