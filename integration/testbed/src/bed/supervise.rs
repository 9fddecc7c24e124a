//! Waiting for one child while passing signals on and reaping orphans.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Signals that are meant for the program.
const PASSED_ON: [Signal; 5] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1];
/// `si_code` of a signal that the kernel made itself, such as Ctrl-C at the terminal (`SI_KERNEL`, asm-generic/siginfo.h). The whole
/// foreground process group gets those, the program included.
const FROM_KERNEL: i32 = 0x80;

fn handled() -> SigSet {
    PASSED_ON.into_iter().chain([Signal::SIGCHLD]).collect()
}

/// Blocks the signals that a [`Supervisor`] reads, and returns the mask from before.
pub(super) fn block_signals() -> io::Result<SigSet> {
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&handled()), Some(&mut before))?;
    Ok(before)
}

/// Sets the mask that [`block_signals`] returned.
pub(super) fn restore_signals(before: &SigSet) -> io::Result<()> {
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(before), None)?)
}

/// Waits for one child.
pub(super) struct Supervisor {
    child: Pid,
    signals: SignalFd,
    lifeline: Option<OwnedFd>,
}

impl Supervisor {
    /// `lifeline` is the reading end of a pipe; when its other end closes, waiting is over.
    pub(super) fn new(child: Pid, lifeline: Option<OwnedFd>) -> io::Result<Self> {
        let signals = SignalFd::with_flags(&handled(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { child, signals, lifeline })
    }

    /// Returns the exit code for this process: the child's, or 128 + signal, or 137 when the lifeline was cut.
    pub(super) fn run(self) -> io::Result<i32> {
        loop {
            let cut = self.wait_for_event()?;
            while let Some(signal) = self.signals.read_signal()? {
                self.pass_on(signal.ssi_signo, signal.ssi_code);
            }
            if let Some(code) = self.reap()? {
                return Ok(code);
            }
            if cut {
                return Ok(128 + Signal::SIGKILL as i32);
            }
        }
    }

    /// Waits for a signal; true when the lifeline was cut.
    fn wait_for_event(&self) -> io::Result<bool> {
        let mut watched = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        watched.extend(self.lifeline.iter().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN)));
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) => Ok(watched.get(1).and_then(PollFd::any).unwrap_or(false)),
            Err(nix::errno::Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn pass_on(&self, number: u32, code: i32) {
        let signal = i32::try_from(number).ok().and_then(|number| Signal::try_from(number).ok());
        if let Some(signal) = signal.filter(|signal| PASSED_ON.contains(signal) && code != FROM_KERNEL) {
            // The child may just have ended; reaping follows.
            let _ = kill(self.child, signal);
        }
    }

    /// Collects every ended child; the exit code once it is the one.
    fn reap(&self) -> io::Result<Option<i32>> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.child => return Ok(Some(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.child => return Ok(Some(128 + signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return Ok(None),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
