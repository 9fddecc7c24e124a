//! What travels through a waypoint besides plain requests.

use std::{sync::Arc, time::Duration};

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
        shared(
            mesh,
            "the server name that a TLS client says decides where it goes, and any other name leads nowhere",
            server_names,
        ),
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

/// What a TLS client says first.
fn client_hello(name: &'static str, said: bool) -> anyhow::Result<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    config.enable_sni = said;
    let mut hello = Vec::new();
    rustls::ClientConnection::new(Arc::new(config), name.try_into()?)?.write_tls(&mut hello)?;
    Ok(hello)
}

async fn server_names(suite: &Suite) -> anyhow::Result<()> {
    // One of the backends speaks first; both send back what they are sent.
    let (echoes, greets, nowhere) = (Some(false), Some(true), None);
    for (name, said, expected) in [
        ("echo.example", true, echoes),
        ("greet.example", true, greets),
        ("one.more.echo.example", true, greets),
        ("other.example", true, nowhere),
        ("echo.example.org", true, nowhere),
        ("echo.example", false, nowhere),
    ] {
        let hello = client_hello(name, said)?;
        let mut stream = suite.client(CLIENT, "shop/named", 443)?.connect().await?;
        // It comes in parts, and the rest of what the client says follows at once.
        let (begin, rest) = hello.split_at(hello.len() / 2);
        stream.write_all(begin).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.write_all(&[rest, b"more"].concat()).await?;
        // A client that closes its half at once meets an Envoy that still looks at what it said, and ends the connection.
        let (sent, mut back) = ([&hello[..], b"more"].concat(), Vec::new());
        let read = async {
            while !back.ends_with(&sent) && stream.read_buf(&mut back).await? > 0 {}
            std::io::Result::Ok(())
        };
        let ended = tokio::time::timeout(Duration::from_secs(30), read).await?;
        let Some(greeting) = expected else {
            ensure!(back.is_empty(), "{name}: {} bytes came back", back.len());
            continue;
        };
        ended?;
        ensure!(back.ends_with(&sent), "{name}: {} of {} bytes came back", back.len(), sent.len());
        ensure!(back.starts_with(b"hello ") == greeting, "{name} led to the other backend");
        ensure!(greeting || back.len() == sent.len(), "{name}: more came back than was sent");
    }
    Ok(())
}
