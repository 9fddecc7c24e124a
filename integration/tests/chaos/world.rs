//! The mesh of this suite: two nodes, on each the processes of a node agent and of a node proxy, and on a third place those of the control plane
//! and of the authority. What kubelet and API server would do is in `pods.rs`.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ambit::local::access::{AccessLine, Tail};
use ambit_testbed::{Bed, BedConfig, Command, Node, Output, Process, capture::AgentFiles, wire::Capture};
use ambit_tls::{
    authority::{self, Authority},
    token::{self, AUDIENCE, Bound, Claims, ObjectReference, Signer},
};
use anyhow::{Context, ensure};
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    app::{Astray, MARKER},
    load::Load,
    pods::Runtime,
};

pub const SECOND: Duration = Duration::from_secs(1);
/// For what has to come about on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// Lifetime of certificates where they do not matter.
pub const DAY: u64 = 24 * 3600;

/// Ports of the authority, which is a control plane of its own that nobody asks for anything else.
const AUTHORITY: [u16; 2] = [15013, 15016];
/// How often access logs are read.
const LOOK: Duration = Duration::from_millis(50);

/// Processes of the control plane's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Gives out workloads, services and policies.
    ControlPlane,
    /// Gives out certificates.
    Authority,
}

/// A node and its two processes.
pub struct MeshNode {
    pub place: Node,
    pub agent: Option<Process>,
    pub proxy: Option<Process>,
    /// How many proxies were started on it.
    pub started: u16,
}

pub struct World {
    pub bed: Bed,
    pub nodes: Vec<MeshNode>,
    pub runtime: Runtime,
    pub load: Arc<Load>,
    pub astray: Arc<Astray>,
    pub captures: Vec<Capture>,
    /// The lines of all access logs, and when they were read.
    pub lines: Arc<Mutex<Vec<(Instant, AccessLine)>>>,
    parts: [Option<Process>; 2],
    certificate_seconds: u64,
    _following: AbortOnDropHandle<()>,
}

impl World {
    /// The mesh without pods.
    pub async fn start(certificate_seconds: u64) -> anyhow::Result<Self> {
        let bed = Bed::new(BedConfig::default()).await?;
        let dir = bed.dir().to_owned();
        std::fs::create_dir_all(dir.join("manifests"))?;
        let places = [bed.add_node("node-1").await?, bed.add_node("node-2").await?];
        prepare(&dir)?;
        let signer = Signer::load_or_create(&state_of(&dir, Part::ControlPlane))?;
        let runtime = Runtime::new(&dir, &places)?;
        for place in &places {
            std::fs::write(place.dir().join("token"), signer.sign(&claims(place.name())?)?)?;
        }
        let mut tails: Vec<Tail> = places.iter().map(|place| Tail::new(place.dir().join("access.log"))).collect();
        let (lines, astray) = (Arc::new(Mutex::new(Vec::new())), Arc::<Astray>::default());
        let all = Arc::clone(&lines);
        let following = AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let new: Vec<_> = tails.iter_mut().flat_map(Tail::read).map(|line| (Instant::now(), line)).collect();
                all.lock().unwrap().extend(new);
                tokio::time::sleep(LOOK).await;
            }
        }));
        let mut captures = Vec::new();
        for place in &places {
            captures.push(place.capture([MARKER]).await?);
        }
        let node = |place| MeshNode { place, agent: None, proxy: None, started: 0 };
        let mut world = Self {
            bed,
            nodes: places.map(node).into(),
            runtime,
            load: Load::new(Arc::clone(&astray)),
            astray,
            captures,
            lines,
            parts: [None, None],
            certificate_seconds,
            _following: following,
        };
        for part in [Part::ControlPlane, Part::Authority] {
            world.start_part(part).await?;
        }
        for number in 0..world.nodes.len() {
            world.start_agent(number).await?;
            world.start_proxy(number)?;
        }
        Ok(world)
    }

    /// The directory in which a part has its keys.
    pub fn state_of(&self, part: Part) -> PathBuf {
        state_of(self.bed.dir(), part)
    }

    pub async fn start_part(&mut self, part: Part) -> anyhow::Result<()> {
        let place = self.bed.control_plane().await?;
        let mut command = Command::this_program()
            .name(format!("{part:?}"))
            .arg("istiod")
            .arg("--source-dir")
            .arg(self.bed.dir().join("manifests"))
            .arg("--state-dir")
            .arg(self.state_of(part))
            .args(["--certificate-seconds", &self.certificate_seconds.to_string()]);
        if part == Part::Authority {
            let [listen, pages] = AUTHORITY;
            command = command.args(["--listen", &format!("[::]:{listen}"), "--monitoring", &format!("[::]:{pages}")]);
        }
        self.parts[part as usize] =
            Some(place.spawn(command.output(Output::File(self.bed.dir().join(format!("{part:?}.log")))))?);
        Ok(())
    }

    /// As if it crashed.
    pub async fn kill_part(&mut self, part: Part) {
        end(self.parts[part as usize].take()).await;
    }

    /// Starts a node's agent and waits until it answers.
    pub async fn start_agent(&mut self, number: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[number];
        let files = AgentFiles::create(node.place.dir())?;
        let log = node.place.dir().join("agent.log");
        node.agent = Some(node.place.spawn(files.agent().output(Output::File(log)))?);
        self.until("an agent that answers", async || files.answers().await).await
    }

    pub async fn kill_agent(&mut self, number: usize) {
        end(self.nodes[number].agent.take()).await;
    }

    /// Starts a proxy on a node, beside the one that may be there.
    pub fn start_proxy(&mut self, number: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[number];
        node.started += 1;
        let (dir, name) = (node.place.dir(), node.place.name().to_owned());
        let [admin, metrics, ready] = ports(node.started);
        let command = Command::this_program()
            .name(format!("ztunnel-{number}"))
            .args(["ztunnel", "--node", &name, "--pod-name", &format!("ztunnel-{name}"), "--drain-seconds", "20"])
            .args(["--xds-address", "172.30.0.100:15012", "--ca-address", &format!("172.30.0.100:{}", AUTHORITY[0])])
            .args(["--instance-ip", &node.place.ip().to_string(), "--log", "info,h2=warn"])
            .args(["--admin", &format!("127.0.0.1:{admin}"), "--metrics", &format!("[::]:{metrics}")])
            .args(["--ready", &format!("[::]:{ready}")])
            .arg("--zds-socket")
            .arg(dir.join("zds.sock"))
            .arg("--state-dir")
            .arg(dir.join("state"))
            .arg("--access-log")
            .arg(dir.join("access.log"))
            .arg("--token")
            .arg(dir.join("token"))
            .arg("--ca-root")
            .arg(self.bed.dir().join("roots.pem"))
            .output(Output::File(dir.join("ztunnel.log")));
        node.proxy = Some(node.place.spawn(command)?);
        Ok(())
    }

    pub async fn kill_proxy(&mut self, number: usize) {
        end(self.nodes[number].proxy.take()).await;
    }

    /// Writes the roots by which proxies know the control plane.
    pub fn believe(&self, roots: &str) -> anyhow::Result<()> {
        replace(&self.bed.dir().join("roots.pem"), roots)
    }

    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        while !holds().await {
            ensure!(Instant::now() < until, "{what} did not come about\n{}", self.logs());
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// The ends of all program logs.
    pub fn logs(&self) -> String {
        let files = self.nodes.iter().flat_map(|node| ["agent.log", "ztunnel.log"].map(|name| node.place.dir().join(name)));
        let parts = [Part::ControlPlane, Part::Authority].map(|part| self.bed.dir().join(format!("{part:?}.log")));
        let mut all = String::new();
        for path in files.chain(parts) {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            all += &format!("== {}\n{}\n", path.display(), lines[lines.len().saturating_sub(12)..].join("\n"));
        }
        all
    }

    pub async fn stop(self) {
        self.bed.shutdown().await;
    }
}

/// Admin pages, metrics and readiness of the n-th proxy of a node: two of them run at once while one replaces the other.
pub fn ports(started: u16) -> [u16; 3] {
    [15000, 15020, 15021].map(|port| port + started * 100)
}

async fn end(process: Option<Process>) {
    if let Some(process) = process {
        process.kill();
        process.wait().await;
    }
}

fn state_of(dir: &Path, part: Part) -> PathBuf {
    dir.join(format!("{part:?}"))
}

/// Keys of the mesh: both parts have the same.
fn prepare(dir: &Path) -> anyhow::Result<()> {
    let (first, second) = (state_of(dir, Part::ControlPlane), state_of(dir, Part::Authority));
    std::fs::create_dir_all(&first)?;
    std::fs::create_dir_all(&second)?;
    let root = Authority::load_or_create(&first, &"cluster.local".parse()?)?;
    Signer::load_or_create(&first)?;
    for file in [authority::KEY_FILE, authority::CERTIFICATE_FILE, token::KEY_FILE, token::PUBLIC_KEY_FILE] {
        let from = first.join(file);
        if from.exists() {
            std::fs::copy(&from, second.join(file)).with_context(|| file.to_owned())?;
        }
    }
    replace(&dir.join("roots.pem"), root.root_pem())
}

/// Whom the proxy of a node speaks for.
fn claims(node: &str) -> anyhow::Result<Claims> {
    let bound = Bound {
        namespace: "istio-system".parse()?,
        pod: Some(ObjectReference::new(format!("ztunnel-{node}"), format!("uid-ztunnel-{node}"))),
        serviceaccount: ObjectReference::new("ztunnel", ""),
        node: Some(ObjectReference::new(node, "")),
    };
    Ok(Claims::new(&[AUDIENCE], bound, 60 * SECOND * 60))
}

/// Writes a file in one step.
pub fn replace(path: &Path, content: &str) -> anyhow::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    std::fs::write(&beside, content)?;
    Ok(std::fs::rename(beside, path)?)
}

/// The place and the addresses of a node's proxy, as the API server has them.
pub fn proxy_object(node: &str, ips: &[IpAddr]) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": format!("ztunnel-{node}"), "namespace": "istio-system", "uid": format!("uid-ztunnel-{node}"), "labels": { "istio.io/dataplane-mode": "none" } },
        "spec": { "nodeName": node, "serviceAccountName": "ztunnel", "hostNetwork": true, "containers": [{ "name": "istio-proxy", "image": "ztunnel" }] },
        "status": { "phase": "Running", "podIP": ips[0], "podIPs": ips.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(), "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}
