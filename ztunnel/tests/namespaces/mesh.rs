//! A mesh for tests: what an API server, a control plane and a kubelet would do, in a few lines each.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ambit_api::{security, type_url, workload};
use ambit_node_agent::{Agent, Handover, PodInfo, rules::Rules};
use ambit_testbed::{Bed, BedConfig, Command, Families, Node, Output, Pod, PodSpec, Process};
use ambit_tls::authority::Authority;
use ambit_xds::{
    Any, Resource,
    client::Handler,
    server::{AdsServer, Authenticate, Cache, Change, ServerConfig},
};
use anyhow::{Context, bail, ensure};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tonic::{Status, metadata::MetadataMap};
use ztunnel::state::{self, Shared};

use crate::child;

pub const VIEW: &str = "ztunnel";
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Mesh {
    pub bed: Bed,
    pub cache: Cache,
    pub authority: Arc<Authority>,
    pub nodes: Vec<MeshNode>,
    workloads: Mutex<BTreeMap<String, workload::Workload>>,
    /// What a proxy makes of all that was sent.
    pub told: Arc<Shared>,
    control_plane: Option<JoinHandle<()>>,
    /// How the proxies carry what stays on their node.
    same_node: &'static str,
    flags: Flags,
    /// How many descriptors proxies have that are started from now on; as many as this process if not given.
    pub descriptors: Option<usize>,
}

/// Further flags of a proxy, by the directories of the bed and of its node.
type Flags = fn(&Path, &Path) -> Vec<OsString>;

pub struct MeshNode {
    pub node: Node,
    pub agent: Agent,
    pub proxy: Option<Process>,
    pub log: PathBuf,
}

struct Anyone;

impl Authenticate for Anyone {
    type Caller = ();
    async fn caller(&self, _: &MetadataMap, _: Option<SocketAddr>) -> Result<(), Status> {
        Ok(())
    }
    async fn view(&self, (): &(), _: &ambit_xds::Node) -> Result<String, Status> {
        Ok(VIEW.to_owned())
    }
}

impl Mesh {
    /// Two nodes, each with an agent and a proxy that is connected to it. All have addresses of both families.
    pub async fn start() -> anyhow::Result<Self> {
        Self::over(Families::Dual).await
    }

    /// As [`Mesh::start`], with addresses of these families, those of the nodes and of the control plane too.
    pub async fn over(families: Families) -> anyhow::Result<Self> {
        Self::start_with(families, "relay").await
    }

    /// As [`Mesh::over`], with proxies that carry what stays on their node like this.
    pub async fn start_with(families: Families, same_node: &'static str) -> anyhow::Result<Self> {
        Self::start_as(families, same_node, |_, _| Vec::new()).await
    }

    /// As [`Mesh::start`], with further flags for the proxies.
    pub async fn start_adding(flags: Flags) -> anyhow::Result<Self> {
        Self::start_as(Families::Dual, "relay", flags).await
    }

    /// As [`Mesh::start_with`], with further flags for the proxies.
    pub async fn start_as(families: Families, same_node: &'static str, flags: Flags) -> anyhow::Result<Self> {
        let bed = Bed::new(BedConfig { families, ..BedConfig::default() }).await?;
        let authority = Arc::new(Authority::load_or_create(&bed.dir().join("ca"), &"cluster.local".parse()?)?);
        std::fs::write(bed.dir().join("token"), "nobody")?;
        std::fs::write(bed.dir().join("roots.pem"), "as they were")?;
        let mut mesh = Self {
            bed,
            cache: Cache::new(),
            authority,
            nodes: Vec::new(),
            workloads: Mutex::default(),
            told: Arc::default(),
            control_plane: None,
            same_node,
            flags,
            descriptors: None,
        };
        mesh.start_control_plane().await?;
        for name in ["node-1", "node-2"] {
            let node = mesh.bed.add_node(name).await?;
            std::fs::create_dir_all(node.dir())?;
            let agent = Agent::listen(&node.dir().join("zds.sock"), Rules::default())?;
            let log = node.dir().join("access.log");
            mesh.nodes.push(MeshNode { node, agent, proxy: None, log });
        }
        for number in 0..mesh.nodes.len() {
            mesh.start_proxy(number).await?;
        }
        Ok(mesh)
    }

    pub async fn start_control_plane(&mut self) -> anyhow::Result<()> {
        let node = self.bed.control_plane().await?;
        let listener = node.listen(SocketAddr::from((node.ip(), 15010)))?;
        let (_keep, drain) = tokio::sync::watch::channel(false);
        let service = AdsServer::new(self.cache.clone(), Anyone, ServerConfig::default(), drain).into_service();
        self.control_plane = Some(tokio::spawn(async move {
            let _keep = _keep;
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let _ended = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await;
        }));
        Ok(())
    }

    /// As if its process were killed: its listener and its connections are gone.
    pub async fn stop_control_plane(&mut self) {
        if let Some(task) = self.control_plane.take() {
            task.abort();
            let _aborted = task.await;
        }
    }

    pub async fn start_proxy(&mut self, number: usize) -> anyhow::Result<()> {
        let held = &mut self.nodes[number];
        let dir = held.node.dir();
        let path = |name: &str| dir.join(name).into_os_string();
        let control_plane = SocketAddr::new(self.bed.control_plane().await?.ip(), 15010).to_string();
        let program = match self.descriptors {
            None => Command::this_program(),
            Some(most) => Command::new("sh")
                .args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &most.to_string()])
                .arg(std::env::current_exe()?),
        };
        let own = (self.flags)(self.bed.dir(), dir);
        let drain: &[&str] = if own.iter().any(|flag| flag == "--drain-seconds") { &[] } else { &["--drain-seconds", "3"] };
        let command = program
            .name(format!("ztunnel-{number}"))
            .arg(child::NAME)
            .args(["--node", held.node.name(), "--xds-address", &control_plane])
            .args(["--log", "info,h2=warn", "--same-node", self.same_node])
            .args(drain)
            .arg("--zds-socket")
            .arg(path("zds.sock"))
            // A test that wants resolvers writes it.
            .arg("--dns-resolv-conf")
            .arg(self.bed.dir().join("resolv.conf"))
            .args(["--max-dns-queries-per-pod", "64"])
            .arg("--access-log")
            .arg(&held.log)
            .arg("--token")
            .arg(self.bed.dir().join("token"))
            .arg("--ca-root")
            .arg(self.bed.dir().join("roots.pem"))
            .arg("--authority")
            .arg(self.bed.dir().join("ca"))
            .args(own)
            .output(Output::File(dir.join("ztunnel.log")));
        held.proxy = Some(held.node.spawn(command)?);
        let mut proxies = held.agent.proxies();
        match tokio::time::timeout(PATIENCE, proxies.wait_for(|count| *count > 0)).await {
            Ok(connected) => drop(connected?),
            Err(_) => bail!("no proxy: {}", std::fs::read_to_string(dir.join("ztunnel.log")).unwrap_or_default()),
        }
        Ok(())
    }

    pub fn program_log(&self, number: usize) -> String {
        std::fs::read_to_string(self.nodes[number].node.dir().join("ztunnel.log")).unwrap_or_default()
    }

    /// A pod that is not in the mesh, known to the control plane or not.
    pub async fn outsider(&self, node: usize, name: &str, known: bool) -> anyhow::Result<Pod> {
        let pod = self.nodes[node].node.add_pod(PodSpec::new("shop", name)).await?;
        if known {
            self.set_workload(workload_of(&pod, self.nodes[node].node.name()));
        }
        Ok(pod)
    }

    /// A pod in the mesh.
    pub async fn pod(&self, node: usize, name: &str) -> anyhow::Result<Pod> {
        self.pod_of(node, name, Families::Dual).await
    }

    /// A pod in the mesh that has, of the families of the mesh, these alone.
    pub async fn pod_of(&self, node: usize, name: &str, families: Families) -> anyhow::Result<Pod> {
        let pod = self.nodes[node].node.add_pod(PodSpec::new("shop", name).families(families)).await?;
        let mut known = workload_of(&pod, self.nodes[node].node.name());
        known.tunnel_protocol = workload::TunnelProtocol::Hbone.into();
        self.set_workload(known);
        let handover = self.nodes[node].agent.add(info_of(&pod), pod.netns().clone()).await?;
        ensure!(handover == Handover::Accepted, "no proxy took {name}");
        Ok(pod)
    }

    pub fn change(&self, name: &str, change: impl FnOnce(&mut workload::Workload)) {
        let mut workload = self.workloads.lock().unwrap().get(name).cloned().unwrap();
        change(&mut workload);
        self.set_workload(workload);
    }

    fn set_workload(&self, workload: workload::Workload) {
        self.workloads.lock().unwrap().insert(workload.name.clone(), workload.clone());
        let name = workload.uid.clone();
        self.put(type_url::ADDRESS, &name, &workload::Address { r#type: Some(workload::address::Type::Workload(workload)) });
    }

    /// The service addresses with this number, one of each family of the mesh, IPv4 first.
    pub fn vips(&self, number: u8) -> Vec<IpAddr> {
        self.bed.families().of([[10, 96, 0, number].into(), [0xfd96, 0, 0, 0, 0, 0, 0, u16::from(number)].into()])
    }

    /// The first of [`Mesh::vips`].
    pub fn vip(&self, number: u8) -> IpAddr {
        self.vips(number)[0]
    }

    /// A service at `vips` with port 80, in front of these pods' port 8080.
    pub fn service(&self, name: &str, vips: &[IpAddr], endpoints: &[&str], change: impl FnOnce(&mut workload::Service)) {
        let hostname = format!("{name}.shop.svc.cluster.local");
        let port = workload::Port { service_port: 80, target_port: 8080, app_protocol: 0 };
        for endpoint in endpoints {
            let ports = workload::PortList { ports: vec![port] };
            self.change(endpoint, |workload| drop(workload.services.insert(format!("shop/{hostname}"), ports)));
        }
        let mut service = workload::Service {
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            hostname: hostname.clone(),
            addresses: vips.iter().map(|ip| network_address(*ip)).collect(),
            ports: vec![port],
            canonical: true,
            ..Default::default()
        };
        change(&mut service);
        let name = format!("shop/{hostname}");
        self.put(type_url::ADDRESS, &name, &workload::Address { r#type: Some(workload::address::Type::Service(service)) });
    }

    /// A policy for the whole namespace, in force as soon as it arrives.
    pub fn policy(&self, name: &str, action: security::Action, matches: Vec<security::Match>) {
        self.put_policy(&authorization(name, action, matches));
    }

    pub fn put_policy(&self, policy: &security::Authorization) {
        self.put(type_url::AUTHORIZATION, &format!("{}/{}", policy.namespace, policy.name), policy);
    }

    pub fn remove_policy(&self, name: &str) {
        self.remove(type_url::AUTHORIZATION, &format!("shop/{name}"));
    }

    pub fn remove(&self, type_url: &str, name: &str) {
        self.tell(type_url, Vec::new(), vec![name.to_owned()]);
        self.cache.update(VIEW, type_url, [Change::remove(name)]);
    }

    pub fn put(&self, type_url: &str, name: &str, message: &impl Message) {
        let body = Any { type_url: type_url.to_owned(), value: message.encode_to_vec() };
        self.tell(type_url, vec![Resource { name: name.to_owned(), version: String::new(), body: body.clone() }], Vec::new());
        self.cache.update(VIEW, type_url, [Change::upsert(name, Vec::new(), body)]);
    }

    fn tell(&self, type_url: &str, upserts: Vec<Resource>, removals: Vec<String>) {
        let told = Arc::clone(&self.told);
        let _rejected = match type_url {
            type_url::AUTHORIZATION => state::policies(told).apply(upserts, removals),
            _ => state::addresses(told).apply(upserts, removals),
        };
    }

    /// An access-log line of `node` that has all these parts, if there is one now.
    pub fn logged_now(&self, node: usize, parts: &[&str]) -> Option<String> {
        let log = std::fs::read_to_string(&self.nodes[node].log).unwrap_or_default();
        log.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
    }

    /// Calls until `node` has logged a line with these parts. A call that was under way when a change arrived ends in another way.
    pub async fn logged_by_calling(&self, pod: &Pod, to: SocketAddr, node: usize, parts: &[&str]) -> anyhow::Result<String> {
        let until = Instant::now() + 2 * PATIENCE;
        while Instant::now() < until {
            if let Some(line) = self.logged_now(node, parts) {
                return Ok(line);
            }
            let _either_way = call(pod, to, b"hello").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.logged(node, parts).await
    }

    /// Waits for an access-log line of `node` that has all these parts, and returns it.
    pub async fn logged(&self, node: usize, parts: &[&str]) -> anyhow::Result<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.logged_now(node, parts) {
                return Ok(line);
            }
            let log = std::fs::read_to_string(&self.nodes[node].log).unwrap_or_default();
            ensure!(
                Instant::now() < until,
                "no line with {parts:?} in the log of node {node}:\n{log}\n{}",
                self.program_log(node)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A policy with one rule that matches any of these, for the whole namespace.
pub fn authorization(name: &str, action: security::Action, matches: Vec<security::Match>) -> security::Authorization {
    security::Authorization {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        scope: security::Scope::Namespace.into(),
        action: action.into(),
        groups: vec![security::Group { rules: vec![security::Rules { matches }] }],
        ..Default::default()
    }
}

pub fn id_of(name: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{name}")
}

pub fn info_of(pod: &Pod) -> PodInfo {
    PodInfo {
        uid: format!("uid-{}", pod.name()),
        name: pod.name().to_owned(),
        namespace: pod.namespace().parse().unwrap(),
        service_account: pod.name().parse().unwrap(),
    }
}

fn workload_of(pod: &Pod, node: &str) -> workload::Workload {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    workload::Workload {
        uid: format!("Kubernetes//Pod/{}/{}", pod.namespace(), pod.name()),
        name: pod.name().to_owned(),
        namespace: pod.namespace().to_owned(),
        addresses: pod.ips().into_iter().map(|ip| octets(ip).into()).collect(),
        service_account: pod.name().to_owned(),
        node: node.to_owned(),
        workload_name: pod.name().to_owned(),
        canonical_name: pod.name().to_owned(),
        cluster_id: "Kubernetes".to_owned(),
        ..Default::default()
    }
}

pub fn network_address(ip: IpAddr) -> workload::NetworkAddress {
    let address = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    workload::NetworkAddress { address: address.into(), ..Default::default() }
}

/// A server that first says who it sees, then echoes; at the end of what it is sent it says `bye`.
pub fn echo(pod: &Pod, port: u16) -> anyhow::Result<JoinHandle<()>> {
    let listener = pod.listen(SocketAddr::from(([0_u16; 8], port)))?;
    Ok(tokio::spawn(serve(listener)))
}

async fn serve(listener: TcpListener) {
    while let Ok((mut stream, from)) = listener.accept().await {
        tokio::spawn(async move {
            let from = from.ip().to_canonical();
            let (mut read, mut write) = stream.split();
            write.write_all(format!("{from}\n").as_bytes()).await?;
            tokio::io::copy(&mut read, &mut write).await?;
            write.write_all(b"bye").await?;
            write.shutdown().await
        });
    }
}

/// What the echo server said: the address it saw, and what came back.
pub async fn talk(mut stream: TcpStream, text: &[u8]) -> anyhow::Result<(IpAddr, Vec<u8>)> {
    let talk = async {
        stream.write_all(text).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.context("read the answer")?;
        let end = answer.iter().position(|byte| *byte == b'\n').context("the server said nothing")?;
        let seen = std::str::from_utf8(&answer[..end])?.parse()?;
        Ok((seen, answer[end + 1..].to_vec()))
    };
    tokio::time::timeout(PATIENCE, talk).await.context("no answer in time")?
}

/// Connects from `pod` and talks.
pub async fn call(pod: &Pod, to: SocketAddr, text: &[u8]) -> anyhow::Result<(IpAddr, Vec<u8>)> {
    talk(pod.connect(to).await?, text).await
}

/// Calls until it works, within `limit`; returns how long it took.
pub async fn call_until_it_works(pod: &Pod, to: SocketAddr, limit: Duration) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    loop {
        match call(pod, to, b"hello").await {
            Ok(_) => return Ok(begun.elapsed()),
            Err(error) if begun.elapsed() > limit => return Err(error.context("it never worked")),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Calls until it is refused, within [`PATIENCE`]: a change takes a moment to reach the proxies.
pub async fn call_until_refused(pod: &Pod, to: SocketAddr) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Err(error) = call(pod, to, b"hello").await {
            let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
            let kind = io.map(std::io::Error::kind);
            ensure!(
                matches!(kind, Some(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)),
                "the connection ended, but not by a reset: {error:?}"
            );
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("it was never refused")
}
