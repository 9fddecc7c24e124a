//! All system calls of the pair's thread, counted by the kernel where it lets us.

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// System calls of the thread during `work`; none where the program `perf` or the kernel's tracepoints are missing.
pub fn of_thread(thread: Pid, work: impl FnOnce()) -> Option<f64> {
    let mut command = Command::new("perf");
    command.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-t", &thread.to_string()]);
    let counting = command.env("LC_ALL", "C").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().ok()?;
    thread::sleep(Duration::from_millis(300));
    work();
    // When it has ended by itself, what it said is not a count.
    let _ = kill(Pid::from_raw(i32::try_from(counting.id()).ok()?), Signal::SIGINT);
    let said = String::from_utf8(counting.wait_with_output().ok()?.stderr).ok()?;
    said.lines().find(|line| line.contains("raw_syscalls"))?.split(',').next()?.parse().ok()
}
