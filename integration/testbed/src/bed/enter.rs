//! Putting the program into namespaces of its own.
//!
//! Three processes come out of one, by `fork`:
//!
//! 1. the one that was started: makes the namespaces, waits, passes signals on, returns the exit code;
//! 2. process 1 of the new pid namespace: mounts /proc and /run, reaps what is orphaned. When it ends, the kernel kills every process
//!    of the namespace. It ends when (3) ends and when (1) dies, of whatever cause: it has asked for SIGKILL on its parent's death,
//!    and it watches a pipe of which (1) holds the other end;
//! 3. the program proper, which returns from [`enter`].
//!
//! The network namespaces, mounts and files of the bed are held by these processes only, so they vanish with them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use ambit_runtime::sys::{Fork, fork_while_single_threaded, raise_open_files};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, getegid, geteuid};

use super::supervise::{Supervisor, block_signals, restore_signals};
use crate::Error;

/// Becomes a private tmpfs inside the bed.
pub(super) const RUN: &str = "/run";

const USER_NAMESPACES: &str = "run as root, or allow user namespaces for ordinary users: `sysctl user.max_user_namespaces` must not be 0, \
     `kernel.unprivileged_userns_clone` must be 1 (Debian) and `kernel.apparmor_restrict_unprivileged_userns` 0 (Ubuntu); \
     in a container, run it with --privileged or with a seccomp profile that allows unshare";
const LIMITS: &str = "raise the limits on namespaces (`sysctl user.max_user_namespaces`, `user.max_net_namespaces`, \
     `user.max_pid_namespaces`, `user.max_mnt_namespaces`), or end programs that hold many";
const KERNEL: &str = "a kernel with all namespaces (CONFIG_NAMESPACES, CONFIG_USER_NS, CONFIG_NET_NS, CONFIG_PID_NS)";
const MOUNTS: &str =
    "in a container, run it with --privileged or with an unmasked /proc (`--security-opt systempaths=unconfined`)";

/// Moves the program into namespaces of its own and returns in the process that is to go on; see the module's text. To be called
/// first thing in `main`, while the process has one thread. The process that was started never returns from here: it exits with the
/// code of the program (128 + the signal's number if a signal ended it).
///
/// # Errors
/// Threads were already started, or the kernel refuses; the message says what is missing and how to get it.
pub fn enter() -> Result<(), Error> {
    let threads = fs::read_dir("/proc/self/task").map_err(Error::io("read /proc/self/task (is /proc mounted?)"))?.count();
    if threads != 1 {
        return Err(Error::Plan(format!("bed::enter() must come first in main: there are already {threads} threads")));
    }
    // For this program and all that it starts; a user who may not have more files goes on with what there is.
    let _ = raise_open_files();
    separate()?;
    let mask = block_signals().map_err(Error::io("block signals"))?;
    let (lifeline, held) = nix::unistd::pipe().map_err(io::Error::from).map_err(Error::io("make a pipe"))?;
    match fork_while_single_threaded().map_err(Error::unavailable("start the first process of the bed", USER_NAMESPACES))? {
        Fork::Parent(init) => {
            drop(lifeline);
            let code = Supervisor::new(init, None).and_then(Supervisor::run).map_err(Error::io("wait for the bed"));
            drop(held);
            end(code)
        }
        Fork::Child => {
            drop(held);
            become_init(lifeline, &mask)
        }
    }
}

/// Leaves without running destructors or exit handlers, which belong to the program proper.
fn end(code: Result<i32, Error>) -> ! {
    match code {
        Ok(code) => std::process::exit(code),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(125)
        }
    }
}

fn separate() -> Result<(), Error> {
    let inside = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    let (user, group) = (geteuid(), getegid());
    if user.is_root() {
        match unshare(inside) {
            Ok(()) => return Ok(()),
            // Root without CAP_SYS_ADMIN, as in most containers: try like an ordinary user.
            Err(Errno::EPERM) => {}
            Err(error) => return Err(refused("make namespaces", error)),
        }
    }
    unshare(CloneFlags::CLONE_NEWUSER | inside).map_err(|error| refused("make a user namespace", error))?;
    map_to_root(user, group).map_err(Error::unavailable("become root of the user namespace", USER_NAMESPACES))
}

fn refused(what: &str, error: Errno) -> Error {
    let remedy = match error {
        Errno::ENOSPC | Errno::EUSERS => LIMITS,
        Errno::EINVAL | Errno::ENOSYS => KERNEL,
        _ => USER_NAMESPACES,
    };
    Error::unavailable(what, remedy)(error.into())
}

fn map_to_root(user: Uid, group: Gid) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

/// Runs in process 1 of the pid namespace: returns only in its child, the program proper (or with an error, before that).
fn become_init(lifeline: OwnedFd, mask: &nix::sys::signal::SigSet) -> Result<(), Error> {
    set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from).map_err(Error::io("ask to die with the parent"))?;
    mount_private().inspect_err(|_| {
        let _ = restore_signals(mask);
    })?;
    match fork_while_single_threaded().map_err(Error::io("start the program inside the bed"))? {
        Fork::Parent(program) => {
            let code = Supervisor::new(program, Some(lifeline)).and_then(Supervisor::run);
            end(code.map_err(Error::io("wait for the program inside the bed")))
        }
        Fork::Child => restore_signals(mask).map_err(Error::io("restore the signal mask")),
    }
}

fn mount_private() -> Result<(), Error> {
    const NO: Option<&str> = None;
    let hidden = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(NO, "/", NO, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NO)
        .map_err(io::Error::from)
        .map_err(Error::unavailable("make the mounts private", MOUNTS))?;
    mount(Some("proc"), "/proc", Some("proc"), hidden | MsFlags::MS_NOEXEC, NO)
        .map_err(io::Error::from)
        .map_err(Error::unavailable("mount /proc of the new pid namespace", MOUNTS))?;
    mount(Some("tmpfs"), RUN, Some("tmpfs"), hidden, Some("mode=0755"))
        .map_err(io::Error::from)
        .map_err(Error::unavailable("mount a tmpfs over /run", "the directory /run must exist and the kernel must have tmpfs"))
}
