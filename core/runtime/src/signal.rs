//! Waiting for the signals that end a program, or have it open its logs anew.

use std::fmt;

use tokio::signal::unix::{Signal, SignalKind, signal};

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

/// Somebody who has renamed files of the log asks for new ones.
#[derive(Debug)]
pub struct Reopen(Signal);

impl Reopen {
    /// Completes at the next SIGUSR1; several that come at once count as one.
    pub async fn asked(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// From this call on SIGUSR1 no longer ends the process.
///
/// # Errors
/// The handler cannot be installed.
///
/// # Panics
/// Outside a tokio runtime.
pub fn reopen() -> Result<Reopen, Error> {
    signal(SignalKind::user_defined1()).map(Reopen).map_err(Error::io("handle SIGUSR1"))
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    #[tokio::test]
    async fn each_user_signal_is_told() {
        let mut reopen = reopen().unwrap();
        for _ in 0..2 {
            kill(Pid::this(), Signal::SIGUSR1).unwrap();
            reopen.asked().await;
        }
    }
}
