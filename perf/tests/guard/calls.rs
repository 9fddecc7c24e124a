//! All system calls of the pair's thread, counted by the kernel where it lets us.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{line::Line, scenario, uncounted::Uncounted};

/// The most system calls for each: those that carry the bytes, and those that wait for them. Of a request among others and of a new
/// connection as many as they share reads, writes and wake-ups at the worst.
const LONE: f64 = 12.2;
const AMONG_32: f64 = 6.8;
const CONNECTION: f64 = 44.0;
/// The same of a new connection into ztunnel's own handler.
const INTO_ZTUNNEL: f64 = 52.0;

/// Where the kernel shows its tracepoint, to those who may see it.
const TRACEPOINT: [&str; 2] =
    ["/sys/kernel/tracing/events/raw_syscalls/sys_enter", "/sys/kernel/debug/tracing/events/raw_syscalls/sys_enter"];

/// How long `perf` may take to begin.
const PATIENCE: Duration = Duration::from_secs(10);

/// System calls of the thread during `work`.
fn of_thread(thread: Pid, work: &mut dyn FnMut()) -> Result<f64, Uncounted> {
    let mut command = Command::new("perf");
    command.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-t", &thread.to_string()]);
    let mut counting = match command.env("LC_ALL", "C").stdout(Stdio::null()).stderr(Stdio::piped()).spawn() {
        Ok(counting) => counting,
        // It would mount what is not there; so this is only known when it is missing itself.
        Err(_) if !TRACEPOINT.iter().any(|path| Path::new(path).exists()) => {
            return Err(Uncounted::Machine("the kernel shows no tracepoints of system calls, nor is there `perf`".to_owned()));
        }
        Err(error) => {
            return Err(Uncounted::Program { name: "perf", package: "linux-perf (Ubuntu: linux-tools-generic)", error });
        }
    };
    let counts = has_begun(&mut counting);
    if counts {
        work();
        // When it has ended by itself, what it said is not a count.
        let _ = kill(Pid::from_raw(i32::try_from(counting.id()).unwrap()), Signal::SIGINT);
    }
    let output = counting.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let counted = said.lines().find(|line| line.contains("raw_syscalls")).and_then(|line| line.split(',').next()?.parse().ok());
    counted.filter(|_| counts).ok_or_else(|| Uncounted::Machine(format!("`perf stat` gives no count here: {}", said.trim())))
}

/// Waits until `perf` has its counter, which is one of its descriptors (`perf_event_open`(2)), and a moment more, as it starts it after that.
/// False when it has ended instead.
fn has_begun(counting: &mut Child) -> bool {
    let descriptors = format!("/proc/{}/fd", counting.id());
    let by = Instant::now() + PATIENCE;
    while Instant::now() < by && matches!(counting.try_wait(), Ok(None)) {
        let mut links =
            fs::read_dir(&descriptors).into_iter().flatten().flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        if links.any(|link| link.as_os_str() == "anon_inode:[perf_event]") {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(200));
    matches!(counting.try_wait(), Ok(None))
}

fn check(line: &Line, what: &str, count: usize, most: f64, work: &mut dyn FnMut()) {
    let calls = match of_thread(line.thread, work) {
        Ok(calls) => calls,
        Err(uncounted) => return uncounted.tell(&format!("system calls for {what}")),
    };
    let each = calls / count as f64;
    println!("{what}: {each:.3} system calls");
    assert!(each <= most, "{each:.3} system calls for {what}, at most {most} are allowed");
}

#[test]
fn a_lone_request_costs_few_system_calls() {
    scenario::lone(|line, count, work| check(line, "a lone request", count, LONE, work));
}

#[test]
fn requests_that_come_together_share_system_calls() {
    scenario::among_32(|line, count, work| check(line, "a request among 32", count, AMONG_32, work));
}

#[test]
fn a_new_connection_on_a_warm_tunnel_costs_few_system_calls() {
    scenario::new_connection(|line, count, work| check(line, "a new connection", count, CONNECTION, work));
}

#[test]
fn a_new_connection_into_ztunnel_s_own_handler_costs_few_system_calls() {
    let what = "a new connection into ztunnel";
    let counted = scenario::new_connection_into_ztunnel(|line, count, work| check(line, what, count, INTO_ZTUNNEL, work));
    if let Err(uncounted) = counted {
        uncounted.tell(&format!("system calls for {what}"));
    }
}
