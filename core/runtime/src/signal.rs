//! Waiting for the signals that end a program.

use std::fmt;

use tokio::signal::unix::{SignalKind, signal};

use crate::Error;

/// Which signal asked the program to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// SIGTERM, from a kubelet or a supervisor.
    Terminate,
    /// SIGINT, Ctrl-C.
    Interrupt,
}

impl fmt::Display for Shutdown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        })
    }
}

/// Completes at the first SIGTERM or SIGINT after the first poll. From that poll on, these signals no longer end the process.
///
/// # Errors
/// The handlers cannot be installed.
pub async fn shutdown() -> Result<Shutdown, Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("handle SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("handle SIGINT"))?;
    tokio::select! {
        _ = terminate.recv() => Ok(Shutdown::Terminate),
        _ = interrupt.recv() => Ok(Shutdown::Interrupt),
    }
}
