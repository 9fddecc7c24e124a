//! What travels through a waypoint besides plain requests.

use ambit_integration::{SharedMesh, client::get, shared, suite::Suite};
use anyhow::ensure;
use bytes::Bytes;
use libtest_mimic::Trial;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{CLIENT, ECHO};

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        shared(mesh, "many requests share a connection", keep_alive),
        shared(mesh, "HTTP/2 without TLS is routed like HTTP/1.1", http2),
        shared(mesh, "a body of a megabyte arrives whole", body),
        shared(mesh, "a protocol upgrade becomes a stream of bytes", upgrade),
        shared(mesh, "bytes of a TCP port are carried and its half-close is kept", tcp),
        shared(mesh, "a server that speaks first is heard", server_first),
    ]
}

async fn keep_alive(suite: &Suite) -> anyhow::Result<()> {
    let mut session = suite.client(CLIENT, ECHO, 80)?.session().await?;
    for path in ["/first", "/exact", "/nowhere", "/prefix/a", "/first"].repeat(10) {
        let answer = session.get(path).await?;
        let expected = if path == "/nowhere" { 404 } else { 200 };
        ensure!(answer.status == expected, "{path}: {}", answer.status);
    }
    Ok(())
}

async fn http2(suite: &Suite) -> anyhow::Result<()> {
    let mut session = suite.client(CLIENT, ECHO, 80)?.session_h2().await?;
    for (path, version) in [("/first", "v1"), ("/exact", "v2"), ("/prefix/longer", "v1")] {
        let echo = session.get(path).await?.echo()?;
        ensure!(echo.version == version && echo.path == path, "{echo:?}");
        ensure!(echo.protocol == "HTTP/2.0", "the backend was asked in {}", echo.protocol);
    }
    ensure!(session.get("/nowhere").await?.status == 404);
    Ok(())
}

async fn body(suite: &Suite) -> anyhow::Result<()> {
    let body = Bytes::from(vec![b'x'; 1 << 20]);
    let answer = suite.client(CLIENT, ECHO, 80)?.send_with_body(get("/first").method("POST"), body).await?;
    ensure!(answer.echo()?.body == 1 << 20, "{} bytes arrived", answer.echo()?.body);
    Ok(())
}

async fn upgrade(suite: &Suite) -> anyhow::Result<()> {
    let mut stream = suite.client(CLIENT, ECHO, 80)?.connect().await?;
    let request = "GET /first HTTP/1.1\r\nhost: echo\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
    for message in [b"first".as_slice(), b"\x00\xff\r\n\r\n binary"] {
        stream.write_all(message).await?;
        let mut back = vec![0; message.len()];
        stream.read_exact(&mut back).await?;
        ensure!(back == message, "{back:?}");
    }
    Ok(())
}

async fn tcp(suite: &Suite) -> anyhow::Result<()> {
    let mut stream = suite.client(CLIENT, ECHO, 9090)?.connect().await?;
    let sent: Vec<u8> = (0..300_000_u32).map(|byte| (byte % 251) as u8).collect();
    let (mut read, mut write) = stream.split();
    let writing = async {
        write.write_all(&sent).await?;
        write.shutdown().await
    };
    let mut received = Vec::new();
    let (written, ended) = tokio::join!(writing, read.read_to_end(&mut received));
    written?;
    ended?;
    ensure!(received == sent, "{} of {} bytes came back", received.len(), sent.len());
    Ok(())
}

async fn server_first(suite: &Suite) -> anyhow::Result<()> {
    let mut stream = suite.client(CLIENT, ECHO, 7070)?.connect().await?;
    let mut greeting = [0; 6];
    stream.read_exact(&mut greeting).await?;
    ensure!(&greeting == b"hello ", "{greeting:?}");
    Ok(())
}
