//! A node with an agent, its pods as files and namespaces, and what a container runtime and a user would do, in a few lines each.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use ambit_runtime::netns::NetNs;
use ambit_testbed::{
    Bed, BedConfig, Command, Families, Node, Output, Place, Pod, PodSpec, Process,
    capture::{AgentFiles, PluginCall},
};
use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::{
    proxy::Proxy,
    talk::{PORT, Talk, first_line, serve},
};

pub const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two looks of somebody who waits.
pub const SOON: Duration = Duration::from_millis(20);

/// Packet filters that nodes have, and the addresses that they filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    Nftables,
    /// On nodes without IPv4.
    NftablesOverIpv6,
    LegacyIptables,
    IptablesOverNftables,
}

impl Filter {
    pub const ALL: [Self; 4] = [Self::Nftables, Self::NftablesOverIpv6, Self::LegacyIptables, Self::IptablesOverNftables];

    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::NftablesOverIpv6 => "nftables-over-ipv6",
            Self::LegacyIptables => "iptables-legacy",
            Self::IptablesOverNftables => "iptables-nft",
        }
    }

    pub fn is_nftables(self) -> bool {
        matches!(self, Self::Nftables | Self::NftablesOverIpv6)
    }

    /// Why it cannot be tested here; nothing where it can. nftables always can: what the agent needs for it is in the kernel, and where
    /// that has none, or `nft` is missing, its tests fail.
    pub fn missing(self) -> Option<String> {
        if self.is_nftables() {
            return None;
        }
        let listed = |program: &str| {
            let mut command = std::process::Command::new(program);
            let output = command.args(["-t", "nat", "-S"]).output().map_err(|error| format!("{program}: {error}"))?;
            if output.status.success() {
                return Ok(());
            }
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{program}: {}", said.lines().next().unwrap_or("it fails without a word")))
        };
        [self.name().to_owned(), self.name().replacen("ip", "ip6", 1)].iter().find_map(|program| listed(program).err())
    }
}

/// One node with an agent, and another node with a server that is not in the mesh.
pub struct World {
    pub bed: Bed,
    pub node: Node,
    pub agent: Option<Process>,
    /// Seconds that the plugin waits for the agent.
    pub plugin_patience: u64,
    /// Where the next agent serves its pages.
    pub admin: &'static str,
    files: AgentFiles,
    filter: Filter,
    far: Pod,
}

impl World {
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(Filter::Nftables).await
    }

    pub async fn start_with(filter: Filter) -> anyhow::Result<Self> {
        let families = if filter == Filter::NftablesOverIpv6 { Families::Ipv6 } else { Families::Dual };
        let bed = Bed::new(BedConfig { families, ..BedConfig::default() }).await?;
        let (node, other) = (bed.add_node("node-1").await?, bed.add_node("node-2").await?);
        let files = AgentFiles::create(node.dir())?;
        let namespace = json!({ "kind": "Namespace", "metadata": { "name": "shop" } });
        std::fs::write(node.dir().join("pods/shop.json"), namespace.to_string())?;
        let far = other.add_pod(PodSpec::new("outside", "far")).await?;
        serve(&far)?;
        let mut world = Self { bed, node, agent: None, plugin_patience: 30, admin: "127.0.0.1:15090", files, filter, far };
        world.start_agent().await?;
        Ok(world)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.files.path(name)
    }

    pub async fn start_agent(&mut self) -> anyhow::Result<()> {
        self.launch_agent()?;
        let until = Instant::now() + PATIENCE;
        while !self.files.answers().await {
            ensure!(Instant::now() < until, "no agent: {}", self.log());
            tokio::time::sleep(SOON).await;
        }
        Ok(())
    }

    /// Starts an agent without waiting for it.
    pub fn launch_agent(&mut self) -> anyhow::Result<()> {
        let backend = if self.filter.is_nftables() { "nftables" } else { "iptables" };
        let mut command = self.files.agent().args(["--admin", self.admin, "--backend", backend]);
        if !self.filter.is_nftables() {
            command = command.env("PATH", self.programs()?);
        }
        self.agent = Some(self.node.spawn(command.output(Output::File(self.path("agent.log"))))?);
        Ok(())
    }

    /// A directory with the programs of one variant of iptables and nothing else.
    fn programs(&self) -> anyhow::Result<PathBuf> {
        let dir = self.path("programs");
        std::fs::create_dir_all(&dir)?;
        let variant = self.filter.name().trim_start_matches("ip");
        for name in ["ip", "ip6"].iter().flat_map(|ip| ["save", "restore"].map(|what| format!("{ip}{variant}-{what}"))) {
            let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(|dir| PathBuf::from(dir).join(&name));
            let found = found.into_iter().find(|path| path.exists()).with_context(|| format!("no {name}"))?;
            match std::os::unix::fs::symlink(found, dir.join(name)) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
                _ => {}
            }
        }
        Ok(dir)
    }

    /// As if the agent crashed.
    pub async fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill();
            agent.wait().await;
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    /// A proxy that has been told of all pods.
    pub async fn proxy(&self, name: &'static str) -> anyhow::Result<Proxy> {
        let proxy = Proxy::connect(&self.path("zds.sock"), name).await?;
        proxy.wait_for("snapshot").await.with_context(|| self.log())?;
        Ok(proxy)
    }

    /// The server on the other node: its first and its last address.
    pub fn far(&self) -> [SocketAddr; 2] {
        [self.far.ip(), last(&self.far)].map(|ip| SocketAddr::new(ip, PORT))
    }

    /// Connects to `to` from the other node.
    pub async fn called_from_far(&self, to: SocketAddr) -> anyhow::Result<Talk> {
        Talk::open(&self.far, to).await
    }

    /// A pod's namespace and its server, without anybody being told of it.
    pub async fn sandbox(&self, name: &str) -> anyhow::Result<Pod> {
        let pod = self.node.add_pod(PodSpec::new("shop", name)).await?;
        // As the kernel makes a namespace; those of the bed have what a proxy in them may need.
        for (device, setting) in
            ["all", "default", "eth0"].into_iter().flat_map(|of| ["accept_local", "route_localnet"].map(|is| (of, is)))
        {
            let path = format!("/proc/sys/net/ipv4/conf/{device}/{setting}");
            pod.netns().run(|| std::fs::write(&path, "0"))?.with_context(|| path.clone())?;
        }
        serve(&pod)?;
        self.show(name, pod.netns())?;
        Ok(pod)
    }

    /// Makes a namespace show at the path that the runtime gives the pod of this name.
    pub fn show(&self, name: &str, netns: &NetNs) -> anyhow::Result<()> {
        let path = self.netns_path(name);
        let part = path.with_extension("part");
        std::os::unix::fs::symlink(shown(netns), &part)?;
        Ok(std::fs::rename(part, path)?)
    }

    /// A process of a pod, as the node sees it.
    pub fn process(&self, number: u32, name: &str, netns: &NetNs) -> anyhow::Result<()> {
        let directory = self.path("proc").join(number.to_string());
        std::fs::create_dir_all(directory.join("ns"))?;
        std::os::unix::fs::symlink(shown(netns), directory.join("ns/net"))?;
        Ok(std::fs::write(directory.join("cgroup"), format!("0::/kubepods/burstable/pod{}/2a3b\n", uid(name)))?)
    }

    pub fn netns_path(&self, name: &str) -> PathBuf {
        self.path("netns").join(name)
    }

    /// What the API server has of a pod.
    pub fn object(&self, name: &str, mode: Option<&str>, host_network: bool) -> anyhow::Result<()> {
        let labels = mode.map(|mode| json!({ "istio.io/dataplane-mode": mode }));
        let pod = json!({
            "kind": "Pod",
            "metadata": { "namespace": "shop", "name": name, "uid": uid(name), "labels": labels },
            "spec": { "serviceAccountName": name, "hostNetwork": host_network },
        });
        let part = self.path("pods").join(format!(".{name}"));
        std::fs::write(&part, pod.to_string())?;
        Ok(std::fs::rename(part, self.path("pods").join(format!("{name}.json")))?)
    }

    /// The API server forgets a pod.
    pub fn gone(&self, name: &str) -> std::io::Result<()> {
        std::fs::remove_file(self.path("pods").join(format!("{name}.json")))
    }

    /// A pod in the mesh, started as a runtime starts it.
    pub async fn pod(&self, name: &str) -> anyhow::Result<Pod> {
        self.object(name, Some("ambient"), false)?;
        let pod = self.sandbox(name).await?;
        let (printed, well) = self.plugin("ADD", name).await?;
        ensure!(well, "the pod does not start: {printed}\n{}", self.log());
        Ok(pod)
    }

    /// Runs the CNI plugin: what it printed, and whether the runtime may go on.
    pub async fn plugin(&self, command: &str, name: &str) -> anyhow::Result<(Value, bool)> {
        self.plugin_in("shop", command, name).await
    }

    pub async fn plugin_in(&self, namespace: &str, command: &str, name: &str) -> anyhow::Result<(Value, bool)> {
        let (uid, container, netns) = (uid(name), format!("sandbox-{name}"), self.netns_path(name));
        let pod = (namespace, name);
        let call = PluginCall { command, pod, uid: &uid, container: &container, netns: &netns, patience: self.plugin_patience };
        let done = self.files.plugin(&self.node, &call).await?;
        let printed = if done.stdout.is_empty() { Value::Null } else { serde_json::from_str(&done.stdout)? };
        Ok((printed, done.status.success()))
    }

    /// The status document of a pod, if there is one.
    pub fn status(&self, name: &str) -> Option<Value> {
        let text = std::fs::read(self.path("status").join(format!("{}.json", uid(name)))).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Waits until the status of a pod is as wanted.
    pub async fn until(&self, name: &str, what: &str, wanted: impl Fn(Option<&Value>) -> bool) -> anyhow::Result<Option<Value>> {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.status(name);
            if wanted(status.as_ref()) {
                return Ok(status);
            }
            ensure!(Instant::now() < until, "{name} never was {what}: {status:?}\n{}", self.log());
            tokio::time::sleep(SOON).await;
        }
    }

    pub async fn until_state(&self, name: &str, state: &str) -> anyhow::Result<Value> {
        let status = self.until(name, state, |status| status.is_some_and(|status| status["state"] == state)).await?;
        status.context("no status")
    }

    /// Runs a program in a place, which must end well.
    pub async fn run(&self, place: &Place, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let done = place.run(Command::new(program).args(arguments)).await?;
        ensure!(done.status.success(), "{program} {arguments:?}: {}", done.stderr);
        Ok(done.stdout)
    }

    /// Removes the capture rules of a pod as somebody with the right to would.
    pub async fn flush(&self, pod: &Pod) -> anyhow::Result<()> {
        match self.filter {
            filter if filter.is_nftables() => drop(self.run(pod, "nft", &["flush", "ruleset"]).await?),
            other => {
                for program in [other.name().to_owned(), other.name().replacen("ip", "ip6", 1)] {
                    for table in ["raw", "mangle", "nat", "filter"] {
                        self.run(pod, &program, &["-t", table, "-F"]).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes the routing rules of a pod, but for those that every namespace has.
    pub async fn flush_routing(&self, pod: &Pod) -> anyhow::Result<()> {
        for family in ["-4", "-6"] {
            self.run(pod, "ip", &[family, "rule", "flush"]).await?;
            self.run(pod, "ip", &[family, "rule", "add", "pref", "32766", "lookup", "main"]).await?;
        }
        Ok(())
    }

    /// What the packet filter of a pod has that is ours.
    pub async fn rules(&self, pod: &Pod) -> anyhow::Result<String> {
        let listed = match self.filter {
            filter if filter.is_nftables() => self.run(pod, "nft", &["list", "ruleset"]).await?,
            other => {
                let mut all = String::new();
                for program in [other.name().to_owned(), other.name().replacen("ip", "ip6", 1)] {
                    all += &self.run(pod, &format!("{program}-save"), &[]).await?;
                }
                all
            }
        };
        Ok(listed)
    }

    /// Waits until a pod's connections to the other node begin like this.
    pub async fn until_first_line(&self, pod: &Pod, wanted: &str) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = first_line(pod, self.far()[0]).await;
            if found.as_ref().is_ok_and(|line| line.starts_with(wanted)) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "never {wanted:?}: {found:?}\n{}", self.log());
            tokio::time::sleep(SOON).await;
        }
    }
}

/// A path that shows a namespace as long as this process holds it.
fn shown(netns: &NetNs) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd())
}

/// The last of its addresses, which is IPv6.
pub fn last(place: &Place) -> IpAddr {
    place.ips()[place.ips().len() - 1]
}

pub fn uid(name: &str) -> String {
    format!("uid-{name}")
}
