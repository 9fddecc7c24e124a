//! What clients do through a waypoint. Each says whether it came to its end whole.

use std::{cell::Cell, convert::Infallible, time::Duration};

use ambit_hbone::{Pool, PoolConfig, TunnelStream};
use bytes::Bytes;
use futures::stream;
use h2::{
    Reason, RecvStream, SendStream,
    client::{SendRequest, handshake},
};
use http::{Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{
    Mesh, WEB,
    client::{get, tunnel_in},
    resources::Service,
};

/// How often something goes there and back in a session.
const TURNS: usize = 8;
/// Between two of them, so that a session takes two seconds.
const PAUSE: Duration = Duration::from_millis(250);
/// On so many connections a request is sent, at most: on the one at hand, and on two that were made since.
const CONNECTIONS: usize = 3;

/// Whether something came to its end whole, and what was wrong if not.
pub type Said = Result<(), String>;

/// Clients of a service on one node, whose proxy keeps tunnels in few connections, and goes on with them until it is asked to go.
pub struct Clients<'a> {
    mesh: &'a Mesh,
    service: &'a Service,
    pool: Pool,
    /// How often a connection of HTTP/2 was asked to go.
    pub asked_to_go: Cell<usize>,
}

/// A connection of HTTP/2 that is kept, if there is one.
pub type Kept = Option<SendRequest<Bytes>>;

impl<'a> Clients<'a> {
    pub fn of(mesh: &'a Mesh, service: &'a Service) -> Self {
        Self { mesh, service, pool: Pool::new(PoolConfig::default()), asked_to_go: Cell::new(0) }
    }

    async fn tunnel(&self) -> Result<TunnelStream, String> {
        let tunnel = tunnel_in(&self.pool, self.mesh, WEB, &self.service.vip.to_string()).await;
        tunnel.map_err(|error| format!("no tunnel: {error}"))
    }

    /// Asks once, on the connection that is kept.
    pub async fn unary(&self, kept: &mut Kept) -> Said {
        let (mut answer, _) = self.ask(kept, "/", true).await?;
        while let Some(data) = answer.data().await {
            received(&mut answer, data)?;
        }
        Ok(())
    }

    /// A call whose messages are answered one by one, on a connection of its own.
    pub async fn call(&self) -> Said {
        let (mut answer, mut messages) = self.ask(&mut None, "/stream", false).await?;
        for turn in 0..TURNS {
            turn_of_call(turn, &mut answer, &mut messages).await?;
            tokio::time::sleep(PAUSE).await;
        }
        messages.send_data(Bytes::new(), true).map_err(said)?;
        while let Some(data) = answer.data().await {
            received(&mut answer, data)?;
        }
        match answer.trailers().await.map_err(said)? {
            Some(trailers) if trailers.get("grpc-status").is_some_and(|status| status == "0") => Ok(()),
            other => Err(format!("the call ended with {other:?}")),
        }
    }

    /// Begins a request of HTTP/2, and gives the body of its answer and of itself.
    pub async fn ask(&self, kept: &mut Kept, path: &str, whole: bool) -> Result<(RecvStream, SendStream<Bytes>), String> {
        for _ in 0..CONNECTIONS {
            let sender = match kept.take() {
                Some(sender) => sender,
                None => {
                    let (sender, connection) = handshake(self.tunnel().await?).await.map_err(said)?;
                    tokio::spawn(connection);
                    sender
                }
            };
            let method = if whole { Method::GET } else { Method::POST };
            let request = Request::builder().method(method).uri(format!("http://billing.shop{path}"));
            let request = request.header("content-type", "application/grpc").header("te", "trailers").body(()).map_err(said)?;
            let asked = async {
                let mut sender = sender.ready().await?;
                let (answer, body) = sender.send_request(request, whole)?;
                Ok::<_, h2::Error>((sender, answer.await?, body))
            };
            match asked.await {
                Ok((sender, answer, body)) => {
                    *kept = Some(sender);
                    return if answer.status() == 200 {
                        Ok((answer.into_body(), body))
                    } else {
                        Err(answer.status().to_string())
                    };
                }
                // RFC 9113, section 6.8: what this says of a request is that nobody has looked at it.
                Err(error) if error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR) => {
                    self.asked_to_go.set(self.asked_to_go.get() + 1);
                }
                Err(error) => return Err(said(error)),
            }
        }
        Err(format!("{CONNECTIONS} connections take no request"))
    }

    /// A request of HTTP/1.1 on a connection of its own, which goes with what it is asked by.
    async fn send<B>(&self, request: Request<B>) -> Result<(http1::SendRequest<B>, Response<Incoming>), String>
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.tunnel().await?)).await.map_err(said)?;
        tokio::spawn(connection.with_upgrades());
        let answer = sender.send_request(request).await.map_err(said)?;
        if answer.status() == 200 || answer.status() == 101 { Ok((sender, answer)) } else { Err(answer.status().to_string()) }
    }

    /// A body that its client takes long to send; what came of it is what was sent.
    pub async fn upload(&self) -> Said {
        let pieces = stream::unfold(0, |turn| async move {
            if turn == TURNS {
                return None;
            }
            tokio::time::sleep(PAUSE).await;
            Some((Ok::<_, Infallible>(Frame::data(piece(turn))), turn + 1))
        });
        let request = Request::post("/echo").header("host", "billing.shop").body(StreamBody::new(pieces).boxed_unsync());
        let (_sender, answer) = self.send(request.map_err(said)?).await?;
        let came = answer.into_body().collect().await.map_err(said)?.to_bytes();
        let sent: Vec<u8> = (0..TURNS).flat_map(piece).collect();
        if came == sent { Ok(()) } else { Err(format!("{} of {} bytes came", came.len(), sent.len())) }
    }

    /// A body that the endpoint takes long to send.
    pub async fn download(&self) -> Said {
        let request = Request::get("/trickle").header("host", "billing.shop").body(Empty::<Bytes>::new());
        let (_sender, answer) = self.send(request.map_err(said)?).await?;
        let came = answer.into_body().collect().await.map_err(said)?.to_bytes();
        let sent: String = (0..8).map(|drop| format!("drop {drop}\n")).collect();
        if came == sent { Ok(()) } else { Err(format!("{came:?} came")) }
    }

    /// A WebSocket, as far as a proxy sees one: an upgrade, then bytes both ways.
    pub async fn websocket(&self) -> Said {
        let mut io = self.upgraded().await?;
        for turn in 0..TURNS {
            turn_of_websocket(turn, &mut io).await?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// A connection that was upgraded.
    pub async fn upgraded(&self) -> Result<TokioIo<hyper::upgrade::Upgraded>, String> {
        let mut request = get("/ws");
        request.headers_mut().insert("connection", "Upgrade".parse().map_err(said)?);
        request.headers_mut().insert("upgrade", "websocket".parse().map_err(said)?);
        let (_sender, answer) = self.send(request).await?;
        hyper::upgrade::on(answer).await.map(TokioIo::new).map_err(said)
    }
}

/// A message, and the same one back.
pub async fn turn_of_call(turn: usize, answer: &mut RecvStream, messages: &mut SendStream<Bytes>) -> Said {
    messages.send_data(piece(turn), false).map_err(said)?;
    let mut back = Vec::new();
    while back.len() < piece(turn).len() {
        let data = answer.data().await.ok_or_else(|| format!("the call ended at its message {turn}"))?;
        back.extend_from_slice(&received(answer, data)?);
    }
    if back == piece(turn) { Ok(()) } else { Err(format!("{back:?} came back for message {turn}")) }
}

/// The same in a WebSocket.
pub async fn turn_of_websocket(turn: usize, io: &mut TokioIo<hyper::upgrade::Upgraded>) -> Said {
    io.write_all(&piece(turn)).await.map_err(said)?;
    let mut back = vec![0; piece(turn).len()];
    io.read_exact(&mut back).await.map_err(|error| format!("at message {turn}: {error}"))?;
    if back == piece(turn) { Ok(()) } else { Err(format!("{back:?} came back for message {turn}")) }
}

/// Makes room for as much again.
fn received(answer: &mut RecvStream, data: Result<Bytes, h2::Error>) -> Result<Bytes, String> {
    let data = data.map_err(said)?;
    answer.flow_control().release_capacity(data.len()).map_err(said)?;
    Ok(data)
}

fn piece(turn: usize) -> Bytes {
    Bytes::from(format!("piece {turn:02} of a session\n"))
}

/// An error with its cause.
fn said(error: impl std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
