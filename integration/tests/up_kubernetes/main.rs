//! `ambit up --kubernetes` as people start it: a cluster, the mesh, the demonstration, the live view as one document, and nothing left.

#[path = "../common/left.rs"]
mod left;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ambit_integration::{run_here, suite, test};
use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

/// Who calls whom in the demonstration, as far as its programs are in Ambit's own image.
const EDGES: [[&str; 2]; 10] = [
    ["shop/client", "shop/web"],
    ["shop/web", "shop/api"],
    ["shop/api", "shop/orders"],
    ["shop/api", "shop/permissions"],
    ["shop/api", "shop/notifications"],
    ["shop/api", "billing/billing"],
    ["shop/orders", "data/storage"],
    ["shop/permissions", "data/storage"],
    ["shop/notifications", "data/storage"],
    ["billing/billing", "data/storage"],
];

/// How long the start may take in all: a cluster, an installation, the programs. Builds may go on beside it.
const START: Duration = Duration::from_secs(420);

/// How long it is looked at, seconds, and after which part of that a policy comes.
const LOOK: &str = "24s";
const POLICY: Duration = Duration::from_secs(7);

/// How long it may take to end after that.
const END: Duration = Duration::from_secs(120);

/// The fields of the document that matter here.
#[derive(Debug, Deserialize)]
struct Document {
    ready_seconds: f64,
    nodes: Vec<String>,
    pods: Vec<Pod>,
    edges: Vec<Edge>,
    wire: Option<Wire>,
    waypoints: Vec<String>,
    notices: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Pod {
    name: String,
    enrolled: bool,
    ready: bool,
}

#[derive(Debug, Deserialize)]
struct Edge {
    source: String,
    destination: String,
    protocol: String,
    requests: u64,
    errors: u64,
    p50_ms: Option<f64>,
    encrypted: bool,
    source_identity: Option<String>,
    destination_identity: Option<String>,
    via: Option<String>,
    versions: BTreeMap<String, u64>,
    refusal: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    reason: String,
    policy: Option<String>,
    seen_by: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
struct Wire {
    packets: u64,
    plaintext_marker_seen: bool,
    unseen: u64,
}

fn main() -> ExitCode {
    run_here(vec![test(
        "on a real Kubernetes the demonstration is shown encrypted with its identities, a refusal with its policy, and nothing is left",
        async || demonstration(),
    )])
}

fn demonstration() -> anyhow::Result<()> {
    let name = format!("up-{}", std::process::id());
    let directory = tempfile::tempdir()?;
    let demo = directory.path().join("demo");
    let mut up = Up::start(&name, &demo)?;
    let outcome = up.until_the_end(&demo);
    if outcome.is_err() {
        up.give_up();
    }
    let text = outcome.with_context(|| up.said.join("\n"))?;
    // Anything before or after the document is an error to the parser.
    let document: Document = serde_json::from_str(&text).with_context(|| format!("not one document: {text}"))?;
    eprintln!("ready after {:.1} s; {:?}", document.ready_seconds, document.wire);
    check(&document).with_context(|| format!("{document:#?}"))?;
    let left = left::left_of(&name)?;
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

/// What holds of the view.
fn check(document: &Document) -> anyhow::Result<()> {
    ensure!(document.nodes == ["node-1", "node-2"] && document.waypoints == ["billing/waypoint"]);
    let wrong: Vec<_> =
        document.pods.iter().filter(|pod| !pod.ready || (pod.name.starts_with("shop/") && !pod.enrolled)).collect();
    ensure!(wrong.is_empty() && document.pods.len() >= 10, "pods: {wrong:?}");
    let wire = document.wire.as_ref().context("nobody watched the wire")?;
    ensure!(wire.packets > 500 && !wire.plaintext_marker_seen && wire.unseen == 0, "the wire: {wire:?}");
    for notice in &document.notices {
        ensure!(notice.contains("left out") && notice.contains("registry"), "notice: {notice}");
    }
    let seen: BTreeSet<[&str; 2]> = document.edges.iter().map(|edge| [&*edge.source, &*edge.destination]).collect();
    ensure!(seen == BTreeSet::from(EDGES), "edges: {seen:?}");
    for edge in &document.edges {
        ensure!(edge.encrypted, "in clear: {edge:#?}");
        ensure!(edge.requests > edge.errors && edge.p50_ms.is_some_and(|p50| p50 > 0.0), "nothing was answered: {edge:#?}");
        let identity =
            |end: &str| end.split_once('/').map(|(namespace, name)| format!("spiffe://cluster.local/ns/{namespace}/sa/{name}"));
        ensure!(edge.source_identity == identity(&edge.source), "who asks: {edge:#?}");
        ensure!(edge.destination_identity == identity(&edge.destination), "who answers: {edge:#?}");
    }
    let edge = |source: &str, destination: &str| {
        let found = document.edges.iter().find(|edge| edge.source == source && edge.destination == destination);
        found.with_context(|| format!("{source} → {destination}"))
    };
    let billing = edge("shop/api", "billing/billing")?;
    ensure!(billing.via.as_deref() == Some("billing/waypoint") && billing.versions.contains_key("v1"), "{billing:#?}");
    ensure!(billing.protocol == "http" && edge("shop/api", "shop/permissions")?.protocol == "grpc");

    let refused = edge("shop/web", "shop/api")?;
    let refusal = refused.refusal.as_ref().with_context(|| format!("no refusal: {refused:#?}"))?;
    ensure!(refused.errors > 0 && refusal.policy.as_deref() == Some("shop/no-web"), "{refused:#?}");
    ensure!(refusal.reason.starts_with("policy_denied"), "{refusal:?}");
    // The api's pod is on node 2, whose proxy decides.
    ensure!(refusal.seen_by.contains("ztunnel/node-2"), "{refusal:?}");
    // The same policy has nothing to do with others.
    let orders = edge("shop/api", "shop/orders")?.refusal.as_ref();
    ensure!(orders.is_none_or(|refusal| refusal.policy.is_none()), "{orders:?}");
    Ok(())
}

/// The program while it runs.
struct Up {
    child: Child,
    /// What it says on standard error, line by line, and what it has said.
    lines: Receiver<String>,
    said: Vec<String>,
    document: Option<JoinHandle<String>>,
}

impl Up {
    fn start(name: &str, demo: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(suite::program()?);
        command.args(["up", "--kubernetes", "--cluster", name, "--for", LOOK, "--json", "--dir"]).arg(demo);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (mut output, errors) = (child.stdout.take().context("no output")?, child.stderr.take().context("no errors")?);
        let document = std::thread::spawn(move || {
            let mut text = String::new();
            let _cut = output.read_to_string(&mut text);
            text
        });
        let (said, lines) = channel();
        std::thread::spawn(move || BufReader::new(errors).lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        Ok(Self { child, lines, said: Vec::new(), document: Some(document) })
    }

    /// Waits until it is ready, sets a policy in force, and gives the document that it ends with.
    fn until_the_end(&mut self, demo: &Path) -> anyhow::Result<String> {
        self.ready(START)?;
        std::thread::sleep(POLICY);
        std::fs::rename(demo.join("deny-web.yaml.off"), demo.join("deny-web.yaml"))?;
        let deadline = Instant::now() + END;
        let status = loop {
            self.hear(Duration::from_millis(100));
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < deadline, "it has not ended");
        };
        self.hear(Duration::from_secs(1));
        let document = self.document.take().context("it was read before")?.join().unwrap_or_default();
        ensure!(status.success(), "it ended with {status}: {document}");
        Ok(document)
    }

    fn ready(&mut self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        while !self.said.iter().any(|line| line.ends_with(" s  ready")) {
            self.hear(Duration::from_millis(100));
            if let Some(status) = self.child.try_wait()? {
                self.hear(Duration::from_secs(1));
                bail!("it ended before it was ready: {status}");
            }
            ensure!(Instant::now() < deadline, "it is not ready after {limit:?}");
        }
        Ok(())
    }

    /// Takes in what it says, for so long.
    fn hear(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    eprintln!("{line}");
                    self.said.push(line);
                }
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => return std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Asks it to end, and waits for that.
    fn give_up(&mut self) {
        // It has not been waited for, so that nobody else has its number.
        let _already_gone = i32::try_from(self.child.id()).map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
        let deadline = Instant::now() + END;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            self.hear(Duration::from_millis(100));
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}
