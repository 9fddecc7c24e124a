//! Whether our generator of load is at least as fast as wrk and iperf3: the same server, loopback, nothing in between, in turns.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::{
    load::Sample,
    process,
    stats::{Summary, ratio},
    table::number,
};

/// How often and how long.
#[derive(Debug, Clone, Args)]
pub struct LoadCheck {
    /// How often each is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub rounds: u16,
    /// Seconds of each sample.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=60))]
    pub seconds: u16,
}

/// Less than this share of the other's speed is slower; what lies between is taken for noise.
const SLOWER: f64 = 0.95;

/// A generator of somebody else.
#[derive(Debug, Clone, Copy)]
struct Other {
    /// Its program.
    tool: &'static str,
    /// The load that it makes, as ours is called.
    kind: &'static str,
    /// On how many connections.
    counts: &'static [usize],
}

/// All that ours is held against.
const OTHERS: [Other; 2] =
    [Other { tool: "wrk", kind: "requests", counts: &[1, 16, 64] }, Other { tool: "iperf3", kind: "bulk", counts: &[1, 8] }];

/// What one generator did: how much a second, and its CPU-seconds for each unit (10,000 requests, or a GB).
struct Done {
    rate: f64,
    cpu: f64,
}

/// Measures and prints; both generators use one thread.
///
/// # Errors
/// When neither tool is installed, or ours is slower than 0.95 of one that is.
pub async fn run(check: &LoadCheck) -> anyhow::Result<()> {
    let (mut here, mut missing) = (Vec::new(), Vec::new());
    for other in OTHERS {
        if found(other.tool).await { here.push(other) } else { missing.push(other) }
    }
    if here.is_empty() {
        bail!("neither wrk nor iperf3 is installed (get them, for example, with `apt-get install wrk iperf3`)");
    }
    for Other { tool, kind, .. } in &missing {
        eprintln!("WARNING: {tool} is not installed (`apt-get install {tool}`): {kind} is held against NOTHING");
    }
    let port = free_port()?;
    let mut server = Command::new(std::env::current_exe()?);
    let server = server.args(["serve", "--port", &port.to_string()]).kill_on_drop(true).spawn().context("starting the server")?;
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut slower = Vec::new();
    println!("{:32} {:>12} {:>12} {:>18} {:>24}", "", "ours", "the other", "ours ÷ other", "CPU-s each, ours/other");
    for Other { tool, kind, counts } in &here {
        for connections in *counts {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for round in 0..check.rounds {
                for turn in [round % 2, (round + 1) % 2] {
                    if turn == 0 {
                        ours.push(own(kind, target, *connections, check.seconds).await?);
                    } else if *tool == "wrk" {
                        theirs.push(wrk(target, *connections, check.seconds).await?);
                    } else {
                        theirs.push(iperf3(*connections, check.seconds).await?);
                    }
                }
            }
            let name = format!("{kind}, {connections} connections: {tool}");
            if line(&name, &ours, &theirs) < SLOWER {
                slower.push(name);
            }
        }
    }
    end(server).await;
    if !slower.is_empty() {
        bail!("our generator is slower: {}", slower.join("; "));
    }
    println!("{}", verdict(&here, &missing));
    Ok(())
}

/// What is shown when ours was not slower: nothing of a load whose other generator was not there.
fn verdict(here: &[Other], missing: &[Other]) -> String {
    let names = here.iter().map(|other| format!("{} ({})", other.tool, other.kind)).collect::<Vec<_>>().join(" and ");
    let mut text = format!("our generator does at least {SLOWER}× as much as {names}, in the median");
    for Other { tool, kind, .. } in missing {
        text.push_str(&format!("\nNOT SHOWN for {kind}: {tool} is not installed"));
    }
    text
}

/// Prints a comparison and returns the median of the ratios.
fn line(name: &str, ours: &[Done], theirs: &[Done]) -> f64 {
    let all = |done: &[Done], what: fn(&Done) -> f64| done.iter().map(|done| Some(what(done))).collect::<Vec<_>>();
    let median = |values: &[Option<f64>]| Summary::of(values).map_or(f64::NAN, |summary| summary.median);
    let (rates, other) = (all(ours, |done| done.rate), all(theirs, |done| done.rate));
    let (cpu, other_cpu) = (median(&all(ours, |done| done.cpu)), median(&all(theirs, |done| done.cpu)));
    let Some(Summary { median: middle, min, max, .. }) = ratio(&rates, &other) else { return f64::NAN };
    let ratios = format!("{middle:.2} ({min:.2}–{max:.2})");
    println!("{name:32} {:>12} {:>12} {ratios:>18} {cpu:>16.3} / {other_cpu:.3}", number(median(&rates)), number(median(&other)));
    middle
}

async fn found(tool: &str) -> bool {
    Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().await.is_ok()
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Ends a program that we started.
async fn end(mut program: Child) {
    // It may have ended by itself.
    let _ended = program.kill().await;
}

/// A program to its end, with the CPU-seconds it used.
async fn output(command: &mut Command, seconds: u16) -> anyhow::Result<(String, f64)> {
    let before = process::children_cpu()?;
    command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let patience = Duration::from_secs(u64::from(seconds) + 30);
    let output = tokio::time::timeout(patience, command.output()).await.context("the load does not end")??;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), process::children_cpu()? - before))
}

async fn own(kind: &str, target: SocketAddr, connections: usize, seconds: u16) -> anyhow::Result<Done> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["load", kind, "--warmup", "0", "--to", &target.to_string(), "--connections", &connections.to_string()]);
    let (text, cpu) = output(command.args(["--seconds", &seconds.to_string()]), seconds).await?;
    let sample: Sample = serde_json::from_str(&text)?;
    if kind == "bulk" {
        let gigabytes = sample.all_bytes as f64 / 1e9;
        return Ok(Done { rate: sample.bytes as f64 * 8.0 / 1e9 / sample.seconds, cpu: cpu / gigabytes });
    }
    Ok(Done { rate: sample.count as f64 / sample.seconds, cpu: cpu * 10_000.0 / sample.all as f64 })
}

async fn wrk(target: SocketAddr, connections: usize, seconds: u16) -> anyhow::Result<Done> {
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), &format!("http://{target}/")]);
    let (text, cpu) = output(&mut command, seconds).await?;
    let (rate, requests) = read_wrk(&text).with_context(|| format!("wrk said: {text}"))?;
    Ok(Done { rate, cpu: cpu * 10_000.0 / requests })
}

/// Reads `  27345 requests in 2.00s, 30MB read` and `Requests/sec:  13672.5`.
fn read_wrk(text: &str) -> Option<(f64, f64)> {
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"))?.trim().parse().ok()?;
    let requests = text.lines().find_map(|line| line.split_once(" requests in "))?.0.trim().parse().ok()?;
    Some((rate, requests))
}

async fn iperf3(streams: usize, seconds: u16) -> anyhow::Result<Done> {
    let port = free_port()?.to_string();
    let mut server = Command::new("iperf3");
    let server =
        server.args(["-s", "-1", "-p", &port]).stdout(Stdio::null()).kill_on_drop(true).spawn().context("starting iperf3")?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut client = Command::new("iperf3");
    // Reversed: as with ours, the server sends.
    client.args(["-c", "127.0.0.1", "-p", &port, "-R", "-J", "-P", &streams.to_string(), "-t", &seconds.to_string()]);
    let result = output(&mut client, seconds).await;
    end(server).await;
    let report: Value = serde_json::from_str(&result?.0)?;
    let received = report.pointer("/end/sum_received").context("iperf3 tells no sum")?;
    let number = |name: &str| received.get(name).and_then(Value::as_f64).with_context(|| format!("iperf3 tells no {name}"));
    let percent = report.pointer("/end/cpu_utilization_percent/host_total").and_then(Value::as_f64).unwrap_or(f64::NAN);
    let cpu = percent / 100.0 * number("seconds")? / (number("bytes")? / 1e9);
    Ok(Done { rate: number("bits_per_second")? / 1e9, cpu })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_held_against_nothing_is_not_said_to_be_fast() {
        let [wrk, iperf3] = OTHERS;
        let all = verdict(&[wrk, iperf3], &[]);
        assert!(all.contains("wrk (requests) and iperf3 (bulk)") && !all.contains("NOT SHOWN"), "{all}");
        let half = verdict(&[wrk], &[iperf3]);
        assert!(half.contains("as wrk (requests),") && half.contains("NOT SHOWN for bulk: iperf3 is not installed"), "{half}");
    }

    #[test]
    fn what_wrk_says_is_read() {
        let text = "Running 2s test\n  27345 requests in 2.00s, 30.1MB read\nRequests/sec:  13672.50\nTransfer/sec:  14.9MB\n";
        assert_eq!(read_wrk(text), Some((13_672.5, 27_345.0)));
        assert_eq!(read_wrk("unable to connect"), None);
    }
}
