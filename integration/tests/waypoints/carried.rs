//! Connections at the edge of the mesh that nobody looks into: in TLS that is passed on, in TLS that ends there, and in clear.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::ensure;
use rustls::{ALL_VERSIONS, ClientConnection, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::mesh::{Mesh, wait_for};
use crate::secure::{Certificate, config};

/// The port of the listeners by server name, and that of bytes.
const NAMED: u16 = 8444;
const BYTES: u16 = 8445;
const PATIENCE: Duration = Duration::from_secs(5);
const GREETING: &[u8] = b"220 ready\r\n";

async fn connect(mesh: &Mesh, port: u16) -> anyhow::Result<TcpStream> {
    Ok(mesh.client.connect(SocketAddr::new(mesh.edge.ip(), port)).await?)
}

/// The server speaks first and sends back what it gets.
async fn is_echoed(mut stream: impl AsyncRead + AsyncWrite + Unpin, said: &[u8]) -> anyhow::Result<()> {
    stream.write_all(said).await?;
    stream.flush().await?;
    let mut heard = vec![0; GREETING.len() + said.len()];
    timeout(PATIENCE, stream.read_exact(&mut heard)).await??;
    ensure!(heard.starts_with(GREETING) && heard.ends_with(said), "another answer: {}", String::from_utf8_lossy(&heard));
    Ok(())
}

/// How a client begins that asks for a host: its ClientHello.
fn hello(host: &str, wide: &Certificate) -> anyhow::Result<Vec<u8>> {
    let config = config(&[wide], (ALL_VERSIONS, "h2"))?;
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from(host.to_owned())?)?;
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes)?;
    Ok(bytes)
}

pub async fn outside(mesh: &Mesh, wide: &Certificate) -> anyhow::Result<()> {
    wait_for("a port of bytes", || async { is_echoed(connect(mesh, BYTES).await?, b"hello").await }).await?;
    wait_for("a port by server name", || async {
        is_echoed(connect(mesh, NAMED).await?, &hello("pass.example.com", wide)?).await
    })
    .await?;
    // The listener that says it most closely ends it.
    let connector = TlsConnector::from(Arc::new(config(&[wide], (ALL_VERSIONS, "h2"))?));
    let ended = connector.connect(ServerName::try_from("end.example.com")?, connect(mesh, NAMED).await?).await?;
    ensure!(ended.get_ref().1.alpn_protocol().is_none(), "a protocol is chosen that nobody here knows");
    is_echoed(ended, b"in TLS").await?;
    for nobodys in ["other.example.com", "example.org"] {
        let mut stream = connect(mesh, NAMED).await?;
        stream.write_all(&hello(nobodys, wide)?).await?;
        let mut heard = Vec::new();
        // A reset is as good.
        let _end = timeout(PATIENCE, stream.read_to_end(&mut heard)).await?;
        ensure!(heard.is_empty(), "{nobodys}, which no route is for, leads somewhere");
    }
    Ok(())
}
