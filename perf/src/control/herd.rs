//! All subscribers together, in a process of their own, so that what the control plane uses is told apart from what they use.
//!
//! They have what the control plane leaves of the processors: a thousand subscribers are on a thousand other machines, and reading what has come is
//! their work. So the time until a response has come is told by the kernel, and the time until it was read beside it.
//!
//! Each line of the process's input is an [`Order`], each line of its output the [`Report`] that answers it. Both sides go by the
//! monotonic clock, which is the same for all processes.

use std::{net::SocketAddr, path::Path, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    Size,
    peer::{Asks, Peer, Seen},
    world::World,
};

/// How long anything may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(900);

/// What the subscribers are to do.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// All connect at once, node proxies with what they have already, and each is answered for every type.
    Connect { to: SocketAddr, ztunnels: usize, waypoints: usize, held: Vec<(String, String)>, answer_after_ms: u64 },
    /// So many responses have come since the beginning.
    Await { responses: u64 },
    /// All go.
    Leave,
}

/// What the subscribers have seen, once what was ordered is done.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Report {
    /// Responses with a resource or a removal in them, since the last order to connect.
    pub responses: u64,
    /// Resources and removals.
    pub resources: u64,
    /// When the last of them was in the subscriber's socket, in nanoseconds of the monotonic clock.
    pub last: u64,
    /// When it was read there.
    pub last_read: u64,
}

/// The process, from the side of who measures. It is killed when this is dropped.
#[derive(Debug)]
pub struct Herd {
    child: Child,
    answer_after_ms: u64,
    orders: ChildStdin,
    reports: Lines<BufReader<ChildStdout>>,
}

impl Herd {
    /// Starts `program`, which is this one, as the subscribers' process, in which each response is answered after a while.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path, answer_after_ms: u64) -> anyhow::Result<Self> {
        // Behind everybody else, who need not wait for a slice to end (SCHED_IDLE): a process that is only nice has the processor for one.
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]).arg(program).arg("subscribers");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let orders = child.stdin.take().context("the subscribers' input")?;
        let reports = BufReader::new(child.stdout.take().context("the subscribers' output")?).lines();
        Ok(Self { child, answer_after_ms, orders, reports })
    }

    /// Of the process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Connects all and waits until each was answered for every type.
    ///
    /// # Errors
    /// When a subscriber loses its stream, or it takes too long.
    pub async fn connect(&mut self, to: SocketAddr, size: Size, held: Vec<(String, String)>) -> anyhow::Result<Report> {
        let (Size { ztunnels, waypoints, .. }, answer_after_ms) = (size, self.answer_after_ms);
        self.order(&Order::Connect { to, ztunnels, waypoints, held, answer_after_ms }).await
    }

    /// Waits until this many responses have come since all connected.
    ///
    /// # Errors
    /// When a subscriber loses its stream, or it takes too long.
    pub async fn have(&mut self, responses: u64) -> anyhow::Result<Report> {
        self.order(&Order::Await { responses }).await
    }

    /// Ends all streams.
    ///
    /// # Errors
    /// When the process has ended.
    pub async fn leave(&mut self) -> anyhow::Result<Report> {
        self.order(&Order::Leave).await
    }

    async fn order(&mut self, order: &Order) -> anyhow::Result<Report> {
        self.orders.write_all(format!("{}\n", serde_json::to_string(order)?).as_bytes()).await?;
        self.orders.flush().await?;
        let line = self.reports.next_line().await?;
        let line = line.context("the subscribers have ended; what they print says why")?;
        serde_json::from_str(&line).with_context(|| format!("subscribers answered {line}"))
    }
}

/// Runs the subscribers' process until its input ends.
///
/// # Errors
/// When a subscriber loses its stream, or an order takes too long.
pub async fn serve() -> anyhow::Result<()> {
    ambit_runtime::sys::raise_open_files()?;
    let mut seen = Seen::new(Duration::ZERO);
    let mut peers: Vec<Peer> = Vec::new();
    while let Some(line) = spawn_blocking(|| std::io::stdin().lines().next().transpose()).await?? {
        match serde_json::from_str(&line)? {
            Order::Connect { to, ztunnels, waypoints, held, answer_after_ms } => {
                seen = Seen::new(Duration::from_millis(answer_after_ms));
                peers = connect(to, ztunnels, waypoints, held, &seen);
                let firsts = (2 * ztunnels + 4 * waypoints) as u64;
                until(&seen, "every subscriber is served", |seen| seen.firsts() >= firsts).await?;
            }
            Order::Await { responses } => {
                until(&seen, "every subscriber is told of a change", |seen| seen.report().responses >= responses).await?;
            }
            Order::Leave => peers.clear(),
        }
        println!("{}", serde_json::to_string(&seen.report())?);
    }
    Ok(())
}

/// Begins all streams at once.
fn connect(to: SocketAddr, ztunnels: usize, waypoints: usize, held: Vec<(String, String)>, seen: &Arc<Seen>) -> Vec<Peer> {
    // What node proxies have is the same for all, and megabytes.
    let ztunnel = Asks::ztunnel(held);
    let ztunnels = (0..ztunnels).map(|_| ztunnel.clone());
    let waypoints = (0..waypoints).map(|number| Asks::waypoint(&World::namespace(number)));
    ztunnels.chain(waypoints).map(|asks| Peer::start(to, asks, Arc::clone(seen))).collect()
}

async fn until(seen: &Seen, what: &str, done: impl Fn(&Seen) -> bool) -> anyhow::Result<()> {
    let waiting = async {
        while !done(seen) {
            ensure!(!seen.has_lost_one(), "a subscriber was lost before {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    timeout(PATIENCE, waiting).await.with_context(|| format!("it took longer than {} s until {what}", PATIENCE.as_secs()))?
}
