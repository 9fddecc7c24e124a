//! The settings of the node agent, from flags and environment, read here and nowhere else.

use std::{net::SocketAddr, path::PathBuf};

use crate::{kubernetes::Settings, rules::Choice};

/// Settings of the node agent.
///
/// Captures the TCP connections of labelled pods. Other UDP than DNS is left alone, and so are pods on the host's network.
///
/// On a node of a cluster: `--kubernetes --node NAME`. Without one: `--pods DIRECTORY`.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Where node proxies connect.
    #[arg(long, env = "ZDS_SOCKET", default_value = "/var/run/ztunnel/ztunnel.sock")]
    pub zds_socket: PathBuf,
    /// Where the CNI plugin asks.
    #[arg(long, env = "CNI_SOCKET", default_value = "/var/run/ambit/cni.sock")]
    pub cni_socket: PathBuf,
    /// Directory with the Pods of this node and their Namespaces, YAML or JSON; in place of --kubernetes.
    #[arg(long, env = "PODS", required_unless_present = "kubernetes", conflicts_with = "kubernetes")]
    pub pods: Option<PathBuf>,
    /// Where the API server is, for which node.
    #[command(flatten)]
    pub kubernetes: Settings,
    /// Where the processes of the node show, to find pods that ran before the agent.
    #[arg(long, env = "HOST_PROC", default_value = "/proc")]
    pub proc: PathBuf,
    /// Directory in which the agent notes which sandboxes there are; keep it where it does not outlive a restart of the machine.
    #[arg(long, env = "STATE_DIR", default_value = "/var/run/ambit/sandboxes")]
    pub state: PathBuf,
    /// Directory for one status document for each captured pod; none are written if not set.
    #[arg(long, env = "STATUS_DIR")]
    pub status: Option<PathBuf>,
    /// Namespaces whose pods are never captured; the plugin's configuration must have the same.
    #[arg(long, env = "EXCLUDE_NAMESPACES", value_delimiter = ',', default_value = "kube-system")]
    pub exclude_namespaces: Vec<String>,
    /// Packet filter for the capture rules.
    #[arg(long, env = "BACKEND", value_enum, default_value_t)]
    pub backend: Choice,
    /// Captures DNS over UDP too; the node proxy must answer it.
    #[arg(long = "capture-dns", env = "CAPTURE_DNS", default_value_t = true, action = clap::ArgAction::Set)]
    pub dns: bool,
    /// Where metrics, readiness and `/pods` are served.
    #[arg(long, default_value = "127.0.0.1:15090")]
    pub admin: SocketAddr,
    /// Which program logs to write, in the syntax of RUST_LOG.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log: String,
}
