//! Peers with a good certificate, or none yet, that go to the limits of a proxy: each is refused or ended with its reason, and others go on.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ambit_testbed::Pod;
use ambit_tls::{authority::LocalSource, client_config, handshake};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    mesh::{Mesh, PATIENCE, call, call_until_it_works, echo, id_of},
    noise::noise,
    observe::get,
    test,
};

pub fn tests() -> Vec<Trial> {
    vec![
        test("a_peer_that_takes_too_long_or_sends_too_much_is_ended_with_its_reason", limits),
        test("connections_that_carry_nothing_are_ended_with_their_reason", quiet),
        test("tunnels_that_nobody_reads_are_cut_when_too_many_bytes_wait", memory),
    ]
}

/// Frame types and flags of RFC 9113, section 6.
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A block of header fields, none of them indexed.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// A connection to the HBONE port of `server`, as a peer of the mesh makes it.
pub async fn tls(mesh: &Mesh, peer: &Pod, server: &Pod) -> anyhow::Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>> {
    let source = LocalSource::new(Arc::clone(&mesh.authority), Duration::from_mins(10));
    let config = client_config(&source.svid(&id_of("web").parse()?)?, &[id_of("api").parse()?])?;
    let tcp = peer.connect(SocketAddr::new(server.ip(), 15008)).await?;
    Ok(handshake::connect(tcp, config, PATIENCE).await?)
}

/// As [`tls`], with the beginning of HTTP/2.
async fn http2(mesh: &Mesh, peer: &Pod, server: &Pod) -> anyhow::Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>> {
    let mut stream = tls(mesh, peer, server).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    Ok(stream)
}

/// Reads until the proxy ends it; however it does.
async fn ended(mut stream: impl AsyncRead + Unpin) -> anyhow::Result<()> {
    let mut buffer = vec![0; 4096];
    let end = async { while let Ok(1..) = stream.read(&mut buffer).await {} };
    tokio::time::timeout(2 * PATIENCE, end).await.context("it was never ended")
}

async fn limits() -> anyhow::Result<()> {
    let mesh = Mesh::start_adding(|_, _| {
        let flags = ["--handshake-seconds", "1", "--header-seconds", "1", "--max-tunnels-per-connection", "5"];
        flags.map(Into::into).to_vec()
    })
    .await?;
    let (peer, server) = (mesh.outsider(0, "peer", false).await?, mesh.pod(1, "api").await?);
    let client = mesh.pod(0, "web").await?;
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    call_until_it_works(&client, to, 2 * PATIENCE).await?;
    let refused = |reason: &str, why: &'static str| {
        let reason = format!("reason={reason} ");
        let mesh = &mesh;
        async move { mesh.logged(1, &["direction=inbound", &reason, why]).await.map(drop) }
    };

    ended(peer.connect(SocketAddr::new(server.ip(), 15008)).await?).await.context("without a handshake")?;
    refused("tls_handshake_timeout", "").await?;

    ended(tls(&mesh, &peer, &server).await?).await.context("without HTTP/2")?;
    refused("tunnel_timeout", "no HTTP/2 preface in time").await?;

    let connect = block(&[(":method", "CONNECT"), (":authority", &to.to_string())]);
    let mut stream = http2(&mesh, &peer, &server).await?;
    stream.write_all(&frame(HEADERS, 0, 1, &connect)).await?;
    ended(stream).await.context("a header block without end")?;
    refused("tunnel_protocol_error", "a header block that takes too long").await?;

    let mut stream = http2(&mesh, &peer, &server).await?;
    let get_request = block(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a:1")]);
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &get_request)).await?;
    refused("not_connect", "not a CONNECT").await?;
    let long = "a".repeat(120);
    let large: Vec<u8> = (0..150).flat_map(|_| block(&[("x-long", &long)])).collect();
    stream.write_all(&frame(HEADERS, END_HEADERS, 3, &[connect.clone(), large].concat())).await?;
    refused("request_too_large", "headers").await?;
    for number in 0..9 {
        stream.write_all(&frame(HEADERS, END_HEADERS, 5 + 2 * number, &connect)).await?;
    }
    refused("connection_limit", "more tunnels in one connection").await?;
    let metrics = get(&mesh, 1, 15020, "/metrics").await?;
    for reason in ["not_connect", "request_too_large", "connection_limit"] {
        let series = format!("ambit_tunnels_refused_total{{reason=\"{reason}\"}}");
        ensure!(metrics.contains(&series), "no {series} in\n{metrics}");
    }
    drop(stream);

    let mut stream = http2(&mesh, &peer, &server).await?;
    let flood = frame(PING, 0, 0, &[7; 8]).repeat(1000);
    // It is held back while it reads nothing, and then ended.
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let send = async { while write.write_all(&flood).await.is_ok() {} };
    let _ended =
        tokio::time::timeout(2 * PATIENCE, async { tokio::join!(ended(&mut read), send) }).await.context("a flood of pings")?;
    refused("tunnel_protocol_error", "too many frames that move nothing").await?;

    call(&client, to, b"hello").await.context("others")?;
    ensure!(mesh.nodes[1].proxy.as_ref().is_some_and(|proxy| proxy.is_running()), "the proxy has ended");
    mesh.bed.shutdown().await;
    Ok(())
}

async fn quiet() -> anyhow::Result<()> {
    let mesh = Mesh::start_adding(|_, _| ["--idle-seconds", "10", "--half-open-seconds", "4"].map(Into::into).to_vec()).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let near = mesh.pod(0, "near").await?;
    let listener = server.listen(SocketAddr::from(([0_u16; 8], 8080)))?;
    let near_listener = near.listen(SocketAddr::from(([0_u16; 8], 8080)))?;
    // They take what comes, and never answer or end by themselves.
    let hold = |listener: tokio::net::TcpListener| async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    };
    let (_far, _near) = (tokio::spawn(hold(listener)), tokio::spawn(hold(near_listener)));
    let warm = SocketAddr::new(server.ip(), 8081);
    let _echo = echo(&server, 8081)?;
    call_until_it_works(&client, warm, 2 * PATIENCE).await?;
    for (pod, nodes) in [(&server, &[0, 1][..]), (&near, &[0])] {
        let to = SocketAddr::new(pod.ip(), 8080);
        for (reason, half) in [("half_open_timeout", true), ("idle_timeout", false)] {
            let mut stream: TcpStream = client.connect(to).await?;
            stream.write_all(b"hello").await?;
            if half {
                stream.shutdown().await?;
            }
            ended(stream).await.with_context(|| format!("{reason} to {to}"))?;
            // Whichever proxy looks first ends it; the other one sees that it was cut.
            let parts = [&format!("reason={reason} "), &format!("dst.addr={to}")[..]];
            let until = Instant::now() + PATIENCE;
            while !nodes.iter().any(|node| mesh.logged_now(*node, &parts).is_some()) {
                ensure!(Instant::now() < until, "no proxy says {reason}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    // One that carries something now and then is not ended.
    let mut stream = client.connect(warm).await?;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stream.write_all(b"still here").await?;
    }
    stream.shutdown().await?;
    let mut all = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await??;
    ensure!(all.ends_with(b"bye"), "it was cut");
    mesh.bed.shutdown().await;
    Ok(())
}

async fn memory() -> anyhow::Result<()> {
    let mesh = Mesh::start_adding(|_, _| ["--max-buffered-mib", "1"].map(Into::into).to_vec()).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    call_until_it_works(&client, to, 2 * PATIENCE).await?;
    let listener = server.listen(SocketAddr::from(([0_u16; 8], 9000)))?;
    // It reads nothing.
    let _holds = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut stream = client.connect(SocketAddr::new(server.ip(), 9000)).await?;
        clients.push(tokio::spawn(async move { while stream.write_all(noise(0, 1 << 20)).await.is_ok() {} }));
    }
    mesh.logged(1, &["direction=inbound", "reason=memory_limit "]).await?;
    // What is read goes on meanwhile, and more of it when they are gone.
    call(&client, to, b"hello").await.context("one that is read")?;
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    let until = Instant::now() + PATIENCE;
    while !call(&client, to, noise(0, 300_000)).await.is_ok_and(|(_, answer)| answer.starts_with(noise(0, 300_000))) {
        ensure!(Instant::now() < until, "the bytes of those who have gone still count");
    }
    mesh.bed.shutdown().await;
    Ok(())
}
