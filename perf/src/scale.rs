//! Idle connections by the ten thousand: what each of them takes in the two proxies that carry it, and in the kernel.

use std::{
    fs,
    net::SocketAddr,
    path::{Path as FilePath, PathBuf},
    time::Duration,
};

use ambit_testbed::{Command, Output};
use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use crate::{
    bench::{Bench, Held},
    manifests::{self, SERVER_PORTS, SMALL_PORTS},
    paths::Path,
    process,
    rig::{Proxy, Rig},
    session::{progress, unless_told},
    synthetic::Synthetic,
};

/// The path that they take: a proxy on the client's node, one on the server's.
const PATH: Path = Path::Ztunnel;

/// Connections of one pod: half of what a proxy allows it, and far fewer than it has ports.
const PER_POD: usize = 10_000;

/// Pauses on the way up, at which it is looked what the connections so far take.
const STAGES: usize = 4;

/// Descriptors of a proxy that are not for connections: those that it keeps, and what it needs at all.
const OTHER_DESCRIPTORS: usize = 600;

/// Sockets of one connection: the client's, one of each proxy, the server's. Tunnels are shared.
const SOCKETS: usize = 4;

/// How long opening those of one stage may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long the proxies are left alone before it is looked.
const SETTLE: Duration = Duration::from_secs(8);

/// How long until they have given back what a large change has left: telling of all workloads takes memory too.
const REST: Duration = Duration::from_secs(15);

/// What the kernel keeps for a socket is in these caches (`/proc/slabinfo`).
const CACHES: [&str; 7] = ["TCP", "TCPv6", "sock_inode_cache", "filp", "eventpoll_epi", "eventpoll_pwq", "nf_conntrack"];

/// How many, and what they may cost.
#[derive(Debug, Clone, Args)]
pub struct Scale {
    /// Idle connections through two node proxies, each of which has carried a request.
    #[arg(long, default_value_t = 100_000)]
    pub connections: usize,
    /// The most that a connection may take of one proxy's memory, and of the kernel's for that proxy's socket, together, in KB.
    #[arg(long, default_value_t = 12.0)]
    pub budget: f64,
    /// Workloads whose memory is looked at afterwards; 0 for none.
    #[arg(long, default_value_t = 10_000)]
    pub workloads: usize,
    /// Writes what was measured to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// What so many idle connections take. Memory is what they added since there were none.
#[derive(Debug, Clone, Serialize)]
struct Stage {
    connections: usize,
    /// PSS of the client's proxy and of the server's, MB.
    pss_mb: [f64; 2],
    /// KB for each connection, in the same order.
    kb_each: [f64; 2],
    /// Descriptors of both proxies.
    descriptors: [usize; 2],
    /// KB of the kernel for each socket, where it tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel_kb_each: Option<f64>,
}

/// What was measured.
#[derive(Debug, Clone, Default, Serialize)]
struct Outcome {
    /// Bytes of the largest proxy for each workload; nothing when it was not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    workload_bytes: Option<f64>,
    /// PSS of both proxies before the first connection, MB.
    before_mb: [f64; 2],
    stages: Vec<Stage>,
}

/// Measures, prints, and fails when a connection costs more than it may.
///
/// # Errors
/// When the mesh does not start, a connection is refused, or the budget is exceeded.
pub async fn run(scale: &Scale) -> anyhow::Result<()> {
    let limit = usize::try_from(ambit_runtime::sys::raise_open_files()?)?;
    let count = possible(scale.connections, limit);
    if count == 0 {
        bail!("with {limit} descriptors for a process nothing can be measured");
    }
    if count < scale.connections {
        println!("{limit} descriptors are allowed here for a process (RLIMIT_NOFILE), so there are {count} connections");
    }
    let outcome = unless_told(measure(scale, count)).await?;
    print(&outcome);
    if let Some(file) = &scale.json {
        fs::write(file, serde_json::to_string_pretty(&outcome)?).with_context(|| format!("writing {}", file.display()))?;
    }
    let last = outcome.stages.last().context("nothing was measured")?;
    let each = last.kb_each[0].max(last.kb_each[1]) + last.kernel_kb_each.unwrap_or(0.0);
    if each > scale.budget {
        bail!("a connection takes {each:.1} KB, more than {} KB", scale.budget);
    }
    println!(
        "a connection takes {each:.1} KB of the larger proxy and the kernel together, at most {} KB are allowed",
        scale.budget
    );
    Ok(())
}

/// How many of `wanted` connections a proxy can have with `limit` descriptors: one for each, and one for a hundred of them in a tunnel.
fn possible(wanted: usize, limit: usize) -> usize {
    wanted.min(limit.saturating_sub(OTHER_DESCRIPTORS) * 100 / 102)
}

async fn measure(scale: &Scale, count: usize) -> anyhow::Result<Outcome> {
    progress("starting two nodes");
    // Each tunnel counts as a connection of the server's proxy, as does what is in it.
    let flags = vec!["--max-connections".to_owned(), (count * 2).to_string()];
    let bench = Bench::new(Rig::start_with(None, &[PATH], flags).await?, 1.0, 1.0);
    bench.warm(PATH).await?;
    let mut outcome = Outcome::default();
    let shares = shares(count);
    progress(&format!("{} clients and as many servers", shares.len()));
    bench.rig.change("scale.yaml", Some(&pods(shares.len())?), 2 * shares.len() as isize).await?;
    tokio::time::sleep(SETTLE).await;
    let proxies = bench.rig.proxies(PATH);
    let (before, kernel_before) = (memory(&proxies)?, kernel());
    outcome.before_mb = before;
    let mut held = Vec::new();
    let numbered: Vec<(usize, usize)> = shares.into_iter().enumerate().collect();
    for some in numbered.chunks(numbered.len().div_ceil(STAGES)) {
        progress(&format!("{} connections, and more", held.iter().map(|held: &Held| held.count).sum::<usize>()));
        let opening = some.iter().map(|(pod, share)| open(&bench.rig, *pod, *share));
        held.extend(futures::future::try_join_all(opening).await?);
        tokio::time::sleep(SETTLE).await;
        let connections: usize = held.iter().map(|held| held.count).sum();
        let now = memory(&proxies)?;
        let kernel_kb_each =
            kernel().zip(kernel_before).map(|(now, before)| (now - before) / 1e3 / (connections * SOCKETS) as f64);
        outcome.stages.push(Stage {
            connections,
            pss_mb: now,
            kb_each: [0, 1].map(|proxy| (now[proxy] - before[proxy]) * 1e3 / connections as f64),
            descriptors: [descriptors(&proxies[0])?, descriptors(&proxies[1])?],
            kernel_kb_each,
        });
    }
    for held in held {
        held.release().await?;
    }
    // Afterwards, so that what telling of all workloads leaves behind is not there for connections.
    if scale.workloads > 0 {
        progress(&format!("{} workloads", scale.workloads));
        outcome.workload_bytes = Some(workloads(&bench.rig, scale.workloads).await?);
    }
    bench.rig.stop().await;
    Ok(outcome)
}

/// The connections of each client.
fn shares(count: usize) -> Vec<usize> {
    let pods = count.div_ceil(PER_POD);
    (0..pods).map(|pod| (count + pod) / pods).collect()
}

/// So many clients and servers.
fn pods(count: usize) -> anyhow::Result<String> {
    let program = std::env::current_exe()?;
    let server = [manifests::serve(&program.to_string_lossy(), &SERVER_PORTS[..SMALL_PORTS])];
    let mut text = String::new();
    for pod in 0..count {
        text.push_str(&manifests::sleeper(PATH.name(), &client(pod), "client", "node-1"));
        text.push_str(&manifests::pod(PATH.name(), &format!("scale-server-{pod}"), "server", PATH.server_node(), &server));
    }
    Ok(text)
}

fn client(pod: usize) -> String {
    format!("scale-client-{pod}")
}

/// Opens the connections of one client to its server, which stay.
async fn open(rig: &Rig, pod: usize, count: usize) -> anyhow::Result<Held> {
    let server = rig.pod(PATH, &format!("scale-server-{pod}"))?.ip();
    let command = Command::new("/proc/self/exe").name("load").args(["load", "idle", "--connections", &count.to_string()]);
    let to = SERVER_PORTS.iter().take(SMALL_PORTS).map(|port| SocketAddr::new(server, *port).to_string());
    let command = to.fold(command, |command, to| command.args(["--to", &to]));
    let load = rig.pod(PATH, &client(pod))?.spawn(command.stdin_piped().stdout(Output::Piped))?;
    let held = Held::of(load, PATIENCE).await.with_context(|| format!("the connections of {}", client(pod)))?;
    if held.count < count {
        bail!("{} of {count} connections of {} stand", held.count, client(pod));
    }
    Ok(held)
}

/// What the larger proxy holds for each of `count` workloads, bytes.
async fn workloads(rig: &Rig, count: usize) -> anyhow::Result<f64> {
    let proxies = rig.proxies(PATH);
    let allocated = || proxies.iter().map(|proxy| process::anonymous(proxy.pid)).collect::<Vec<f64>>();
    tokio::time::sleep(REST).await;
    let before = allocated();
    let synthetic = Synthetic::add(rig, count).await?;
    tokio::time::sleep(REST).await;
    let grown = allocated().iter().zip(before).map(|(now, before)| now - before).fold(0.0, f64::max);
    synthetic.remove(rig).await?;
    Ok(grown * 1e6 / count as f64)
}

/// PSS of the two proxies, MB.
fn memory(proxies: &[Proxy]) -> anyhow::Result<[f64; 2]> {
    match proxies {
        [client, server] => Ok([client, server].map(|proxy| process::memory(proxy.pid).pss)),
        _ => bail!("there are {} proxies, not two", proxies.len()),
    }
}

fn descriptors(proxy: &Proxy) -> anyhow::Result<usize> {
    Ok(fs::read_dir(FilePath::new("/proc").join(proxy.pid.to_string()).join("fd"))?.count())
}

/// Bytes of the kernel for sockets of the whole machine, where it tells.
fn kernel() -> Option<f64> {
    let text = fs::read_to_string("/proc/slabinfo").ok()?;
    Some(text.lines().filter_map(slab).sum())
}

/// The bytes of a cache that is one of [`CACHES`]: its objects, by their size.
fn slab(line: &str) -> Option<f64> {
    let mut words = line.split_ascii_whitespace();
    let name = words.next()?;
    let mut number = |skip| words.nth(skip)?.parse::<f64>().ok();
    let (objects, size) = (number(1)?, number(0)?);
    CACHES.contains(&name).then_some(objects * size)
}

fn print(outcome: &Outcome) {
    let [client, server] = outcome.before_mb;
    println!("before the first connection: client's proxy {client:.1} MB, server's {server:.1} MB (PSS)");
    println!(
        "{:>12} {:>20} {:>20} {:>16} {:>18}",
        "connections", "client's proxy", "server's proxy", "descriptors", "kernel, a socket"
    );
    for stage in &outcome.stages {
        let proxy = |at: usize| format!("{:.1} MB, {:.2} KB", stage.pss_mb[at], stage.kb_each[at]);
        let descriptors = stage.descriptors.map(|count| count.to_string()).join(" / ");
        let kernel = stage.kernel_kb_each.map_or_else(|| "not told".to_owned(), |each| format!("{each:.2} KB"));
        println!("{:>12} {:>20} {:>20} {descriptors:>16} {kernel:>18}", stage.connections, proxy(0), proxy(1));
    }
    if let Some(bytes) = outcome.workload_bytes {
        println!("a workload takes {bytes:.0} bytes of the larger proxy, with what the allocator keeps free");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_connections_as_descriptors_allow_and_each_client_has_its_share() {
        assert_eq!(possible(100_000, 1 << 20), 100_000);
        assert!((18_000..19_400).contains(&possible(100_000, 20_000)));
        assert_eq!(possible(100_000, 100), 0);
        for count in [1, 9_999, 10_000, 19_019, 100_000] {
            let shares = shares(count);
            assert_eq!(shares.iter().sum::<usize>(), count);
            assert!(shares.iter().all(|share| *share <= PER_POD), "{shares:?}");
        }
        assert_eq!(shares(100_000).len(), 10);
    }

    #[test]
    fn the_memory_of_sockets_is_read_from_their_caches() {
        let slabs = "slabinfo - version: 2.1
TCPv6                 91    143   2496   13    8 : tunables    0    0    0 : slabdata     11     11      0
dentry              1000   1000    192   21    1 : tunables    0    0    0 : slabdata     50     50      0";
        assert_eq!(slabs.lines().filter_map(slab).collect::<Vec<_>>(), [143.0 * 2496.0]);
    }
}
