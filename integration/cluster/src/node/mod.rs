//! A node of the large variant: containerd, kubelet and kube-proxy in namespaces of their own.
//!
//! On top of the bed's network namespace a node has its own processes, mounts and host name, whose process 1 is [`INIT`]. What it writes to
//! `/etc`, `/var`, `/opt` and `/run` stays in it, so that a DaemonSet finds the usual paths, different on each node, and nothing is left on
//! the machine.

pub(crate) mod cgroups;
pub(crate) mod config;
pub(crate) mod requirements;

use std::fs;
use std::path::{Path, PathBuf};

use ambit_testbed::{Command, Output, Place, Process};

use crate::error::{Error, Result};
use crate::pki::{Authority, write_secret};
use crate::programs::Programs;
pub use config::ProxyMode;
use requirements::Requirements;

/// What process 1 of a node runs.
const INIT: &str = include_str!("init.sh");

/// The plugins of the chain that is written for a node, and the one that containerd itself calls.
const PLUGINS: [&str; 4] = ["host-local", "loopback", "portmap", "ptp"];

/// How a node is made.
pub(crate) struct NodePlan<'a> {
    /// The bed's node.
    pub(crate) node: &'a ambit_testbed::Node,
    /// Name of the cluster, part of the names of control groups.
    pub(crate) cluster: &'a str,
    /// A directory on disk for it alone.
    pub(crate) disk: &'a Path,
    /// Address of the API server.
    pub(crate) server: &'a str,
    /// Who signs its certificates.
    pub(crate) authority: &'a Authority,
    /// Kubernetes.
    pub(crate) programs: &'a Programs,
    /// What it uses of the machine.
    pub(crate) machine: &'a Requirements,
    /// How services are translated.
    pub(crate) proxy: ProxyMode,
}

/// A node that runs.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its name.
    pub(crate) name: String,
    socket: PathBuf,
    snapshotter: &'static str,
    /// Its process 1, as seen from outside.
    init: Process,
}

impl Node {
    /// Writes what it needs and starts it.
    pub(crate) fn start(plan: &NodePlan<'_>) -> Result<Self> {
        let node = plan.node;
        let memory = node.dir();
        let settings = memory.join("run/cluster");
        for directory in ["pki", "disk", "plugins", "volume-plugins"] {
            let path = settings.join(directory);
            fs::create_dir_all(&path).map_err(Error::path("making", &path))?;
        }
        fs::create_dir_all(plan.disk).map_err(Error::path("making", plan.disk))?;
        let snapshotter = if requirements::is_overlay(plan.disk) { "native" } else { "overlayfs" };
        let write = |name: &str, text: &str| write_secret(&settings.join(name), text);
        write("init.sh", INIT)?;
        write("kubelet.json", &config::kubelet().to_string())?;
        write("kube-proxy.json", &config::kube_proxy(plan.proxy, node.name()).to_string())?;
        write("containerd.toml", &config::containerd(snapshotter))?;
        write("pods.conflist", &config::pods(node.pod_range_v4(), node.pod_range_v6()).to_string())?;
        let groups = cgroups::of_node(plan.cluster, node.number())?;
        write("cgroups", &groups.iter().map(|group| format!("{}\n", group.display())).collect::<String>())?;
        write_identities(plan, &settings)?;
        for plugin in PLUGINS {
            link(&plan.machine.plugins.join(plugin), &settings.join("plugins").join(plugin))?;
        }
        link(plan.programs.directory(), &settings.join("bin"))?;

        let addresses = node.ips().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let log = plan.disk.join("init.log");
        let unshare = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"];
        let command = Command::new(&plan.machine.unshare).name(node.name()).args(unshare).arg(&plan.machine.bash);
        let command = command.arg(settings.join("init.sh")).arg(memory).arg(plan.disk).arg(node.name()).arg(addresses);
        let init = node
            .spawn(command.output(Output::File(log)))
            .map_err(|error| Error::failed(format!("starting {}", node.name()), error))?;
        Ok(Self { name: node.name().to_owned(), socket: memory.join("run/containerd/containerd.sock"), snapshotter, init })
    }

    /// Whether its process 1 still runs.
    pub(crate) fn is_running(&self) -> bool {
        self.init.is_running()
    }

    /// Whether containerd takes orders.
    pub(crate) fn takes_images(&self) -> bool {
        std::os::unix::net::UnixStream::connect(&self.socket).is_ok()
    }

    /// Makes an image known to it, from a tar with an OCI layout, and unpacks it.
    pub(crate) async fn import(&self, place: &Place, ctr: &Path, archive: &Path) -> Result<()> {
        let command = Command::new(ctr).arg("--address").arg(&self.socket).args(["--namespace", "k8s.io", "images", "import"]);
        let command = command.args(["--snapshotter", self.snapshotter]).arg(archive);
        let what = format!("importing {} into {}", archive.display(), self.name);
        let done = place.run(command).await.map_err(|error| Error::failed(what.clone(), error))?;
        if done.status.success() { Ok(()) } else { Err(Error::failed(what, done.stderr.trim())) }
    }

    /// Kills it and all that runs on it, and waits until it is gone.
    pub(crate) async fn stop(&self) {
        // Its process 1 is killed by the kernel with this one, and everything on the node with that.
        self.init.kill_group();
        self.init.wait().await;
    }
}

/// The certificate of the kubelet's server, and who it and kube-proxy are to the API server.
fn write_identities(plan: &NodePlan<'_>, settings: &Path) -> Result<()> {
    let (authority, name) = (plan.authority, plan.node.name());
    let copy = |from: &Path, to: &str| {
        let text = fs::read_to_string(from).map_err(Error::path("reading", from))?;
        write_secret(&settings.join(to), &text)
    };
    copy(&authority.ca_file(), "pki/ca.crt")?;
    let serving = authority.server(name, &config::names(name, &plan.node.ips()))?;
    copy(&serving.certificate, "pki/kubelet.crt")?;
    copy(&serving.key, "pki/kubelet.key")?;
    let account = format!("system:node:{name}");
    copy(&authority.kubeconfig(&account, plan.server, &account, Some("system:nodes"))?, "kubelet.kubeconfig")?;
    let proxy = format!("kube-proxy-{name}");
    copy(&authority.kubeconfig(&proxy, plan.server, "system:kube-proxy", None)?, "kube-proxy.kubeconfig")
}

fn link(to: &Path, at: &Path) -> Result<()> {
    std::os::unix::fs::symlink(to, at).map_err(Error::path("making", at))
}
