//! Queries of a pod over TCP, several at once on one connection, answered in the order in which answers are there (RFC 7766).

use std::{io, pin::pin, sync::Arc, time::Duration};

use ambit_runtime::drain::Watch;
use bytes::{Buf, Bytes, BytesMut};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use super::{Next, PodDns, message::Transport};

/// Connections of one pod; more are closed at once.
pub(super) const CONNECTIONS: usize = 64;
/// Queries of one connection that wait for resolvers; while there are as many, no more are read.
const WAITING: usize = 16;
/// How long a connection may be without a whole query or an answer.
const IDLE: Duration = Duration::from_secs(10);
/// How long a client may take to take an answer.
const WRITE: Duration = Duration::from_secs(5);

/// Serves a connection until its client ends it, is silent, or the pod is drained.
pub(crate) async fn serve(dns: Arc<PodDns>, mut io: TcpStream, watch: Watch) {
    let Ok(_place) = Arc::clone(&dns.connections).try_acquire_owned() else { return };
    let (mut read, mut write) = io.split();
    let (mut received, mut waiting) = (BytesMut::new(), FuturesUnordered::new());
    let (mut reading, mut until) = (true, Instant::now() + IDLE);
    let mut draining = pin!(watch.draining());
    while reading || !waiting.is_empty() {
        let may_read = reading && waiting.len() < WAITING;
        // A whole query that is there already comes before what would have to be waited for.
        if may_read && let Some(query) = take(&mut received) {
            until = Instant::now() + IDLE;
            match dns.decide(&query, Transport::Tcp) {
                Next::Reply(reply) => {
                    if say(&mut write, &reply).await.is_err() {
                        return;
                    }
                }
                Next::Ignore => return,
                Next::Forward(places) => {
                    let dns = &dns;
                    waiting.push(async move { dns.forward(&query, Transport::Tcp, places).await });
                }
            }
            continue;
        }
        tokio::select! {
            answer = waiting.next(), if !waiting.is_empty() => {
                until = Instant::now() + IDLE;
                if let Some(Some(answer)) = answer
                    && say(&mut write, &answer).await.is_err()
                {
                    return;
                }
            }
            read = timeout_at(until, read.read_buf(&mut received)), if may_read => {
                reading = matches!(read, Ok(Ok(length)) if length > 0);
            }
            () = &mut draining, if reading => reading = false,
        }
    }
}

/// The first whole message of what was received: two bytes of length, then so many.
pub(super) fn take(received: &mut BytesMut) -> Option<Bytes> {
    let length = usize::from(u16::from_be_bytes(*received.first_chunk()?));
    if received.len() < 2 + length {
        return None;
    }
    received.advance(2);
    Some(received.split_to(length).freeze())
}

async fn say(write: &mut (impl AsyncWriteExt + Unpin), answer: &[u8]) -> io::Result<()> {
    let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes(), answer].concat();
    timeout(WRITE, write.write_all(&framed)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
