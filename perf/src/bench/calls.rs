//! System calls of processes, counted by the kernel's tracepoints through the `perf` program, where both are there.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, bail};
use nix::{sys::signal::Signal, unistd::Pid};
use tokio::process::{Child, Command};

/// All system calls.
const ALL: &str = "raw_syscalls:sys_enter";

/// Those that read or write a socket or pipe.
const READS_AND_WRITES: [&str; 9] = ["read", "readv", "recvfrom", "recvmsg", "write", "writev", "sendto", "sendmsg", "splice"];

/// How long the counters take to be in place.
const ATTACH: Duration = Duration::from_millis(150);

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Calls {
    /// All system calls.
    pub all: f64,
    /// Those that read or write.
    pub moving: f64,
}

/// A count that goes on.
#[derive(Debug)]
pub struct Counting(Child);

fn events() -> String {
    let moving = READS_AND_WRITES.map(|name| format!("syscalls:sys_enter_{name}"));
    std::iter::once(ALL.to_owned()).chain(moving).collect::<Vec<_>>().join(",")
}

fn perf() -> Command {
    let mut command = Command::new("perf");
    command.args(["stat", "-x", ",", "-e", &events()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command.env("LC_ALL", "C");
    command
}

/// Whether system calls can be counted here; if not, why not, in words.
pub async fn available() -> Result<(), String> {
    let output = match perf().args(["--", "true"]).output().await {
        Ok(output) => output,
        Err(error) => return Err(format!("the program perf (Debian: linux-perf) cannot be run: {error}")),
    };
    let text = String::from_utf8_lossy(&output.stderr);
    match parse(&text) {
        Some(calls) if calls.all > 0.0 => Ok(()),
        _ => Err(format!("no tracepoints of system calls: {}", text.lines().next().unwrap_or("perf stat says nothing").trim())),
    }
}

impl Counting {
    /// Begins to count what `pids` do, threads that they will start included.
    ///
    /// # Errors
    /// When `perf` cannot be started or has ended already, as it does when one of the threads that it found is gone when it comes to it. The
    /// next attempt finds those that are there then.
    pub async fn begin(pids: &[u32]) -> anyhow::Result<Self> {
        let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
        let mut command = perf();
        command.args(["-p", &pids.join(",")]);
        Self::attach(command).await
    }

    async fn attach(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command.spawn().context("starting perf stat")?;
        tokio::time::sleep(ATTACH).await;
        if child.try_wait()?.is_some() {
            let output = child.wait_with_output().await?;
            bail!("perf stat has ended by itself: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(Self(child))
    }

    /// Ends the count.
    ///
    /// # Errors
    /// When `perf` did not count.
    pub async fn end(self) -> anyhow::Result<Calls> {
        let pid = self.0.id().and_then(|pid| i32::try_from(pid).ok()).context("perf stat has ended by itself")?;
        // One that has ended meanwhile is not waited for yet, and says below why.
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGINT)?;
        let output = tokio::time::timeout(Duration::from_secs(10), self.0.wait_with_output()).await;
        let output = output.context("perf stat does not end")??;
        let text = String::from_utf8_lossy(&output.stderr);
        let Some(calls) = parse(&text) else { bail!("perf stat did not count: {}", text.trim()) };
        Ok(calls)
    }
}

/// Reads lines like `144,,raw_syscalls:sys_enter,1069665,100.00,,`.
fn parse(text: &str) -> Option<Calls> {
    let mut calls = None;
    for line in text.lines() {
        let mut fields = line.split(',');
        let (Some(count), _, Some(event)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let Ok(count) = count.parse::<f64>() else { continue };
        let calls: &mut Calls = calls.get_or_insert_default();
        if event == ALL {
            calls.all += count;
        } else if event.starts_with("syscalls:") {
            calls.moving += count;
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_perf_stat_are_added_up_by_kind() {
        let text = "144,,raw_syscalls:sys_enter,1069665,100.00,,\n3,,syscalls:sys_enter_recvfrom,1,100.00,,\n4,,syscalls:sys_enter_sendto,1,100.00,,\n";
        assert_eq!(parse(text), Some(Calls { all: 144.0, moving: 7.0 }));
        assert_eq!(parse("<not supported>,,raw_syscalls:sys_enter,0,100.00,,"), None);
        assert_eq!(parse("event syntax error"), None);
    }

    fn in_place_of_perf(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    #[tokio::test]
    async fn a_count_that_gives_up_says_why_early_or_late_and_one_that_goes_on_counts() {
        let gives_up = "echo 'sys_perf_event_open() returned with 3 (No such process)' >&2; exit 255";
        let early = Counting::attach(in_place_of_perf(gives_up)).await.unwrap_err();
        assert!(early.to_string().ends_with("3 (No such process)"), "{early}");
        let late = Counting::attach(in_place_of_perf(&format!("sleep 0.4; {gives_up}"))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let late = late.end().await.unwrap_err();
        assert!(late.to_string().contains("No such process"), "{late}");
        let counts = "trap 'echo 7,,raw_syscalls:sys_enter,1,100.00,, >&2; exit 0' INT; while :; do sleep 0.05; done";
        let counted = Counting::attach(in_place_of_perf(counts)).await.unwrap().end().await.unwrap();
        assert_eq!(counted, Calls { all: 7.0, moving: 0.0 });
    }
}
