//! The byte pump between real TCP connections and a tunnel.

#![allow(missing_docs)]

mod common;

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ambit_hbone::{
    PoolConfig, ServerConfig,
    aside::{Roaming, carry_bulk_here, hand_bulk_to},
    copy::{Counters, EndedBy, Outcome, join, pump},
};
use common::{Client, noise, server, tcp_pair};
use http::HeaderMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

/// TCP, pump, tunnel, pump, TCP: what two proxies do.
struct Line {
    client: TcpStream,
    server: TcpStream,
    counters: Arc<Counters>,
    near: JoinHandle<Outcome>,
    far: JoinHandle<Outcome>,
    _pool: Client,
}

async fn line() -> Line {
    let (client, captured) = tcp_pair().await;
    let (upstream, application) = tcp_pair().await;
    let (hand, mut tunnels) = mpsc::channel(1);
    let server = server(ServerConfig::default(), move |incoming| {
        let hand = hand.clone();
        async move {
            // The tunnel outlives its handler here, which the pump's task makes good.
            hand.send(incoming.accept(HeaderMap::new()).unwrap()).await.unwrap();
        }
    })
    .await;
    let pool = Client::new(server.address, PoolConfig::default());
    let (tunnel, _) = pool.open("10.0.0.1:80").await.unwrap();
    let far_tunnel = tunnels.recv().await.unwrap();
    let counters = Arc::new(Counters::default());
    let counted = Arc::clone(&counters);
    let near = tokio::spawn(async move { pump(tunnel, captured, &counted).await });
    let far = tokio::spawn(async move { pump(far_tunnel, upstream, &Counters::default()).await });
    Line { client, server: application, counters, near, far, _pool: pool }
}

async fn outcome(task: JoinHandle<Outcome>) -> Outcome {
    timeout(Duration::from_secs(10), task).await.expect("the pump did not end").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_megabytes_pass_unchanged_both_ways_and_are_counted() {
    let line = line().await;
    let (there, back) = (noise(1, 60 << 20), noise(2, 40 << 20));
    let (mut client_read, mut client_write) = line.client.into_split();
    let (mut server_read, mut server_write) = line.server.into_split();
    let (mut got_there, mut got_back) = (Vec::new(), Vec::new());
    tokio::join!(
        async {
            client_write.write_all(&there).await.unwrap();
            client_write.shutdown().await.unwrap();
        },
        async {
            server_write.write_all(&back).await.unwrap();
            server_write.shutdown().await.unwrap();
        },
        async { server_read.read_to_end(&mut got_there).await.unwrap() },
        async { client_read.read_to_end(&mut got_back).await.unwrap() },
    );
    assert!(got_there == there && got_back == back, "bytes changed on the way");
    let near = outcome(line.near).await;
    let far = outcome(line.far).await;
    assert!(matches!((&near.ended_by, &far.ended_by), (EndedBy::Finished, EndedBy::Finished)), "{near:?} {far:?}");
    assert_eq!((near.sent, near.received), (60 << 20, 40 << 20));
    assert_eq!((far.sent, far.received), (40 << 20, 60 << 20));
}

/// Starts a thread for bulk, and lets the calling one hand bulk to it.
fn thread_for_bulk() {
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        carry_bulk_here();
        tell.send(runtime.handle().clone()).unwrap();
        runtime.block_on(std::future::pending::<()>());
    });
    let runtime = told.recv().unwrap();
    hand_bulk_to(move || Some(runtime.clone()), |_| {});
}

#[tokio::test]
async fn bulk_beside_small_requests_goes_to_the_thread_for_bulk_and_passes_unchanged() {
    thread_for_bulk();
    let (mut client, captured) = tcp_pair().await;
    let (upstream, mut application) = tcp_pair().await;
    let (hand, mut tunnels) = mpsc::channel(1);
    let server = server(ServerConfig::default(), move |incoming| {
        let hand = hand.clone();
        async move { hand.send(incoming.accept(HeaderMap::new()).unwrap()).await.unwrap() }
    })
    .await;
    let pool = Client::new(server.address, PoolConfig::default());
    let (tunnel, _) = pool.open("10.0.0.1:80").await.unwrap();
    let far_tunnel = tunnels.recv().await.unwrap();
    let (home, went) = (thread::current().id(), Arc::new(AtomicBool::new(false)));
    let seen = Arc::clone(&went);
    let mut carried = pump(tunnel, captured, Arc::new(Counters::default()));
    let watched = poll_fn(move |cx| {
        seen.fetch_or(thread::current().id() != home, Ordering::Relaxed);
        std::pin::Pin::new(&mut carried).poll(cx)
    });
    let near = tokio::spawn(Roaming::new(watched));
    let far = tokio::spawn(Roaming::new(pump(far_tunnel, upstream, Arc::new(Counters::default()))));
    // In tunnels of their own.
    let mut small = line().await;
    let (there, back) = (noise(1, 24 << 20), noise(2, 24 << 20));
    let (mut got_there, mut got_back) = (Vec::new(), Vec::new());
    let bulk = async {
        let ((mut client_read, mut client_write), (mut server_read, mut server_write)) = (client.split(), application.split());
        tokio::try_join!(
            async {
                client_write.write_all(&there).await?;
                client_write.shutdown().await
            },
            async {
                server_write.write_all(&back).await?;
                server_write.shutdown().await
            },
            server_read.read_to_end(&mut got_there),
            client_read.read_to_end(&mut got_back),
        )
    };
    let requests = async {
        for _ in 0..u32::MAX {
            small.client.write_all(&[1; 100]).await.unwrap();
            small.server.read_exact(&mut [0; 100]).await.unwrap();
            small.server.write_all(&[2; 1000]).await.unwrap();
            small.client.read_exact(&mut [0; 1000]).await.unwrap();
        }
    };
    tokio::select! {
        passed = timeout(Duration::from_secs(60), bulk) => passed.expect("the bytes did not arrive").map(drop).unwrap(),
        () = requests => {}
    }
    assert!(got_there == there && got_back == back, "bytes changed on the way");
    let (near, far) = (outcome(near).await, outcome(far).await);
    assert!(matches!((&near.ended_by, &far.ended_by), (EndedBy::Finished, EndedBy::Finished)), "{near:?} {far:?}");
    assert_eq!((near.sent, near.received), (24 << 20, 24 << 20));
    assert!(went.load(Ordering::Relaxed), "it was never on the thread for bulk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bytes_are_counted_while_the_connection_is_open() {
    let mut line = line().await;
    line.client.write_all(&[7; 1000]).await.unwrap();
    line.server.read_exact(&mut [0; 1000]).await.unwrap();
    line.server.write_all(&[7; 3000]).await.unwrap();
    line.client.read_exact(&mut [0; 3000]).await.unwrap();
    // The client may have the last bytes a moment before they are counted.
    for _ in 0..100 {
        if line.counters.received() == 3000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((line.counters.sent(), line.counters.received()), (1000, 3000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn either_end_may_close_its_direction_first() {
    for client_first in [true, false] {
        let line = line().await;
        let (mut first, mut second) = if client_first { (line.client, line.server) } else { (line.server, line.client) };
        first.write_all(b"question").await.unwrap();
        first.shutdown().await.unwrap();
        let mut text = String::new();
        second.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "question");
        second.write_all(&noise(3, 2 << 20)).await.unwrap();
        second.shutdown().await.unwrap();
        let mut answer = Vec::new();
        first.read_to_end(&mut answer).await.unwrap();
        assert!(answer == noise(3, 2 << 20));
        assert!(matches!(outcome(line.near).await.ended_by, EndedBy::Finished));
        assert!(matches!(outcome(line.far).await.ended_by, EndedBy::Finished));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reset_of_one_end_is_a_reset_for_the_other() {
    for client_resets in [true, false] {
        let line = line().await;
        let (resetting, mut other) = if client_resets { (line.client, line.server) } else { (line.server, line.client) };
        resetting.set_zero_linger().unwrap();
        drop(resetting);
        let seen = timeout(Duration::from_secs(5), other.read(&mut [0; 16])).await.unwrap();
        assert_eq!(seen.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let (near, far) = (outcome(line.near).await.ended_by, outcome(line.far).await.ended_by);
        let (by_tcp, by_tunnel) = if client_resets { (near, far) } else { (far, near) };
        assert!(matches!(by_tcp, EndedBy::Second(_)), "{by_tcp:?}");
        assert!(matches!(by_tunnel, EndedBy::First(_)), "{by_tunnel:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pump_that_is_dropped_resets_both_ends() {
    let mut line = line().await;
    // Once bytes have passed the pump is known to run.
    line.client.write_all(b"?").await.unwrap();
    line.server.read_exact(&mut [0]).await.unwrap();
    line.near.abort();
    for end in [&mut line.client, &mut line.server] {
        let seen = timeout(Duration::from_secs(5), end.read(&mut [0; 16])).await.unwrap();
        assert_eq!(seen.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reset_is_noticed_although_the_other_end_does_not_read() {
    let line = line().await;
    let (_client_read, mut client_write) = line.client.into_split();
    // Fill everything on the way: the server reads nothing.
    let chunk = noise(4, 1 << 20);
    while timeout(Duration::from_millis(300), client_write.write_all(&chunk)).await.is_ok() {}
    line.near.abort();
    let started = Instant::now();
    assert!(matches!(outcome(line.far).await.ended_by, EndedBy::First(_)));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_tunnels_can_be_joined() {
    let (hand, mut tunnels) = mpsc::channel(2);
    let server = server(ServerConfig::default(), move |incoming| {
        let hand = hand.clone();
        async move { hand.send(incoming.accept(HeaderMap::new()).unwrap()).await.unwrap() }
    })
    .await;
    let pool = Client::new(server.address, PoolConfig::default());
    let (mut left, _) = pool.open("10.0.0.1:80").await.unwrap();
    let left_far = tunnels.recv().await.unwrap();
    let (mut right, _) = pool.open("10.0.0.2:80").await.unwrap();
    let right_far = tunnels.recv().await.unwrap();
    let joined = tokio::spawn(async move { join(left_far, right_far, &Counters::default()).await });
    left.write_all(b"hello").await.unwrap();
    left.shutdown().await.unwrap();
    let mut text = String::new();
    right.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");
    right.write_all(b"and back").await.unwrap();
    right.shutdown().await.unwrap();
    text.clear();
    left.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "and back");
    assert!(matches!(outcome(joined).await.ended_by, EndedBy::Finished));
}

/// What an HTTP server does that answers and closes: its side of the tunnel is dropped right after its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_arrives_whole_from_a_server_that_closes_right_after_it() {
    for length in [5, 3 << 20] {
        let server = server(ServerConfig::default(), move |incoming| async move {
            let mut tunnel = incoming.accept(HeaderMap::new()).unwrap();
            tunnel.read_exact(&mut [0; 3]).await.unwrap();
            tunnel.write_all(&noise(8, length)).await.unwrap();
            tunnel.shutdown().await.unwrap();
        })
        .await;
        let pool = Client::new(server.address, PoolConfig::default());
        let (tunnel, _) = pool.open("10.0.0.1:80").await.unwrap();
        let (mut client, captured) = tcp_pair().await;
        let near = tokio::spawn(async move { pump(tunnel, captured, &Counters::default()).await });
        client.write_all(b"GET").await.unwrap();
        let mut answer = Vec::new();
        timeout(Duration::from_secs(5), client.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert!(answer == noise(8, length), "{} of {length} bytes came", answer.len());
        assert!(matches!(outcome(near).await.ended_by, EndedBy::Finished));
        // And it is closed as a whole: the client is told when it goes on.
        let told = async { while client.write_all(b"more").await.is_ok() {} };
        timeout(Duration::from_secs(5), told).await.unwrap();
    }
}

/// What Envoy does as a waypoint once the application has closed: RST_STREAM right behind the answer, and both may be there before anything is
/// carried.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_arrives_whole_although_the_reset_behind_it_came_before_it_was_carried() {
    // A tunnel that is dropped takes back what was not sent yet: on a busy machine that takes longer.
    for hold in [100, 1000, 5000, 20_000].map(Duration::from_millis) {
        let server = server(ServerConfig::default(), move |incoming| async move {
            let mut tunnel = incoming.accept(HeaderMap::new()).unwrap();
            tunnel.write_all(b"answer").await.unwrap();
            tokio::time::sleep(hold).await;
        })
        .await;
        let pool = Client::new(server.address, PoolConfig::default());
        let (mut tunnel, _) = pool.open("10.0.0.1:80").await.unwrap();
        poll_fn(|cx| tunnel.poll_reset(cx)).await;
        let (mut client, captured) = tcp_pair().await;
        client.write_all(b"GET").await.unwrap();
        captured.readable().await.unwrap();
        let near = tokio::spawn(async move { pump(tunnel, captured, &Counters::default()).await });
        let mut answer = Vec::new();
        let ended = timeout(Duration::from_secs(5), client.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(matches!(outcome(near).await.ended_by, EndedBy::First(_)));
        if answer == b"answer" {
            return;
        }
    }
    panic!("the answer was lost each time");
}

/// An application that answers before it has read all, ends its answer, and closes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_early_answer_arrives_whole_although_the_question_goes_on() {
    let line = line().await;
    let (mut client_read, mut client_write) = line.client.into_split();
    let asking = tokio::spawn(async move {
        let chunk = noise(9, 64 << 10);
        while client_write.write_all(&chunk).await.is_ok() {}
    });
    let (mut server_read, mut server_write) = line.server.into_split();
    server_read.read_exact(&mut [0; 1000]).await.unwrap();
    server_write.write_all(&noise(10, 200_000)).await.unwrap();
    server_write.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(5), client_read.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer == noise(10, 200_000));
    drop((server_read, server_write));
    timeout(Duration::from_secs(5), asking).await.expect("the client was not told that nobody reads any more").unwrap();
    let far = outcome(line.far).await.ended_by;
    assert!(matches!(far, EndedBy::Second(_)), "the loss of the question was not reported: {far:?}");
    outcome(line.near).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_reader_gets_all_of_an_answer_whose_sender_has_gone() {
    let server = server(ServerConfig::default(), move |incoming| async move {
        let mut tunnel = incoming.accept(HeaderMap::new()).unwrap();
        tunnel.write_all(&noise(11, 3 << 20)).await.unwrap();
        tunnel.shutdown().await.unwrap();
    })
    .await;
    let pool = Client::new(server.address, PoolConfig::default());
    let (tunnel, _) = pool.open("10.0.0.1:80").await.unwrap();
    let (mut client, captured) = tcp_pair().await;
    let near = tokio::spawn(async move { pump(tunnel, captured, &Counters::default()).await });
    // Long enough for everything to be sent, and the sender's connection to be gone as well.
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.task.abort();
    server.drain.cancel();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(answer == noise(11, 3 << 20), "{} bytes came", answer.len());
    drop(client);
    outcome(near).await;
}

/// Two ends of a TCP connection in which the kernel keeps little.
async fn narrow_tcp_pair() -> (TcpStream, TcpStream) {
    let (near, far) = (TcpSocket::new_v4().unwrap(), TcpSocket::new_v4().unwrap());
    near.set_send_buffer_size(16 << 10).unwrap();
    far.set_recv_buffer_size(16 << 10).unwrap();
    far.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = far.listen(1).unwrap();
    let (near, far) = tokio::join!(near.connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// Flow control counts bytes, not pieces: a reader that has stopped must not let pieces pile up until the connection breaks.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stalled_reader_of_many_small_pieces_costs_no_neighbour_its_connection() {
    let (hand, mut tunnels) = mpsc::channel(2);
    let server = server(ServerConfig::default(), move |incoming| {
        let hand = hand.clone();
        async move { hand.send(incoming.accept(HeaderMap::new()).unwrap()).await.unwrap() }
    })
    .await;
    let pool = Client::new(server.address, PoolConfig::default());
    let (mut neighbour, _) = pool.open("10.0.0.1:80").await.unwrap();
    let mut neighbour_far = tunnels.recv().await.unwrap();
    let sent = noise(12, 4_000_000);
    let mut stalled = Vec::new();
    for _ in 0..3 {
        let (mut chatty, _) = pool.open("10.0.0.1:80").await.unwrap();
        let chatty_far = tunnels.recv().await.unwrap();
        let (upstream, application) = narrow_tcp_pair().await;
        let far = tokio::spawn(async move { pump(chatty_far, upstream, &Counters::default()).await });
        for piece in sent.chunks(12) {
            chatty.write_all(piece).await.unwrap();
        }
        stalled.push((chatty, application, far));
    }
    neighbour.write_all(b"!").await.unwrap();
    neighbour_far.read_exact(&mut [0]).await.unwrap();
    for (mut chatty, mut application, far) in stalled {
        let mut received = vec![0; sent.len()];
        application.read_exact(&mut received).await.unwrap();
        assert!(received == sent);
        chatty.shutdown().await.unwrap();
        assert_eq!(application.read(&mut [0]).await.unwrap(), 0);
        drop(application);
        assert_eq!(chatty.read(&mut [0]).await.unwrap(), 0);
        assert!(matches!(outcome(far).await.ended_by, EndedBy::Finished));
    }
}

/// Tunnels share the connection's window. Those whose reader has stopped must not use it up for the others, in either direction.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_stalled_readers_do_not_hold_up_their_neighbour() {
    for stalled_at_client in [true, false] {
        let (hand, mut tunnels) = mpsc::channel(2);
        let server = server(ServerConfig::default(), move |incoming| {
            let hand = hand.clone();
            async move { hand.send(incoming.accept(HeaderMap::new()).unwrap()).await.unwrap() }
        })
        .await;
        let pool = Client::new(server.address, PoolConfig::default());
        let mut stalled = Vec::new();
        for _ in 0..8 {
            let (near, _) = pool.open("10.0.0.1:80").await.unwrap();
            let far = tunnels.recv().await.unwrap();
            let (reader, mut writer) = if stalled_at_client { (near, far) } else { (far, near) };
            let (tcp, unread) = narrow_tcp_pair().await;
            let pumped = tokio::spawn(async move { pump(reader, tcp, &Counters::default()).await });
            let chunk = noise(13, 64 << 10);
            while timeout(Duration::from_millis(200), writer.write_all(&chunk)).await.is_ok() {}
            stalled.push((writer, unread, pumped));
        }
        let (near, _) = pool.open("10.0.0.1:80").await.unwrap();
        let far = tunnels.recv().await.unwrap();
        let (mut reader, mut writer) = if stalled_at_client { (near, far) } else { (far, near) };
        let sent = noise(14, 3 << 20);
        let mut received = vec![0; sent.len()];
        let exchange = async { tokio::join!(writer.write_all(&sent), reader.read_exact(&mut received)) };
        let (wrote, heard) = timeout(Duration::from_secs(5), exchange).await.expect("the neighbour was held up");
        wrote.unwrap();
        heard.unwrap();
        assert!(received == sent);
        assert_eq!(pool.dials(), 1);
    }
}
