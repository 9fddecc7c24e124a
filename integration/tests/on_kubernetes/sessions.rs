//! What takes longer than a request, in HTTP/1.1: bodies that are sent slowly, and WebSockets.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1::handshake;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::ask::{Asker, said};
use crate::http2::{PACE, TURNS, piece};

/// The longest head of an answer to an upgrade, bytes.
const HEAD: usize = 4096;

impl Asker {
    /// A request whose body takes a while; what came of it is what was sent.
    pub async fn upload(&self, number: usize) -> Result<(), String> {
        let stream = self.dial(number).await.map_err(|error| format!("connecting: {error}"))?;
        let (mut sender, driver) = handshake::<_, UnsyncBoxBody<Bytes, Infallible>>(TokioIo::new(stream)).await.map_err(said)?;
        let _driver = AbortOnDropHandle::new(tokio::spawn(async move {
            // Its failure is that of the request.
            let _told = driver.await;
        }));
        let pieces = stream::unfold(0, |turn| async move {
            if turn == TURNS {
                return None;
            }
            tokio::time::sleep(PACE).await;
            Some((Ok::<_, Infallible>(Frame::data(piece(turn))), turn + 1))
        });
        let request = Request::post(self.way.path).header(header::HOST, self.way.service);
        let request = request.body(StreamBody::new(pieces).boxed_unsync()).map_err(said)?;
        let (head, body) = sender.send_request(request).await.map_err(said)?.into_parts();
        let came = body.collect().await.map_err(said)?.to_bytes();
        if !head.status.is_success() {
            return Err(format!("{} {:?}", head.status, head.headers.get("x-ambit-reason")));
        }
        let sent: Vec<u8> = (0..TURNS).flat_map(piece).collect();
        if came == sent { Ok(()) } else { Err(format!("{} of {} bytes came", came.len(), sent.len())) }
    }

    /// A WebSocket that is used for a while.
    pub async fn websocket(&self, number: usize) -> Result<(), String> {
        let mut stream = self.dial(number).await.map_err(|error| format!("connecting: {error}"))?;
        upgrade(&mut stream, self.way.service).await.map_err(said)?;
        for turn in 0..TURNS {
            let mut back = vec![0; piece(turn).len()];
            let there_and_back = async {
                stream.write_all(&piece(turn)).await?;
                stream.read_exact(&mut back).await
            };
            there_and_back.await.map_err(|error| format!("at message {turn}: {error}"))?;
            if back != piece(turn) {
                return Err(format!("other bytes came back for message {turn}"));
            }
            tokio::time::sleep(PACE).await;
        }
        Ok(())
    }
}

/// Has a connection become a WebSocket: from here on it carries bytes both ways, which is all that a proxy knows of it.
pub async fn upgrade(stream: &mut TcpStream, host: &str) -> io::Result<()> {
    let request = format!(
        "GET /websocket HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // Not a byte beyond it is read.
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD {
        head.push(stream.read_u8().await?);
    }
    if head.starts_with(b"HTTP/1.1 101 ") {
        return Ok(());
    }
    Err(io::Error::other(format!("no upgrade: {}", String::from_utf8_lossy(&head))))
}
