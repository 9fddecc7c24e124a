//! `fork` for programs that still have one thread.

use std::io;

use nix::unistd::{ForkResult, Pid, fork};

/// Which side of the fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The parent, with the pid of the child.
    Parent(Pid),
    /// The child.
    Child,
}

/// Forks the process.
///
/// # Errors
/// The process has more than one thread (a lock held by another thread would stay locked for ever in the child), or the system
/// refuses another process.
pub fn fork_while_single_threaded() -> io::Result<Fork> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!("cannot fork: the process already has {threads} threads")));
    }
    // SAFETY: the process has a single thread, the calling one, so the child is a full copy with no lock held elsewhere, and may
    // go on as a normal program.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        ForkResult::Child => Ok(Fork::Child),
    }
}
