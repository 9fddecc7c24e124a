//! Asking the node's resolvers, with the bytes of the client.
//!
//! Queries leave from the pod's own namespace, marked as the proxy's: what the cluster allows the pod (NetworkPolicy), and what a resolver
//! does for it, is the same as without the proxy. A resolver on the loopback device is the node's, and is asked from there.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use ambit_runtime::{
    netns::NetNs,
    socket::{self, ConnectOptions, PROXY_MARK},
};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    message::{self, LONGEST, Transport},
    metrics,
    resolvers::Resolvers,
};

/// How long all attempts for one query may take: less than a client waits (resolv.conf(5): 5 s).
const WHOLE: Duration = Duration::from_millis(4500);
/// How long one attempt is waited for before another one is made beside it.
const STEP: Duration = Duration::from_millis(1500);
/// How often is asked at least, were there one resolver only: a datagram may be lost.
const TRIES: usize = 3;

/// Asks the resolvers until one answers; the answer has the number of `query`. One that says it failed is believed only when no other
/// says more. They are asked from `netns`, or else from the node.
pub(super) async fn ask(
    resolvers: &Resolvers,
    usable: impl Fn(SocketAddr) -> bool,
    netns: Option<&NetNs>,
    query: &[u8],
    transport: Transport,
) -> Option<Vec<u8>> {
    let id = message::id(query)?;
    let order: Vec<(usize, SocketAddr)> = resolvers.in_order().into_iter().filter(|(_, at)| usable(*at)).collect();
    let tries = if order.is_empty() { 0 } else { TRIES.max(order.len()) };
    let mut attempts = order.iter().copied().cycle().take(tries);
    let (mut under_way, mut failed, mut failures) = (FuturesUnordered::new(), None, 0);
    let until = Instant::now() + WHOLE;
    loop {
        let next = attempts.next();
        if let Some((place, at)) = next {
            under_way.push(async move { (place, attempt(at, netns, query, transport).await) });
        } else if under_way.is_empty() {
            break;
        }
        let rest = until.saturating_duration_since(Instant::now());
        let patience = if next.is_some() { rest.min(STEP) } else { rest };
        match timeout(patience, under_way.next()).await {
            Ok(Some((place, Ok(answer)))) if !message::is_failure(&answer) => {
                resolvers.answered(place);
                return Some(with_id(answer, id));
            }
            Ok(Some((_, Ok(answer)))) => {
                (failed, failures) = (Some(answer), failures + 1);
                // Asked again, they would say the same.
                if failures >= order.len() {
                    break;
                }
            }
            Ok(Some((_, Err(error)))) => {
                metrics::upstream_failed(&error);
                tracing::debug!(%error, "a resolver did not answer");
            }
            Ok(None) => {}
            Err(_) if until <= Instant::now() => {
                let silent = io::Error::from(io::ErrorKind::TimedOut);
                (0..under_way.len()).for_each(|_| metrics::upstream_failed(&silent));
                break;
            }
            // It may still answer, beside the next one.
            Err(_) => {}
        }
    }
    failed.map(|answer| with_id(answer, id))
}

fn with_id(mut answer: Vec<u8>, id: [u8; 2]) -> Vec<u8> {
    message::set_id(&mut answer, id);
    answer
}

/// Asks one resolver once, for as long as it is polled. The number of the query and the port it comes from are chosen anew, so that nobody can guess them.
async fn attempt(at: SocketAddr, netns: Option<&NetNs>, query: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
    let mut query = query.to_vec();
    let mut id = [0; 2];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| io::Error::other("no random numbers"))?;
    message::set_id(&mut query, id);
    let netns = netns.filter(|_| !at.ip().is_loopback());
    let options = ConnectOptions { mark: Some(PROXY_MARK), netns, timeout: WHOLE, ..ConnectOptions::default() };
    let begun = Instant::now();
    metrics::upstream_asked(transport);
    let answer = match transport {
        Transport::Udp => over_udp(at, &options, &query).await,
        Transport::Tcp => over_tcp(at, &options, &query).await,
    }?;
    metrics::upstream_answered(begun.elapsed());
    Ok(answer)
}

async fn over_udp(at: SocketAddr, options: &ConnectOptions<'_>, query: &[u8]) -> io::Result<Vec<u8>> {
    let socket = socket::send_to(at, options)?;
    socket.send(query).await?;
    loop {
        socket.readable().await?;
        // Only now, for most of the time a query waits.
        let mut answer = Vec::with_capacity(LONGEST);
        match socket.try_recv_buf(&mut answer) {
            Ok(_) if message::answers(&answer, query) => {
                answer.shrink_to_fit();
                return Ok(answer);
            }
            // Somebody else's guess, or an answer to another one's question.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn over_tcp(at: SocketAddr, options: &ConnectOptions<'_>, query: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut stream = socket::connect(at, options).await?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    match message::answers(&answer, query) {
        true => Ok(answer),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question")),
    }
}
