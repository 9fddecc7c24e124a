//! Faults that are put in the way of requests, limits of how often they may come and how large they may be, and how long they may be silent
//! and last.

use std::time::{Duration, Instant};

use ambit_integration::{
    SharedMesh,
    client::{Answer, get},
    shared,
    suite::Suite,
};
use anyhow::ensure;
use bytes::Bytes;
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{CLIENT, ECHO, OTHER};

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        shared(mesh, "what a fault is for is answered without the service, or late, and nothing else", faults),
        shared(mesh, "beyond its burst a rule refuses, however a request matches it, and others do not", limit),
        shared(mesh, "each identity and each value of a header has a limit of its own", limit_of_each),
        shared(mesh, "a body that is longer than its route lets pass is refused, and one that is just so long is not", sizes),
        shared(
            mesh,
            "a request of which nothing passes for the time of its route is ended, and one that trickles is not",
            silent,
        ),
        shared(mesh, "a stream lasts no longer than its route says, however much passes on it", lasting),
        shared(
            mesh,
            "an upgrade to a protocol of one's own is carried where a policy names it, and refused elsewhere",
            named_upgrades,
        ),
    ]
}

async fn ask(suite: &Suite, from: &str, path: &str, header: Option<(&str, &str)>) -> anyhow::Result<Answer> {
    let request = header.into_iter().fold(get(path), |request, (name, value)| request.header(name, value));
    suite.client(from, ECHO, 80)?.session().await?.send(request, Bytes::new()).await
}

async fn faults(suite: &Suite) -> anyhow::Result<()> {
    let broken = ask(suite, CLIENT, "/broken", Some(("x-fault", "abort"))).await?;
    ensure!(broken.status == 503 && broken.body == "fault filter abort", "{broken:?}");
    for header in [None, Some(("x-fault", "delay"))] {
        let answer = ask(suite, CLIENT, "/broken", header).await?;
        ensure!(answer.status == 200 && answer.echo().is_ok(), "{header:?}: {answer:?}");
    }
    let began = Instant::now();
    let slow = ask(suite, CLIENT, "/slow", Some(("x-fault", "wait"))).await?;
    ensure!(slow.status == 200 && slow.echo().is_ok(), "{slow:?}");
    ensure!(began.elapsed() >= Duration::from_millis(700), "it came after {:?}", began.elapsed());
    Ok(())
}

async fn sizes(suite: &Suite) -> anyhow::Result<()> {
    for (path, length, status) in [("/small", 16, 200), ("/small", 17, 413), ("/first", 17, 200)] {
        let body = Bytes::from("x".repeat(length));
        let answer = suite.client(CLIENT, ECHO, 80)?.session().await?.send(get(path).method("POST"), body).await?;
        ensure!(answer.status == status, "{path} with {length} bytes: {answer:?}");
    }
    Ok(())
}

/// How many of five requests are let through; the others must be refused as what comes too often is.
async fn passing(suite: &Suite, from: &str, path: &str, header: Option<(&str, &str)>) -> anyhow::Result<usize> {
    let mut passed = 0;
    for _ in 0..5 {
        let answer = ask(suite, from, path, header).await?;
        let refused = answer.status == 429 && answer.body == "local_rate_limited";
        ensure!(refused || answer.status == 200 && answer.echo().is_ok(), "{path} {header:?}: {answer:?}");
        let again = answer.header("retry-after").and_then(|seconds| seconds.parse::<u32>().ok());
        ensure!(refused == again.is_some_and(|seconds| (1..=3600).contains(&seconds)), "{path} {header:?}: {answer:?}");
        ensure!(!refused || passed > 0, "{path} {header:?}: not even the first one passed");
        passed += usize::from(!refused);
    }
    Ok(passed)
}

async fn limit(suite: &Suite) -> anyhow::Result<()> {
    let passed = passing(suite, CLIENT, "/limited", None).await?;
    ensure!(passed == 3, "{passed} of 5 passed, and 3 were to");
    for (from, path) in [(CLIENT, "/limited-too"), (OTHER, "/limited")] {
        let answer = ask(suite, from, path, None).await?;
        ensure!(answer.status == 429, "{from} {path}: {answer:?}");
    }
    let others = passing(suite, CLIENT, "/first", None).await?;
    ensure!(others == 5, "{others} of 5 passed where there is no limit");
    Ok(())
}

async fn limit_of_each(suite: &Suite) -> anyhow::Result<()> {
    for (from, path, header) in [
        (CLIENT, "/each", None),
        (OTHER, "/each", None),
        (CLIENT, "/by-header", Some(("x-user", "ann"))),
        (CLIENT, "/by-header", Some(("x-user", "bob"))),
        (CLIENT, "/by-header", None),
    ] {
        let passed = passing(suite, from, path, header).await?;
        ensure!(passed == 2, "{from} {path} {header:?}: {passed} of 5 passed, and 2 were to");
    }
    for (from, header) in [(OTHER, Some(("x-user", "ann"))), (OTHER, None)] {
        let answer = ask(suite, from, "/by-header", header).await?;
        ensure!(answer.status == 429, "{from} {header:?}: {answer:?}");
    }
    Ok(())
}

/// An answer that comes after five seconds.
fn slow(path: &str) -> http::request::Builder {
    get(path).header("x-key", format!("late {path}")).header("x-fail-first", "1000000").header("x-fail-with", "slow")
}

/// Not as long as an answer of five seconds takes.
fn in_time(began: Instant, least: u64) -> anyhow::Result<()> {
    let took = began.elapsed();
    ensure!(took >= Duration::from_millis(least) && took < Duration::from_millis(4900), "it took {took:?}");
    Ok(())
}

/// Sends a body of eight bytes one after the other, with so long before each.
async fn upload(suite: &Suite, path: &str, bytes: usize, pause: Duration) -> anyhow::Result<String> {
    let mut stream = suite.client(CLIENT, ECHO, 80)?.connect().await?;
    let head = format!("PUT {path} HTTP/1.1\r\nhost: echo\r\ncontent-length: 8\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    for _ in 0..bytes {
        tokio::time::sleep(pause).await;
        stream.write_all(b"x").await?;
    }
    let mut answer = Vec::new();
    // An Envoy resets the tunnel right behind the last answer in it.
    let _end = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut answer)).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A stream of bytes after an upgrade.
async fn upgraded(suite: &Suite, path: &str) -> anyhow::Result<TcpStream> {
    let (head, stream) = asked_for(suite, path, "websocket").await?;
    ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
    Ok(stream)
}

/// The head of the answer to who asks for an upgrade, and what comes after it.
async fn asked_for(suite: &Suite, path: &str, protocol: &str) -> anyhow::Result<(String, TcpStream)> {
    let mut stream = suite.client(CLIENT, ECHO, 80)?.connect().await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: echo\r\nconnection: upgrade\r\nupgrade: {protocol}\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok((String::from_utf8_lossy(&head).into_owned(), stream))
}

async fn named_upgrades(suite: &Suite) -> anyhow::Result<()> {
    for protocol in ["Parrot/1.0", "websocket"] {
        let (head, mut stream) = asked_for(suite, "/upgraded", protocol).await?;
        ensure!(head.starts_with("HTTP/1.1 101"), "{protocol}: {head}");
        let said = format!("upgrade: {}", protocol.to_ascii_lowercase());
        ensure!(head.to_ascii_lowercase().contains(&said), "{protocol}: {head}");
        for message in [b"pieces of eight".as_slice(), b"\x00\xff\r\n\r\n binary"] {
            stream.write_all(message).await?;
            let mut back = vec![0; message.len()];
            stream.read_exact(&mut back).await?;
            ensure!(back == message, "{protocol}: {back:?}");
        }
    }
    for (path, protocol) in [("/upgraded", "parrot/2.0"), ("/upgraded", "irc/6.9"), ("/first", "Parrot/1.0")] {
        let (head, _) = asked_for(suite, path, protocol).await?;
        ensure!(head.starts_with("HTTP/1.1 403 "), "{path} {protocol}: {head}");
    }
    Ok(())
}

/// Sends a byte now and then that comes back, until the stream ends or it has done so that often; says how often it has.
async fn trickle(stream: &mut TcpStream, times: usize) -> anyhow::Result<usize> {
    for time in 0..times {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let sent = stream.write_all(b"x").await;
        let back = tokio::time::timeout(Duration::from_secs(15), stream.read_u8()).await?;
        if sent.is_err() || back.is_err() {
            return Ok(time);
        }
    }
    Ok(times)
}

async fn silent(suite: &Suite) -> anyhow::Result<()> {
    let began = Instant::now();
    let answer = suite.client(CLIENT, ECHO, 80)?.send(slow("/silent")).await?;
    ensure!(answer.status == 504, "{answer:?}");
    in_time(began, 1500)?;

    let answer = upload(suite, "/silent", 3, Duration::ZERO).await?;
    ensure!(answer.starts_with("HTTP/1.1 408 "), "half of it came: {answer}");
    let answer = upload(suite, "/silent", 8, Duration::from_millis(400)).await?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "it trickles: {answer}");

    let mut stream = upgraded(suite, "/silent").await?;
    let came = trickle(&mut stream, 6).await?;
    ensure!(came == 6, "the stream ended after {came}");
    let ended = tokio::time::timeout(Duration::from_secs(15), stream.read_u8()).await;
    ensure!(matches!(ended, Ok(Err(_))), "it is silent, and stays: {ended:?}");
    Ok(())
}

async fn lasting(suite: &Suite) -> anyhow::Result<()> {
    let began = Instant::now();
    let answer = suite.client(CLIENT, ECHO, 80)?.send(slow("/lasting")).await?;
    ensure!(answer.status == 504, "{answer:?}");
    in_time(began, 2000)?;
    let mut stream = upgraded(suite, "/lasting").await?;
    let came = trickle(&mut stream, 30).await?;
    ensure!((1..30).contains(&came), "{came} bytes came back");
    Ok(())
}
