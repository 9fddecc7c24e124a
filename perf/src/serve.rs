//! The server under load: HTTP/1.1 with a body of 1 KB at `/`, an endless body at `/bulk`, on one thread.
//!
//! It does as little as possible per request, so that what is measured is the path to it.

use std::net::{Ipv6Addr, SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What a request to `/` is answered with, in bytes of body.
pub const BODY: usize = 1024;

/// Bytes written at once by `/bulk`.
const CHUNK: usize = 256 * 1024;

/// A length that no run reaches: the client closes when it has measured enough.
const ENDLESS: u64 = 1 << 50;

/// Serves on `ports` until the process ends.
///
/// # Errors
/// When a port cannot be listened on.
pub async fn run(ports: &[u16]) -> anyhow::Result<()> {
    let mut listeners = Vec::new();
    for port in ports {
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)?;
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port)).into())?;
        socket.listen(4096)?;
        listeners.push(TcpListener::from_std(socket.into())?);
    }
    let accepting = listeners.into_iter().map(|listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(connection(stream))),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
        }
    });
    futures::future::join_all(accepting).await;
    Ok(())
}

async fn connection(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut response = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}\r\n\r\n").into_bytes();
    response.extend(std::iter::repeat_n(b'x', BODY));
    let mut buffer = vec![0; 8 * 1024];
    let mut filled = 0;
    loop {
        let read = match buffer.get_mut(filled..) {
            Some(free) if !free.is_empty() => stream.read(free).await?,
            _ => return Err(std::io::ErrorKind::InvalidData.into()),
        };
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let mut start = 0;
        while let Some(end) = end_of_head(&buffer[start..filled]) {
            if buffer[start..filled].starts_with(b"GET /bulk ") {
                return bulk(stream).await;
            }
            stream.write_all(&response).await?;
            start += end;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
}

async fn bulk(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {ENDLESS}\r\n\r\n").as_bytes()).await?;
    let chunk = vec![b'x'; CHUNK];
    loop {
        stream.write_all(&chunk).await?;
    }
}

/// Where the head of an HTTP/1.1 message ends, if all of it is there.
pub fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}
