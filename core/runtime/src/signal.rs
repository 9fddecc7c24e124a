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

/// Completes at the first SIGTERM or SIGINT. From this call on, and not only from the first poll, these signals no longer end the process.
///
/// # Errors
/// The handlers cannot be installed.
///
/// # Panics
/// Outside a tokio runtime.
pub fn shutdown() -> Result<impl Future<Output = Shutdown>, Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("handle SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("handle SIGINT"))?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => Shutdown::Terminate,
            _ = interrupt.recv() => Shutdown::Interrupt,
        }
    })
}
