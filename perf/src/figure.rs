//! What is measured, in which unit, and whether more is better.

use serde::Serialize;

/// One figure of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Requests a second on one connection.
    Requests1,
    /// Requests a second on 16 connections.
    Requests16,
    /// Requests a second on 64 connections.
    Requests64,
    /// CPU-seconds of the proxies for 10,000 requests on 16 connections.
    CpuRequests16,
    /// CPU-seconds of the proxies for 10,000 requests on 64 connections.
    CpuRequests64,
    /// Median latency at a paced rate, in milliseconds.
    PacedP50,
    /// 99th percentile of the latency at a paced rate, in milliseconds.
    PacedP99,
    /// Gbit/s of one stream.
    Bulk1,
    /// Gbit/s of eight streams.
    Bulk8,
    /// CPU-seconds of the proxies for a GB on one stream.
    CpuBulk1,
    /// CPU-seconds of the proxies for a GB on eight streams.
    CpuBulk8,
    /// New connections a second.
    Connections,
    /// Resident memory of the proxies before any load, in MB, each shared page divided among its users (PSS).
    MemoryIdle,
    /// The same while 1,000 connections are held open.
    MemoryHeld,
}

impl Figure {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 14] = [
        Self::Requests1,
        Self::Requests16,
        Self::Requests64,
        Self::PacedP50,
        Self::PacedP99,
        Self::Bulk1,
        Self::Bulk8,
        Self::Connections,
        Self::CpuRequests16,
        Self::CpuRequests64,
        Self::CpuBulk1,
        Self::CpuBulk8,
        Self::MemoryIdle,
        Self::MemoryHeld,
    ];

    /// What a person reads.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Requests1 => "requests/s, 1 connection",
            Self::Requests16 => "requests/s, 16 connections",
            Self::Requests64 => "requests/s, 64 connections",
            Self::CpuRequests16 => "proxy CPU-s per 10k requests at 16",
            Self::CpuRequests64 => "proxy CPU-s per 10k requests at 64",
            Self::PacedP50 => "p50 ms at 2,000 requests/s",
            Self::PacedP99 => "p99 ms at 2,000 requests/s",
            Self::Bulk1 => "Gbit/s, 1 stream",
            Self::Bulk8 => "Gbit/s, 8 streams",
            Self::CpuBulk1 => "proxy CPU-s per GB, 1 stream",
            Self::CpuBulk8 => "proxy CPU-s per GB, 8 streams",
            Self::Connections => "new connections/s",
            Self::MemoryIdle => "proxy memory idle, MB",
            Self::MemoryHeld => "proxy memory, 1,000 connections, MB",
        }
    }

    /// Whether more of it is better.
    #[must_use]
    pub fn more_is_better(self) -> bool {
        matches!(self, Self::Requests1 | Self::Requests16 | Self::Requests64 | Self::Bulk1 | Self::Bulk8 | Self::Connections)
    }
}
