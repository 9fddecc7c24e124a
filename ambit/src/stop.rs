//! Why a command that goes on and on is to end: a signal, or that whoever read what it says has gone.

use std::fmt;
use std::os::fd::AsFd;
use std::time::Duration;

use ambit_runtime::signal::shutdown;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Error, Result};

/// Pause between two looks whether anybody still reads.
const LOOK: Duration = Duration::from_millis(200);

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// SIGINT or SIGTERM: somebody wants it.
    Asked,
    /// SIGHUP: the terminal has gone.
    HangUp,
    /// Nobody reads standard output (`| head`).
    Unread,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "stopping ...",
            Self::HangUp => "the terminal has gone: stopping ...",
            Self::Unread => "nobody reads this any more: stopping ...",
        })
    }
}

/// Completes when there is a signal to end. From this call on, and not only from the first poll, these do not end the process. `nohup`
/// is heeded: SIGHUP stays ignored if it was.
///
/// # Errors
/// The handlers cannot be installed.
pub(crate) fn signalled() -> Result<impl Future<Output = Why>> {
    let failed = |error: &dyn fmt::Display| Error::part("waiting for signals", error);
    let ignored = is_ignored(&std::fs::read_to_string("/proc/self/status").unwrap_or_default(), Signal::SIGHUP);
    let hang_up = (!ignored).then(|| signal(SignalKind::hangup())).transpose().map_err(|error| failed(&error))?;
    let asked = shutdown().map_err(|error| failed(&error))?;
    Ok(async move {
        let hung_up = async {
            match hang_up {
                Some(mut hang_up) => _ = hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _which = asked => Why::Asked,
            () = hung_up => Why::HangUp,
        }
    })
}

/// Completes at the first reason to end, a reader that has gone included.
///
/// # Errors
/// The handlers cannot be installed.
pub(crate) fn wanted() -> Result<impl Future<Output = Why>> {
    let signalled = signalled()?;
    Ok(async move {
        tokio::select! {
            why = signalled => why,
            () = unread() => Why::Unread,
        }
    })
}

/// Completes when nobody reads standard output any more, also while nothing is written.
async fn unread() {
    while !crate::print::is_unread() && !is_cut(std::io::stdout()) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether the other end of what this writes to is closed (poll(2): POLLERR of a pipe, POLLHUP of a socket or terminal).
fn is_cut(output: impl AsFd) -> bool {
    let mut fds = [PollFd::new(output.as_fd(), PollFlags::empty())];
    let looked = poll(&mut fds, PollTimeout::ZERO);
    let [output] = fds;
    looked.is_ok() && output.revents().is_some_and(|events| events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP))
}

/// Whether a process ignores a signal, by its `/proc/PID/status`.
fn is_ignored(status: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| (mask >> (signal as i32 - 1)) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_cut_when_its_reader_has_gone_and_a_file_never() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert!(!is_cut(&writer));
        drop(reader);
        assert!(is_cut(&writer));
        assert!(!is_cut(tempfile::tempfile().unwrap()));
        assert!(!is_cut(std::fs::File::options().write(true).open("/dev/null").unwrap()));
    }

    #[test]
    fn what_nohup_ignores_is_read_from_the_status() {
        let status = |mask: &str| format!("SigBlk:\t0000000000000000\nSigIgn:\t{mask}\nSigCgt:\t0000000000000001\n");
        assert!(is_ignored(&status("0000000000001001"), Signal::SIGHUP));
        assert!(!is_ignored(&status("0000000000001002"), Signal::SIGHUP));
        assert!(!is_ignored("", Signal::SIGHUP));
    }
}
