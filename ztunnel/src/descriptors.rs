//! File descriptors: the last of them are kept for what the proxy itself needs, and connections that would take them are refused with their
//! reason. Without that, a proxy that has none left could not even accept a connection to refuse it: its clients would wait.
//!
//! The kernel gives each new descriptor the lowest number that is free (open(2)). So the number of a socket tells whether nearly all
//! are taken, and nothing needs to be counted.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use ambit_model::{Reason, Refusal};
use rustix::io::Errno;

/// So many are kept, or an eighth of all when that is less. Half of them is for accepting what is refused; the control plane, certificates,
/// names and admin pages have the rest.
const KEPT: RawFd = 256;

/// How many descriptors the process may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    limit: RawFd,
}

impl Default for Descriptors {
    /// As many as there are numbers.
    fn default() -> Self {
        Self { limit: RawFd::MAX }
    }
}

impl Descriptors {
    /// `limit` of them (RLIMIT_NOFILE).
    #[must_use]
    pub fn of(limit: u64) -> Self {
        Self { limit: RawFd::try_from(limit).unwrap_or(RawFd::MAX) }
    }

    const fn kept(self) -> RawFd {
        let eighth = self.limit / 8;
        if eighth < KEPT { eighth } else { KEPT }
    }

    /// Sockets that carry connections and are opened by the proxy have a lower number than this.
    #[must_use]
    pub const fn end(self) -> RawFd {
        self.limit - self.kept()
    }

    /// Whether a connection that came by this socket may stay.
    ///
    /// # Errors
    /// `descriptor_limit` when nearly no descriptor is left.
    pub fn admit(self, socket: &impl AsRawFd) -> Result<(), Refusal> {
        if socket.as_raw_fd() < self.end() { Ok(()) } else { Err(self.refusal()) }
    }

    /// What is said of a connection for which there is no descriptor.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        Refusal::new(
            Reason::DescriptorLimit,
            format!("{} are all in use (RLIMIT_NOFILE less {} that are kept)", self.end(), self.kept()),
        )
    }

    /// The refusal, if `error` says that there was no descriptor: in this process, or on the node.
    #[must_use]
    pub fn refused(self, error: &io::Error) -> Option<Refusal> {
        match error.raw_os_error() {
            Some(code) if code == Errno::MFILE.raw_os_error() => Some(self.refusal()),
            Some(code) if code == Errno::NFILE.raw_os_error() => {
                Some(Refusal::new(Reason::DescriptorLimit, "those of the whole node are all in use (fs.file-max)"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Socket(RawFd);

    impl AsRawFd for Socket {
        fn as_raw_fd(&self) -> RawFd {
            self.0
        }
    }

    #[test]
    fn the_last_descriptors_are_kept() {
        for (limit, end) in [(64, 56), (1024, 896), (20_000, 19_744), (1 << 20, (1 << 20) - 256)] {
            let descriptors = Descriptors::of(limit);
            assert_eq!(descriptors.end(), end);
            assert_eq!(descriptors.admit(&Socket(end - 1)), Ok(()));
            assert_eq!(descriptors.admit(&Socket(end)).unwrap_err().reason, Reason::DescriptorLimit);
        }
        assert_eq!(Descriptors::of(u64::MAX), Descriptors::default());
    }

    #[test]
    fn an_error_is_a_refusal_only_when_descriptors_are_missing() {
        let reason = |errno: Errno| Descriptors::of(1024).refused(&errno.into()).map(|refusal| refusal.reason);
        assert_eq!(reason(Errno::MFILE), Some(Reason::DescriptorLimit));
        assert_eq!(reason(Errno::NFILE), Some(Reason::DescriptorLimit));
        assert_eq!(reason(Errno::CONNREFUSED), None);
        assert_eq!(Descriptors::default().refused(&io::ErrorKind::TimedOut.into()), None);
    }
}
