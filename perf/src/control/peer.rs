//! Subscribers: real gRPC streams that count what they are sent and answer it, without keeping any of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ambit_api::{
    envoy::pb::envoy::{config::core::v3::Node, service::discovery::v3::DeltaDiscoveryRequest},
    type_url::{ADDRESS, AUTHORIZATION, CLUSTER, ENDPOINT, LISTENER, ROUTE},
};
use anyhow::bail;
use bytes::{Buf, Bytes};
use nix::time::{ClockId, clock_gettime};
use prost::{
    Message,
    encoding::{DecodeContext, decode_key, decode_varint, skip_field},
};
use tokio::task::JoinHandle;

use super::{herd::Report, stream::GrpcStream};

/// What all subscribers saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// How long each of them takes to answer.
    answer_after: Duration,
    responses: AtomicU64,
    resources: AtomicU64,
    /// First answers: one for each type of each stream.
    firsts: AtomicU64,
    /// When the last response had come, and when it was read, as [`monotonic`] tells.
    last: AtomicU64,
    last_read: AtomicU64,
    /// Streams that ended though nobody wanted them to.
    lost: AtomicU64,
}

impl Seen {
    /// Nothing yet, by subscribers that take so long to answer.
    pub fn new(answer_after: Duration) -> Arc<Self> {
        Arc::new(Self { answer_after, ..Self::default() })
    }

    /// How many first answers have come, one for each type of each stream.
    pub fn firsts(&self) -> u64 {
        self.firsts.load(Ordering::Acquire)
    }

    /// Whether a stream ended though nobody wanted it to.
    pub fn has_lost_one(&self) -> bool {
        self.lost.load(Ordering::Acquire) > 0
    }

    /// All of it. What a response holds is counted before the response is.
    pub fn report(&self) -> Report {
        let responses = self.responses.load(Ordering::Acquire);
        Report {
            responses,
            resources: self.resources.load(Ordering::Acquire),
            last: self.last.load(Ordering::Acquire),
            last_read: self.last_read.load(Ordering::Acquire),
        }
    }
}

/// Nanoseconds of the clock that is the same for all processes, 0 where there is none.
pub fn monotonic() -> u64 {
    nanoseconds(clock(ClockId::CLOCK_MONOTONIC))
}

/// As [`monotonic`] tells, a moment of the wall clock that is not long ago.
fn monotonic_at(wall: Duration) -> u64 {
    let since = clock(ClockId::CLOCK_REALTIME).saturating_sub(wall);
    monotonic().saturating_sub(nanoseconds(since))
}

fn clock(which: ClockId) -> Duration {
    clock_gettime(which).map(Duration::from).unwrap_or_default()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What a subscriber asks for.
#[derive(Debug, Clone)]
pub struct Asks {
    /// Its first requests, encoded, one for each type.
    pub first: Arc<[Bytes]>,
}

impl Asks {
    /// A node proxy that has `addresses` already; without any it is sent all.
    pub fn ztunnel(addresses: Vec<(String, String)>) -> Self {
        const ID: &str = "ztunnel~10.0.0.1~ztunnel.istio-system~istio-system.svc.cluster.local";
        let address =
            DeltaDiscoveryRequest { initial_resource_versions: addresses.into_iter().collect(), ..wildcard(ID, ADDRESS) };
        Self { first: [address.encode_to_vec().into(), wildcard(ID, AUTHORIZATION).encode_to_vec().into()].into() }
    }

    /// A waypoint.
    pub fn waypoint(namespace: &str) -> Self {
        let id = format!("waypoint~{namespace}~waypoint");
        Self { first: [CLUSTER, ENDPOINT, LISTENER, ROUTE].map(|url| wildcard(&id, url).encode_to_vec().into()).into() }
    }
}

fn wildcard(id: &str, type_url: &str) -> DeltaDiscoveryRequest {
    let node = Some(Node { id: id.to_owned(), ..Node::default() });
    DeltaDiscoveryRequest { node, type_url: type_url.to_owned(), ..DeltaDiscoveryRequest::default() }
}

/// A stream that is read until it is dropped.
#[derive(Debug)]
pub struct Peer(JoinHandle<()>);

impl Drop for Peer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Peer {
    /// Connects and asks.
    pub fn start(to: SocketAddr, asks: Asks, seen: Arc<Seen>) -> Self {
        Self(tokio::spawn(async move {
            if let Err(error) = follow(to, asks, &seen).await {
                eprintln!("a subscriber has lost its stream: {error:#}");
            }
            seen.lost.fetch_add(1, Ordering::AcqRel);
        }))
    }
}

async fn follow(to: SocketAddr, asks: Asks, seen: &Seen) -> anyhow::Result<()> {
    const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    let mut stream = GrpcStream::open(to, METHOD).await?;
    stream.send(asks.first.iter().map(AsRef::as_ref)).await?;
    let asked = asks.first.len();
    drop(asks);
    let mut types = std::collections::BTreeSet::new();
    loop {
        let response = Looked::at(stream.next().await?)?;
        if response.resources > 0 {
            seen.resources.fetch_add(response.resources, Ordering::AcqRel);
            let arrived = match stream.arrived() {
                Some(arrived) => monotonic_at(arrived),
                // The kernel begins to tell a moment after somebody has asked for it; what is timed comes after the first of each type.
                None if types.len() < asked => monotonic(),
                None => bail!("the kernel does not tell when bytes have come"),
            };
            seen.last.fetch_max(arrived, Ordering::AcqRel);
            seen.last_read.fetch_max(monotonic(), Ordering::AcqRel);
            seen.responses.fetch_add(1, Ordering::AcqRel);
        }
        if !seen.answer_after.is_zero() {
            tokio::time::sleep(seen.answer_after).await;
        }
        let ack = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        stream.send(std::iter::once(ack.encode_to_vec().as_slice())).await?;
        if types.insert(response.type_url) {
            seen.firsts.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// What a `DeltaDiscoveryResponse` says, without decoding its resources.
#[derive(Debug, Default)]
struct Looked {
    resources: u64,
    type_url: String,
    nonce: String,
}

impl Looked {
    fn at(mut bytes: Bytes) -> anyhow::Result<Self> {
        let mut looked = Self::default();
        while bytes.has_remaining() {
            let (tag, wire_type) = decode_key(&mut bytes)?;
            match tag {
                // resources, type_url, nonce, removed_resources
                2 | 4 | 5 | 6 => {
                    let length = usize::try_from(decode_varint(&mut bytes)?)?;
                    anyhow::ensure!(length <= bytes.remaining(), "a field is longer than the message");
                    let value = bytes.split_to(length);
                    match tag {
                        4 => looked.type_url = String::from_utf8(value.into())?,
                        5 => looked.nonce = String::from_utf8(value.into())?,
                        _ => looked.resources += 1,
                    }
                }
                _ => skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?,
            }
        }
        Ok(looked)
    }
}
