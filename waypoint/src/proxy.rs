//! What every connection and request of a worker shares.

use std::{sync::Arc, time::Duration};

use ambit_hbone::{Pool, PoolConfig, ServerConfig};
use ambit_identity::SpiffeId;
use ambit_tls::SvidStore;
use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use crate::{
    compiled::Snapshot,
    http::Mirrors,
    observe::{Spans, Telemetry},
    upstream::HttpPool,
};

/// What the waypoint bears at most. All limits are on by default.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections of tunnels (16384).
    pub connections: usize,
    /// Tunnels open at once in all of those connections (65536).
    pub open_tunnels: usize,
    /// Requests in flight (65536).
    pub requests: usize,
    /// The longest a TLS handshake may take (10 s).
    pub handshake: Duration,
    /// The longest a client may be silent before it counts as waiting for the server to speak first (1 s), on ports whose protocol
    /// is not known.
    pub detect: Duration,
    /// The longest an HTTP/1 client may take from the first byte of a request to the end of its head (10 s).
    pub head: Duration,
    /// The longest an HTTP/1 client may take from one request to the next (15 min).
    pub idle: Duration,
    /// The longest that nothing may come of a request's body whose length its client has said, before its answer has begun, from outside of the
    /// mesh (60 s); of another one [`Limits::idle`].
    pub body: Duration,
    /// Requests on one HTTP/2 connection at once (1000).
    pub http2_streams: u32,
    /// Copies of requests under way at once (1024); what is to be copied beyond is not.
    pub mirrors: usize,
    /// Bytes of request bodies that are kept because they may have to be sent again, of all requests together (64 MiB).
    pub kept_bodies: usize,
    /// Tunnels of one connection.
    pub tunnels: ServerConfig,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16 * 1024,
            open_tunnels: 64 * 1024,
            requests: 64 * 1024,
            handshake: Duration::from_secs(10),
            detect: Duration::from_secs(1),
            head: Duration::from_secs(10),
            idle: Duration::from_mins(15),
            body: Duration::from_secs(60),
            http2_streams: 1000,
            mirrors: 1024,
            kept_bodies: 64 << 20,
            tunnels: ServerConfig::default(),
        }
    }
}

impl Limits {
    /// The same where tunnels may go on for so long once clients are asked to go; of itself a connection of tunnels waits for 30 s.
    #[must_use]
    pub fn drained_within(mut self, drain: Duration) -> Self {
        self.tunnels.drain_deadline = drain;
        self
    }
}

/// The state that connections of one worker share. All but the connections to endpoints is shared with the other workers too, and what a
/// limit counts is counted for all of them together.
pub struct Proxy {
    /// The configuration in force.
    pub config: Arc<ArcSwap<Snapshot>>,
    /// The waypoint's own identity.
    pub identity: SpiffeId,
    /// Where its certificate is.
    pub certificates: SvidStore,
    /// Tunnels to endpoints, of this worker.
    pub tunnels: Pool,
    /// HTTP connections inside those tunnels.
    pub http: HttpPool,
    /// Where records go.
    pub telemetry: Arc<Telemetry>,
    /// What it bears at most.
    pub limits: Limits,
    /// Places for the tunnels of all clients.
    pub places: Arc<Semaphore>,
    /// Copies of requests under way.
    pub mirrors: Mirrors,
    /// Room for bodies that may have to be sent again, in bytes.
    pub kept_bodies: Arc<Semaphore>,
    /// Where spans of requests go.
    pub spans: Spans,
}

impl Proxy {
    /// Puts the state together.
    pub fn new(
        config: Arc<ArcSwap<Snapshot>>,
        identity: SpiffeId,
        certificates: SvidStore,
        telemetry: Arc<Telemetry>,
        limits: Limits,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            identity,
            certificates,
            tunnels: Pool::new(PoolConfig::default()),
            http: HttpPool::new(),
            telemetry,
            places: Arc::new(Semaphore::new(limits.open_tunnels)),
            mirrors: Mirrors::new(limits.mirrors),
            kept_bodies: Arc::new(Semaphore::new(limits.kept_bodies)),
            spans: Spans::default(),
            limits,
        })
    }

    /// The same for another worker, which drives its own connections to endpoints.
    #[must_use]
    pub fn with_own_tunnels(&self) -> Arc<Self> {
        Arc::new(Self {
            config: self.config.clone(),
            identity: self.identity.clone(),
            certificates: self.certificates.clone(),
            tunnels: Pool::new(PoolConfig::default()),
            http: self.http.sibling(),
            telemetry: self.telemetry.clone(),
            limits: self.limits.clone(),
            places: self.places.clone(),
            mirrors: self.mirrors.clone(),
            kept_bodies: self.kept_bodies.clone(),
            spans: self.spans.clone(),
        })
    }
}
