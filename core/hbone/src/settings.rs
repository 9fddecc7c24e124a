//! The HTTP/2 settings that peers in the ecosystem use (wire contract, section 4).

use std::time::Duration;

/// Windows, frame size, liveness: the same on both sides of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Bytes one tunnel may send before its reader has consumed any (4 MiB).
    pub stream_window: u32,
    /// Bytes all tunnels of a connection may send together before readers have consumed any (16 MiB).
    pub connection_window: u32,
    /// Largest frame accepted (1 MiB).
    pub max_frame_size: u32,
    /// Bytes that one tunnel keeps for sending before its writer has to wait (256 KiB).
    pub send_buffer: usize,
    /// Largest header list accepted, bytes (16 KiB).
    pub max_header_bytes: u32,
    /// How long a header block may take from its first byte to its last (10 s).
    pub header_timeout: Duration,
    /// How often a ping is sent (10 s).
    pub ping_interval: Duration,
    /// How long its answer may take before the connection counts as dead (20 s).
    pub ping_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stream_window: 4 << 20,
            connection_window: 16 << 20,
            max_frame_size: 1 << 20,
            send_buffer: 256 << 10,
            max_header_bytes: 16 << 10,
            header_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
        }
    }
}
