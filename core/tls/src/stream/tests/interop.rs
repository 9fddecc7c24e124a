//! Against rustls as the peer, over real handshakes: both roles, both cipher suites, key updates, transports that trickle.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, duplex};

use super::peers::{LIMIT, Rustls, SUITES, Trickle, configs, pairs, trickling};
use crate::{Stream, handshake};

fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; count];
    random.fill(&mut bytes);
    bytes
}

/// Sends `sent` in random pieces and closes, while it receives until the end; `each` is called before each piece.
async fn exchange<S>(stream: S, sent: &[u8], mut each: impl FnMut(&mut S)) -> Vec<u8>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    struct Both<S>(Arc<std::sync::Mutex<S>>);
    let stream = Arc::new(std::sync::Mutex::new(stream));
    let mut reader = Both(Arc::clone(&stream));
    let mut writer = Both(stream);
    impl<S: AsyncRead + Unpin> AsyncRead for Both<S> {
        fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut *self.0.lock().unwrap()).poll_read(cx, buffer)
        }
    }
    impl<S: AsyncWrite + Unpin> AsyncWrite for Both<S> {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut *self.0.lock().unwrap()).poll_write(cx, bytes)
        }
        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut *self.0.lock().unwrap()).poll_flush(cx)
        }
        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut *self.0.lock().unwrap()).poll_shutdown(cx)
        }
    }
    let write = async {
        let mut random = fastrand::Rng::with_seed(7);
        let mut left = sent;
        while !left.is_empty() {
            each(&mut writer.0.lock().unwrap());
            let most = if random.bool() { 200 } else { 100_000 };
            let (now, later) = left.split_at(random.usize(1..=most).min(left.len()));
            writer.write_all(now).await.unwrap();
            left = later;
        }
        writer.flush().await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let read = async {
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.unwrap();
        received
    };
    tokio::join!(write, read).1
}

/// Both sides send `count` bytes, and get those of the other.
async fn converse<A, B>(a: A, b: B, count: usize, each_a: impl FnMut(&mut A), each_b: impl FnMut(&mut B))
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (from_a, from_b) = (bytes(11, count), bytes(22, count));
    let both = async { tokio::join!(exchange(a, &from_a, each_a), exchange(b, &from_b, each_b)) };
    let (at_a, at_b) = tokio::time::timeout(Duration::from_secs(100), both).await.expect("the peers wait for each other");
    assert!(at_a == from_b && at_b == from_a, "other bytes have arrived than were sent");
}

/// The peer changes its key, and asks for ours.
fn refresh_keys(theirs: &mut Rustls<Trickle>) {
    match theirs {
        tokio_rustls::TlsStream::Client(stream) => stream.get_mut().1.refresh_traffic_keys().unwrap(),
        tokio_rustls::TlsStream::Server(stream) => stream.get_mut().1.refresh_traffic_keys().unwrap(),
    }
}

#[tokio::test]
async fn sixteen_megabytes_both_ways_arrive_as_sent() {
    for suite in SUITES {
        for (ours, theirs) in pairs(&configs(suite), trickling(usize::MAX)).await {
            assert_eq!(ours.cipher_suite(), suite.suite());
            converse(ours, theirs, 16 << 20, |_| {}, |_| {}).await;
        }
    }
}

#[tokio::test]
async fn two_of_ours_understand_each_other() {
    for suite in SUITES {
        let configs = configs(suite);
        let (near, far) = trickling(30_000)();
        let (client, server) = tokio::join!(
            handshake::connect(near, Arc::clone(&configs.client), LIMIT),
            handshake::accept(far, Arc::clone(&configs.server), LIMIT)
        );
        converse(client.unwrap(), server.unwrap().0, 4 << 20, |_| {}, |_| {}).await;
    }
}

#[tokio::test]
async fn a_transport_of_single_bytes_is_enough() {
    for (ours, theirs) in pairs(&configs(SUITES[0]), trickling(1)).await {
        converse(ours, theirs, 40_000, |_| {}, |_| {}).await;
    }
    for (ours, theirs) in pairs(&configs(SUITES[1]), trickling(50)).await {
        converse(ours, theirs, 1 << 20, |_| {}, |_| {}).await;
    }
}

#[tokio::test]
async fn rustls_may_change_its_key_and_ask_for_ours_at_any_time() {
    for suite in SUITES {
        for (ours, theirs) in pairs(&configs(suite), trickling(20_000)).await {
            let mut turn = 0;
            let refresh = |theirs: &mut Rustls<Trickle>| {
                turn += 1;
                if turn % 3 == 0 {
                    refresh_keys(theirs);
                }
            };
            converse(ours, theirs, 4 << 20, |_| {}, refresh).await;
        }
    }
}

#[tokio::test]
async fn both_directions_go_on_for_thousands_of_records_with_short_lived_keys() {
    for suite in SUITES {
        let configs = configs(suite);
        for (mut ours, theirs) in pairs(&configs, trickling(20_000)).await {
            ours.lower_key_limit(20);
            converse(ours, theirs, 4 << 20, |_| {}, |_| {}).await;
        }
        let (near, far) = duplex(1 << 14);
        let (client, server) = tokio::join!(
            handshake::connect(near, Arc::clone(&configs.client), LIMIT),
            handshake::accept(far, Arc::clone(&configs.server), LIMIT)
        );
        let (mut client, mut server) = (client.unwrap(), server.unwrap().0);
        client.lower_key_limit(10);
        server.lower_key_limit(4);
        converse(client, server, 32 << 20, |_| {}, |_| {}).await;
    }
}

#[tokio::test]
async fn an_orderly_end_is_told_from_a_cut() {
    for (mut ours, mut theirs) in pairs(&configs(SUITES[0]), trickling(usize::MAX)).await {
        theirs.write_all(b"last words").await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut words = Vec::new();
        ours.read_to_end(&mut words).await.unwrap();
        assert_eq!(words, b"last words");
        ours.write_all(b"answer").await.unwrap();
        ours.shutdown().await.unwrap();
        words.clear();
        theirs.read_to_end(&mut words).await.unwrap();
        assert_eq!(words, b"answer");
    }
    for (mut ours, theirs) in pairs(&configs(SUITES[0]), trickling(usize::MAX)).await {
        drop(theirs);
        assert_eq!(ours.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
    for (ours, mut theirs) in pairs(&configs(SUITES[0]), trickling(usize::MAX)).await {
        drop(ours);
        assert_eq!(theirs.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn rustls_understands_why_we_end_a_connection() {
    for (mut ours, mut theirs) in pairs(&configs(SUITES[0]), trickling(usize::MAX)).await {
        // A record that rustls has not made, on its way to us.
        let wire = match &mut theirs {
            tokio_rustls::TlsStream::Client(stream) => &mut stream.get_mut().0.io,
            tokio_rustls::TlsStream::Server(stream) => &mut stream.get_mut().0.io,
        };
        wire.write_all(&[&[23, 3, 3, 0, 32][..], &[1; 32]].concat()).await.unwrap();
        let error = ours.read_u8().await.unwrap_err();
        assert_eq!(error.get_ref().unwrap().downcast_ref(), Some(&rustls::Error::DecryptError));
        let error = theirs.read_u8().await.unwrap_err();
        let told = rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac);
        assert_eq!(error.get_ref().unwrap().downcast_ref(), Some(&told));
    }
}

/// Sends `sent` in batches of pieces that are sealed where they are, as the tunnel does, while it receives until the end.
async fn exchange_in_batches<T>(mut stream: Stream<T>, mut sent: &[u8]) -> Vec<u8>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut random = fastrand::Rng::with_seed(3);
    let (mut batch, mut written) = (Vec::new(), 0);
    let (mut received, mut ended, mut closed) = (Vec::new(), false, false);
    poll_fn(|cx| {
        while !ended {
            match stream.poll_chunk(cx) {
                Poll::Pending => break,
                Poll::Ready(chunk) => match chunk.unwrap() {
                    Some(chunk) => received.extend_from_slice(&chunk),
                    None => ended = true,
                },
            }
        }
        while !closed {
            if written < batch.len() {
                match stream.poll_write(cx, &batch[written..]) {
                    Poll::Pending => break,
                    Poll::Ready(count) => written += count.unwrap(),
                }
                continue;
            }
            if sent.is_empty() {
                match stream.poll_shutdown(cx) {
                    Poll::Pending => break,
                    Poll::Ready(shut) => shut.unwrap(),
                }
                closed = true;
                continue;
            }
            stream.begin().unwrap();
            batch.clear();
            written = 0;
            for _ in 0..random.usize(1..8) {
                let most = if random.bool() { 100 } else { stream.most() };
                let (plaintext, later) = sent.split_at(random.usize(1..=most).min(sent.len()));
                let start = batch.len();
                batch.resize(start + stream.head(), 0);
                batch.extend_from_slice(plaintext);
                batch.resize(batch.len() + stream.tail(), 0);
                stream.seal(&mut batch[start..]).unwrap();
                sent = later;
                if sent.is_empty() {
                    break;
                }
            }
        }
        if ended && closed { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    received
}

#[tokio::test]
async fn batches_sealed_in_place_arrive_as_sent_whatever_the_transport_takes_at_once() {
    for (suite, most) in [(SUITES[0], usize::MAX), (SUITES[1], 5000)] {
        for (mut ours, mut theirs) in pairs(&configs(suite), trickling(most)).await {
            ours.lower_key_limit(100);
            let mut turn = 0;
            let refresh = |theirs: &mut Rustls<Trickle>| {
                turn += 1;
                if turn % 5 == 0 {
                    refresh_keys(theirs);
                }
            };
            refresh_keys(&mut theirs);
            let (from_ours, from_theirs) = (bytes(11, 4 << 20), bytes(22, 4 << 20));
            let both = async { tokio::join!(exchange_in_batches(ours, &from_ours), exchange(theirs, &from_theirs, refresh)) };
            let (at_ours, at_theirs) = tokio::time::timeout(LIMIT, both).await.expect("the peers wait for each other");
            assert!(at_ours == from_theirs && at_theirs == from_ours, "other bytes have arrived than were sent");
        }
    }
}

#[test]
fn an_idle_connection_is_small_and_so_is_its_handshake() {
    assert!(size_of::<Stream<tokio::net::TcpStream>>() <= 640, "{}", size_of::<Stream<tokio::net::TcpStream>>());
    let configs = configs(SUITES[0]);
    let accept = handshake::accept(duplex(1).0, Arc::clone(&configs.server), LIMIT);
    assert!(size_of_val(&accept) <= 8 << 10, "{}", size_of_val(&accept));
}
