//! Requests and calls in HTTP/2. Whoever is asked to go elsewhere does, and has lost nothing by that.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{SendRequest, handshake};
use h2::{Reason, RecvStream, SendStream};
use hyper::{Method, Request};
use tokio_util::task::AbortOnDropHandle;

use crate::ask::{Asker, said};

/// How often something goes there and back in a session.
pub const TURNS: usize = 8;

/// Between two of them, so that a session takes two seconds.
pub const PACE: Duration = Duration::from_millis(250);

/// On so many connections a request is sent, at most: on the one at hand, and on two that were made since.
const CONNECTIONS: usize = 3;

/// A connection for several requests.
pub struct Http2 {
    sender: SendRequest<Bytes>,
    made: Instant,
    driver: AbortOnDropHandle<()>,
}

impl Asker {
    /// Asks once, on the connection that is kept if it can.
    pub async fn ask_in_http2(&self, kept: &mut Option<Http2>, number: usize) -> Result<(), String> {
        let (mut answer, _) = self.begin(kept, number, true).await?;
        while let Some(data) = answer.data().await {
            received(&mut answer, data)?;
        }
        Ok(())
    }

    /// A call whose messages are answered one by one, on a connection of its own.
    pub async fn stream(&self, number: usize) -> Result<(), String> {
        let mut connection = None;
        let (mut answer, mut messages) = self.begin(&mut connection, number, false).await?;
        for turn in 0..TURNS {
            messages.send_data(piece(turn), false).map_err(said)?;
            let mut back = Vec::new();
            while back.len() < piece(turn).len() {
                let data = answer.data().await.ok_or_else(|| format!("it ended at its message {turn}"))?;
                back.extend_from_slice(&received(&mut answer, data)?);
            }
            if back != piece(turn) {
                return Err(format!("other bytes came back for message {turn}"));
            }
            tokio::time::sleep(PACE).await;
        }
        messages.send_data(Bytes::new(), true).map_err(said)?;
        while let Some(data) = answer.data().await {
            received(&mut answer, data)?;
        }
        match answer.trailers().await.map_err(said)? {
            Some(trailers) if trailers.get("grpc-status").is_some_and(|status| status == "0") => Ok(()),
            other => Err(format!("it ended with {other:?}")),
        }
    }

    /// Begins a request, and gives the bodies of its answer and of itself.
    async fn begin(
        &self,
        kept: &mut Option<Http2>,
        number: usize,
        whole: bool,
    ) -> Result<(RecvStream, SendStream<Bytes>), String> {
        for attempt in 0..CONNECTIONS {
            let connection = match kept.take().filter(|connection| self.may_go_on(connection.made)) {
                Some(connection) => connection,
                None => self.connect_in_http2(number + attempt).await?,
            };
            let Http2 { sender, made, driver } = connection;
            let method = if whole { Method::GET } else { Method::POST };
            let request = Request::builder().method(method).uri(format!("http://{}{}", self.way.service, self.way.path));
            let request = request.header("content-type", "application/grpc").header("te", "trailers").body(()).map_err(said)?;
            let asked = async {
                let mut sender = sender.ready().await?;
                let (answer, body) = sender.send_request(request, whole)?;
                Ok::<_, h2::Error>((sender, answer.await?, body))
            };
            match asked.await {
                Ok((sender, answer, body)) => {
                    *kept = Some(Http2 { sender, made, driver });
                    let (head, answer) = answer.into_parts();
                    if head.status.is_success() && head.headers.get("grpc-status").is_none_or(|status| status == "0") {
                        return Ok((answer, body));
                    }
                    return Err(format!("{} {:?}", head.status, head.headers));
                }
                // RFC 9113, section 6.8: what this says of a request is that nobody has looked at it.
                Err(error) if error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR) => {}
                Err(error) => return Err(said(error)),
            }
        }
        Err(format!("{CONNECTIONS} connections take no request"))
    }

    async fn connect_in_http2(&self, number: usize) -> Result<Http2, String> {
        let stream = self.dial(number).await.map_err(|error| format!("connecting: {error}"))?;
        let (sender, driver) = handshake(stream).await.map_err(|error| format!("connecting: {error}"))?;
        let driver = tokio::spawn(async move {
            // Its failure is that of the requests under way.
            let _told = driver.await;
        });
        Ok(Http2 { sender, made: Instant::now(), driver: AbortOnDropHandle::new(driver) })
    }
}

/// Makes room for as much again.
fn received(answer: &mut RecvStream, data: Result<Bytes, h2::Error>) -> Result<Bytes, String> {
    let data = data.map_err(said)?;
    answer.flow_control().release_capacity(data.len()).map_err(said)?;
    Ok(data)
}

/// What goes there and back.
pub fn piece(turn: usize) -> Bytes {
    Bytes::from(format!("piece {turn:02} of a session\n"))
}
