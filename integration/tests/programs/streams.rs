//! Streams of bytes: very large, closed on one side, a thousand at once, and with the client's own address at the server.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use ambit::local::access::AccessLine;
use ambit_integration::{SharedMesh, client::Client, shared, suite::Suite};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{CLIENT, encrypted, logged};

/// The port of the service `echo` on which a test itself is the server.
const RAW: u16 = 9999;
/// Bytes written and read at once.
const BLOCK: usize = 1 << 20;
/// Blocks of a large transfer: 1 GiB.
const BLOCKS: u64 = 1 << 10;
/// Connections at once.
const MANY: usize = 1000;
/// Limit for each step that needs no large amount of data.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    let plain = "programs/echo";
    let guarded = "guarded/echo";
    vec![
        shared(
            mesh,
            "the server sees the client's own address, over IPv4 and IPv6, on the same and on another node",
            own_address,
        ),
        shared(mesh, "either side may close its half first", async move |suite| half_closed(suite, plain).await),
        shared(mesh, "either side may close its half first through a waypoint", async move |suite| {
            half_closed(suite, guarded).await?;
            carried_for(suite).await
        }),
        shared(mesh, "1,000 connections at once each exchange bytes", async move |suite| many(suite, plain).await),
        shared(mesh, "1,000 connections at once each exchange bytes through a waypoint", async move |suite| {
            many(suite, guarded).await
        }),
        shared(mesh, "1 GiB arrives with an equal checksum, in both directions", gigabyte),
    ]
}

async fn own_address(suite: &Suite) -> anyhow::Result<()> {
    let client = suite.pod(CLIENT)?;
    for server in ["programs/echo", "programs/near"] {
        let pod = suite.pod(server)?;
        for address in suite.service(server)?.into_iter().chain(pod.ips()) {
            let mut stream = Client::new(client.clone(), (address, 7070).into()).connect().await?;
            stream.shutdown().await?;
            let mut greeting = String::new();
            tokio::time::timeout(PATIENCE, stream.read_to_string(&mut greeting)).await??;
            let own = client.ips().into_iter().find(|own| own.is_ipv4() == address.is_ipv4()).context("no such family")?;
            ensure!(greeting == format!("hello {own}\n"), "{server} at {address} was called by {greeting:?}, not by {own}");
        }
        let inbound = |line: &AccessLine| {
            line.get("direction") == Some("inbound") && line.get("src.workload") == Some("client") && line.is_mutual_tls()
        };
        let node = if server.ends_with("near") { "ztunnel/node-1" } else { "ztunnel/node-2" };
        suite.logged(node, inbound).await?;
    }
    Ok(())
}

/// Both ends of a connection from the client to the service, the server's being this test in the service's pod.
async fn pair(suite: &Suite, service: &str, to: IpAddr) -> anyhow::Result<(TcpStream, TcpStream)> {
    let listener = listen(suite, service)?;
    let client = Client::new(suite.pod(CLIENT)?, SocketAddr::new(to, RAW));
    let (client, server) = tokio::join!(client.connect(), tokio::time::timeout(PATIENCE, listener.accept()));
    Ok((client?, server.context("the connection did not arrive")??.0))
}

fn listen(suite: &Suite, service: &str) -> anyhow::Result<TcpListener> {
    Ok(suite.pod(service)?.listen((Ipv6Addr::UNSPECIFIED, RAW).into())?)
}

async fn half_closed(suite: &Suite, service: &str) -> anyhow::Result<()> {
    let before = logged(suite);
    for address in suite.service(service)? {
        let (mut client, mut server) = pair(suite, service, address).await?;
        one_side_first(&mut client, &mut server).await.with_context(|| format!("{address}, the client's half first"))?;
        let (mut client, mut server) = pair(suite, service, address).await?;
        one_side_first(&mut server, &mut client).await.with_context(|| format!("{address}, the server's half first"))?;
    }
    encrypted(suite, service, before).await
}

/// The proxy of the server's node says whom the waypoint carried bytes for, and nothing of what carried requests, of several clients it may be.
async fn carried_for(suite: &Suite) -> anyhow::Result<()> {
    const NODE: &str = "ztunnel/node-2";
    let ends = |line: &AccessLine, name: &str, with: &str| line.get(name).is_some_and(|value| value.ends_with(with));
    let is_told = |line: &AccessLine| line.get("direction") == Some("inbound") && line.get("src.forwarded_client").is_some();
    let of_stream = |line: &AccessLine| is_told(line) && ends(line, "dst.addr", ":9999");
    let line = suite.logged(NODE, of_stream).await?;
    ensure!(ends(&line, "src.forwarded_client", "/ns/callers/sa/client"), "{line:?}");
    ensure!(line.get("src.identity").is_some_and(|identity| identity.contains("/ns/guarded/")), "{line:?}");
    let lines = suite.mesh.access_log(NODE);
    let other = lines.iter().find(|line| is_told(line) && !ends(line, "dst.addr", ":9999") && !ends(line, "dst.addr", ":9090"));
    ensure!(other.is_none(), "of what carried requests: {other:?}");
    Ok(())
}

/// `first` says something and ends its half; only when `second` has seen that does it send all of its own, and end.
async fn one_side_first(first: &mut TcpStream, second: &mut TcpStream) -> anyhow::Result<()> {
    let story: Vec<u8> = (0..3_000_000_u32).map(|index| (index % 251) as u8).collect();
    let exchange = async {
        first.write_all(b"go on").await?;
        first.shutdown().await?;
        let mut order = Vec::new();
        second.read_to_end(&mut order).await?;
        ensure!(order == b"go on", "{order:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut heard = Vec::new();
        let telling = async {
            second.write_all(&story).await?;
            second.shutdown().await
        };
        let (told, read) = tokio::join!(telling, first.read_to_end(&mut heard));
        told?;
        read?;
        ensure!(heard == story, "{} of {} bytes arrived after the half-close", heard.len(), story.len());
        Ok(())
    };
    tokio::time::timeout(PATIENCE, exchange).await.context("no end of stream in time")?
}

async fn many(suite: &Suite, service: &str) -> anyhow::Result<()> {
    let before = logged(suite);
    let client = suite.client(CLIENT, service, 9090)?;
    let opening = futures::future::try_join_all((0..MANY).map(|_| client.connect()));
    let mut streams = tokio::time::timeout(PATIENCE, opening).await.context("opening took too long")??;
    // All are open now; each is used, in two rounds, so that every one lives while all others do.
    for round in 0..2 {
        let uses = streams.iter_mut().enumerate().map(async |(number, stream)| {
            let sent = format!("connection {number}, round {round};").repeat(100).into_bytes();
            let mut back = vec![0; sent.len()];
            stream.write_all(&sent).await?;
            stream.read_exact(&mut back).await.with_context(|| format!("connection {number}, round {round}"))?;
            ensure!(back == sent, "connection {number} got the bytes of another");
            anyhow::Ok(())
        });
        tokio::time::timeout(PATIENCE, futures::future::try_join_all(uses)).await.context("the exchange took too long")??;
    }
    drop(streams);
    encrypted(suite, service, before).await
}

async fn gigabyte(suite: &Suite) -> anyhow::Result<()> {
    let before = logged(suite);
    let address = suite.service("programs/echo")?[0];
    for direction in ["up", "down"] {
        let (client, server) = pair(suite, "programs/echo", address).await?;
        let (sender, receiver) = if direction == "up" { (client, server) } else { (server, client) };
        let began = Instant::now();
        let transfer = async { tokio::join!(tokio::spawn(send(sender)), tokio::spawn(receive(receiver))) };
        let (sent, received) = tokio::time::timeout(Duration::from_secs(60), transfer).await.context("too slow")?;
        let (sent, (received, bytes)) = (sent??, received??);
        ensure!(bytes == BLOCKS * BLOCK as u64, "{direction}: {bytes} bytes arrived");
        ensure!(sent == received, "{direction}: the checksums differ");
        let seconds = began.elapsed().as_secs_f64();
        eprintln!("1 GiB {direction} in {seconds:.1} s: {:.2} Gbit/s", bytes as f64 * 8e-9 / seconds);
    }
    encrypted(suite, "programs/echo", before).await
}

/// Sends blocks of which no two are equal; their checksum.
async fn send(mut to: impl AsyncWrite + Unpin) -> anyhow::Result<Vec<u8>> {
    let mut checksum = Sha256::new();
    let mut block: Vec<u8> =
        (0..BLOCK as u32).flat_map(|index| index.wrapping_mul(2_654_435_761).to_le_bytes()).take(BLOCK).collect();
    for number in 0..BLOCKS {
        block[..8].copy_from_slice(&number.to_le_bytes());
        checksum.update(&block);
        to.write_all(&block).await?;
    }
    to.shutdown().await?;
    Ok(checksum.finalize().to_vec())
}

/// Receives to the end; the checksum and the number of bytes.
async fn receive(mut from: impl AsyncRead + Unpin) -> anyhow::Result<(Vec<u8>, u64)> {
    let (mut checksum, mut bytes, mut block) = (Sha256::new(), 0, vec![0; BLOCK]);
    loop {
        let read = from.read(&mut block).await?;
        if read == 0 {
            return Ok((checksum.finalize().to_vec(), bytes));
        }
        checksum.update(&block[..read]);
        bytes += read as u64;
    }
}
