//! Steps that a child process takes between `fork` and `exec`.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::sethostname;

use crate::netns::NetNs;

/// One step of a child before it becomes the new program. Each is a plain system call on data prepared beforehand, because between
/// `fork` and `exec` a child of a program with threads may neither allocate nor take a lock.
#[derive(Clone, Debug)]
pub enum Step {
    /// Enter this network namespace.
    EnterNetwork(NetNs),
    /// Take a mount namespace of its own, with nothing propagated back.
    OwnMounts,
    /// Bind-mount one file or directory over another (after [`Step::OwnMounts`]).
    Bind {
        /// What is shown.
        source: CString,
        /// Where it is shown; must exist.
        target: CString,
    },
    /// Take a host name of its own.
    Hostname(CString),
    /// Be killed when the parent thread that spawned it ends.
    DieWithParent,
    /// Unblock every signal that the parent had blocked.
    UnblockSignals,
}

/// Makes the child that `command` will spawn take these steps, in order, before it executes the program. A failing step makes
/// `spawn` return its error.
pub fn before_exec(command: &mut Command, steps: Vec<Step>) {
    // SAFETY: `Step::take` makes only async-signal-safe system calls and does not allocate: the C strings and the descriptor are
    // owned by the closure, nix passes a `CStr` on as it is, and an `Errno` becomes an `io::Error` without allocation.
    unsafe {
        command.pre_exec(move || steps.iter().try_for_each(Step::take));
    }
}

impl Step {
    fn take(&self) -> io::Result<()> {
        const NO: Option<&CStr> = None;
        match self {
            Self::EnterNetwork(namespace) => setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?,
            Self::OwnMounts => {
                unshare(CloneFlags::CLONE_NEWNS)?;
                mount(NO, c"/", NO, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NO)?;
            }
            Self::Bind { source, target } => {
                mount(Some(source.as_c_str()), target.as_c_str(), NO, MsFlags::MS_BIND, NO)?;
            }
            Self::Hostname(name) => {
                unshare(CloneFlags::CLONE_NEWUTS)?;
                sethostname(OsStr::from_bytes(name.to_bytes()))?;
            }
            Self::DieWithParent => set_pdeathsig(Signal::SIGKILL)?,
            Self::UnblockSignals => sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?,
        }
        Ok(())
    }
}
