//! Why the waypoint cannot run.

/// Why the waypoint cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its identity is not one.
    #[error("the waypoint's identity: {0}")]
    Identity(#[from] ambit_identity::IdentityError),
    /// Its certificate source cannot be set up.
    #[error("certificates: {0}")]
    Certificates(#[from] ambit_tls::TlsError),
    /// Logging, metrics, or a signal handler.
    #[error(transparent)]
    Runtime(#[from] ambit_runtime::Error),
    /// The first of the threads that carry connections.
    #[error("no thread for connections can be started: {0}; is the limit of threads or processes reached?")]
    Worker(std::io::Error),
    /// A listener.
    #[error("listen on {address}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}
