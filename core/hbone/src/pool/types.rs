//! What a pool is told and what it tells.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ambit_identity::SpiffeId;
use http::HeaderMap;

use crate::{Authority, Settings};

/// What tunnels must have in common to share a connection (wire contract, section 4).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// Who calls: its certificate is presented.
    pub source: SpiffeId,
    /// Who may answer: any of these.
    pub destinations: Vec<SpiffeId>,
    /// Where the connection goes.
    pub address: SocketAddr,
    /// The source address of the connection, when it is chosen.
    pub source_ip: Option<IpAddr>,
    /// The network namespace that the connection is made in, by its inode, when it is chosen. A connection holds its namespace, so that the
    /// number means no other one as long as there are connections of it.
    pub netns: Option<u64>,
}

/// A tunnel that is asked for.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// Where it shall lead.
    pub authority: Authority,
    /// Headers that go with the CONNECT.
    pub headers: HeaderMap,
}

/// How a pool behaves.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// HTTP/2 settings.
    pub settings: Settings,
    /// Tunnels in one connection (100), or fewer if the peer allows fewer.
    pub max_streams: usize,
    /// How long the answer to a CONNECT may take (30 s): the peer answers once its upstream connection stands.
    pub answer_timeout: Duration,
    /// A connection without tunnels is closed after this (5 min).
    pub idle_timeout: Duration,
    /// When tunnels are spread over several connections.
    pub spread: Spread,
}

/// When tunnels of one key are spread over several connections, although one would have places for them: one connection carries no more than
/// its path gives a single flow, and where packets are lost or a window is small that is far less than the tunnels could use.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// A connection in which bytes have had to wait all the time for so long gets no tunnel that another can take (20 ms).
    pub pressed: Duration,
    /// While there are fewer connections than this (4), another is dialled for the next tunnel.
    pub connections: usize,
    /// How long that may take (1 s). Then, or when it fails, the tunnel goes into a connection at hand, and it is not tried again for
    /// [`Self::idle_timeout`].
    pub dial_timeout: Duration,
    /// Such a connection is closed after so long without tunnels (10 s).
    pub idle_timeout: Duration,
}

impl Default for Spread {
    fn default() -> Self {
        Self {
            pressed: Duration::from_millis(20),
            connections: 4,
            dial_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            max_streams: 100,
            answer_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_mins(5),
            spread: Spread::default(),
        }
    }
}

/// The connections of one key, for the admin pages.
#[derive(Debug, Clone)]
pub struct PoolStatus {
    /// Whose they are.
    pub key: PoolKey,
    /// Open tunnels of each connection that takes more.
    pub tunnels: Vec<usize>,
}
