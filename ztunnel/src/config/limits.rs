//! What connections are held to: [docs/limits.md](../../../docs/limits.md) says what is seen at each limit.

use std::time::Duration;

use ambit_hbone::{ServerConfig, Settings};

use crate::descriptors::Descriptors;

/// The limits, as flags.
#[derive(Debug, Clone, clap::Args)]
pub struct LimitArgs {
    /// Seconds that open connections may go on after SIGTERM.
    #[arg(long, env = "DRAIN_SECONDS", default_value_t = 10)]
    pub drain_seconds: u64,
    /// Connections of all pods together; more are refused.
    #[arg(long, env = "MAX_CONNECTIONS", default_value_t = 100_000)]
    pub max_connections: usize,
    /// Connections of one pod; more are refused.
    #[arg(long, env = "MAX_CONNECTIONS_PER_POD", default_value_t = 20_000)]
    pub max_connections_per_pod: usize,
    /// Connections of one client, by its address, to one pod, with the tunnels they come through; more are refused.
    #[arg(long, env = "MAX_CONNECTIONS_PER_SOURCE", default_value_t = 15_000)]
    pub max_connections_per_source: usize,
    /// Tunnels in one connection of a peer; more are refused, and the peer opens another connection for them.
    #[arg(long, env = "MAX_TUNNELS_PER_CONNECTION", default_value_t = 200)]
    pub max_tunnels_per_connection: u32,
    /// MiB that may wait in all tunnels together to be read or sent. When there is more, tunnels are cut from which nobody has read for 10 s;
    /// well above it also others, the fullest first (docs/limits.md).
    #[arg(long, env = "MAX_BUFFERED_MIB", default_value_t = 512)]
    pub max_buffered_mib: usize,
    /// Seconds until a peer's TLS handshake must be done.
    #[arg(long, env = "HANDSHAKE_SECONDS", default_value_t = 5)]
    pub handshake_seconds: u64,
    /// Seconds until a peer must have begun to speak HTTP/2 once its handshake is done, and until a block of headers must be there once it has
    /// begun.
    #[arg(long, env = "HEADER_SECONDS", default_value_t = 10)]
    pub header_seconds: u64,
    /// Seconds after which a connection is ended that carries nothing; as kube-proxy forgets such a connection if not set.
    #[arg(long, env = "IDLE_SECONDS", default_value_t = 24 * 3600)]
    pub idle_seconds: u64,
    /// Seconds after which a connection is ended that carries nothing and of which one side has ended; as kube-proxy forgets such a
    /// connection if not set.
    #[arg(long, env = "HALF_OPEN_SECONDS", default_value_t = 3600)]
    pub half_open_seconds: u64,
}

/// What connections are held to. Times are upper bounds.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections of all pods together.
    pub connections: usize,
    /// Connections of one pod.
    pub connections_per_pod: usize,
    /// Connections of one client to one pod.
    pub connections_per_source: usize,
    /// Tunnels in one connection.
    pub tunnels: u32,
    /// Bytes that wait in all tunnels together.
    pub buffered: usize,
    /// Until a TCP connection stands.
    pub connect: Duration,
    /// Until a TLS handshake is done.
    pub handshake: Duration,
    /// Until HTTP/2 has begun, and until a block of headers is complete.
    pub header: Duration,
    /// How long a connection may carry nothing.
    pub idle: Duration,
    /// How long a connection may carry nothing once one side has ended.
    pub half_open: Duration,
    /// Until the control plane has told of a workload and its policies.
    pub knowledge: Duration,
    /// How long open connections may go on when the proxy or the pod goes away.
    pub drain: Duration,
    /// How many file descriptors there are.
    pub descriptors: Descriptors,
    /// How long a worker waits for more bytes without sleeping.
    pub awake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 100_000,
            connections_per_pod: 20_000,
            connections_per_source: 15_000,
            tunnels: 200,
            buffered: 512 << 20,
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(5),
            header: Duration::from_secs(10),
            idle: Duration::from_hours(24),
            half_open: Duration::from_hours(1),
            knowledge: Duration::from_secs(5),
            drain: Duration::from_secs(10),
            descriptors: Descriptors::default(),
            awake: Duration::from_micros(100),
        }
    }
}

impl LimitArgs {
    /// Adds to `wrong` what cannot be used.
    pub(super) fn check(&self, wrong: &mut Vec<String>) {
        let all = [
            ("--max-connections", self.max_connections == 0),
            ("--max-connections-per-pod", self.max_connections_per_pod == 0),
            ("--max-connections-per-source", self.max_connections_per_source == 0),
            ("--max-tunnels-per-connection", self.max_tunnels_per_connection == 0),
            ("--max-buffered-mib", self.max_buffered_mib == 0),
            ("--handshake-seconds", self.handshake_seconds == 0),
            ("--header-seconds", self.header_seconds == 0),
            ("--idle-seconds", self.idle_seconds == 0),
            ("--half-open-seconds", self.half_open_seconds == 0),
        ];
        wrong.extend(
            all.iter().filter(|(_, none)| *none).map(|(flag, _)| format!("{flag}: 0 would refuse or end every connection")),
        );
    }

    pub(super) fn limits(&self) -> Limits {
        // What is meant by more than that is for ever.
        let seconds = |seconds: u64| Duration::from_secs(seconds.min(u32::MAX.into()));
        Limits {
            connections: self.max_connections.min(tokio::sync::Semaphore::MAX_PERMITS),
            connections_per_pod: self.max_connections_per_pod.min(tokio::sync::Semaphore::MAX_PERMITS),
            connections_per_source: self.max_connections_per_source,
            tunnels: self.max_tunnels_per_connection,
            buffered: self.max_buffered_mib.saturating_mul(1 << 20),
            handshake: seconds(self.handshake_seconds),
            header: seconds(self.header_seconds),
            idle: seconds(self.idle_seconds),
            half_open: seconds(self.half_open_seconds),
            drain: seconds(self.drain_seconds),
            ..Limits::default()
        }
    }
}

impl Limits {
    /// How peers are served.
    #[must_use]
    pub fn server(&self) -> ServerConfig {
        ServerConfig {
            settings: Settings { header_timeout: self.header, ..Settings::default() },
            max_streams: self.tunnels,
            preface_timeout: self.header,
            drain_deadline: self.drain,
            ..ServerConfig::default()
        }
    }
}
