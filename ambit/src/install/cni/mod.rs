//! `ambit install-cni`, the container beside the node agent: the CNI plugin in the chain of its node, for as long as the mesh is installed.
//!
//! | module | purpose |
//! |---|---|
//! | [`chain`] | what becomes of a network configuration |
//! | [`node`] | the directories of the node |
//! | [`installed`] | whether the mesh is still installed |
//!
//! It waits for the agent before it puts the plugin into the chain, for from then on no pod of the node starts without the agent. When it
//! ends, the plugin stays: a pod that starts meanwhile waits for the next agent. Only when the mesh is taken out of the cluster is everything
//! as it was before.

pub mod chain;
pub mod installed;
pub mod node;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ambit_runtime::{
    admin::Server,
    drain,
    readiness::Readiness,
    socket::{ListenOptions, listen},
};
use notify::{
    EventKind, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use chain::Plugin;
use installed::DaemonSet;
use node::{Look, Node};

/// Time between two looks in case the kernel lost a notification.
const LOOK: Duration = Duration::from_secs(5);
/// Files are read when they were left alone for this long.
const QUIET: Duration = Duration::from_millis(20);
/// Pause before an agent that is not there is asked for again.
const AGAIN: Duration = Duration::from_millis(500);

/// What it is told.
#[derive(Debug, Clone, clap::Args)]
pub struct InstallCniArgs {
    /// The plugin's program, which is copied; `ambit-cni` beside this program if not given
    #[arg(long, env = "CNI_PLUGIN")]
    plugin: Option<PathBuf>,
    /// Directory of the node with the network configuration of its container runtime
    #[arg(long, env = "CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// Directory of the node with its plugins
    #[arg(long, env = "CNI_BIN_DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// Where the node agent listens, as the node and this program see it
    #[arg(long, env = "CNI_SOCKET", default_value = "/var/run/ambit/cni.sock")]
    socket: PathBuf,
    /// Seconds that a pod's start waits for an agent that is away
    #[arg(long, env = "CNI_TIMEOUT_SECONDS", default_value_t = 30)]
    timeout_seconds: u64,
    /// Namespaces whose pods start without the agent; it must have the same
    #[arg(long, env = "EXCLUDE_NAMESPACES", value_delimiter = ',', default_value = "kube-system")]
    exclude_namespaces: Vec<String>,
    /// The DaemonSet that this is a pod of: when it is gone, so is the mesh, and the node becomes as it was. Never if not set
    #[arg(long, env = "DAEMON_SET", requires = "namespace")]
    daemon_set: Option<String>,
    /// Its namespace
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: Option<String>,
    /// Leave the plugin's program when the plugin is taken out of the chain, as CRI-O runs it to end pods that it has started with it
    #[arg(long)]
    keep_program: bool,
    /// Directory in which the node proxy keeps its state; it is removed with the plugin
    #[arg(long)]
    proxy_state_dir: Option<PathBuf>,
    /// Take the plugin out of the chain and end
    #[arg(long)]
    remove: bool,
    /// Where readiness is served
    #[arg(long, default_value = "127.0.0.1:15091")]
    ready: SocketAddr,
    /// What to log, in the syntax of RUST_LOG
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log: String,
}

impl InstallCniArgs {
    fn node(&self) -> Node {
        Node { conf: self.conf_dir.clone(), bin: self.bin_dir.clone(), keep_program: self.keep_program }
    }

    /// The program of the plugin.
    fn program(&self) -> Result<PathBuf> {
        if let Some(path) = &self.plugin {
            return Ok(path.clone());
        }
        let own = std::env::current_exe().map_err(|cause| Error::io("looking for this program", cause))?;
        Ok(own.with_file_name(chain::PLUGIN))
    }
}

/// Keeps the plugin in the chain until SIGTERM.
///
/// # Errors
/// When a directory or file of the node cannot be used, or readiness cannot be served.
pub async fn run(args: InstallCniArgs) -> Result<()> {
    let node = args.node();
    if args.remove {
        return restore(&node, args.proxy_state_dir.as_deref());
    }
    let namespace = args.namespace.as_deref().unwrap_or_default();
    let daemon_set = args.daemon_set.as_deref().map(|name| DaemonSet::new(name, namespace));
    let shutdown = ambit_runtime::signal::shutdown().map_err(|error| Error::part("handling signals", error))?;
    let readiness = Readiness::new();
    let chained = readiness.task("the plugin in the chain");
    let (trigger, watch) = drain::channel();
    let address = listen(args.ready, &ListenOptions::default())
        .map_err(|cause| Error::io(format!("listening at {}", args.ready), cause))?;
    let pages = Server::new().with_readiness(readiness).run(address, watch);
    let follow = Box::pin(async {
        match &daemon_set {
            Some(daemon_set) => daemon_set.follow().await,
            None => std::future::pending().await,
        }
    });
    let ended = tokio::select! {
        signal = shutdown => {
            tracing::info!(%signal, "stopping");
            Ok(())
        }
        () = pages => Err(Error::NotReady("the page for readiness ended".to_owned())),
        kept = keep(&args, &node, chained) => kept,
        () = follow => Err(Error::NotReady("the DaemonSet is not watched any more".to_owned())),
    };
    trigger.begin();
    ended?;
    match &daemon_set {
        Some(daemon_set) if daemon_set.uninstalled().await => restore(&node, args.proxy_state_dir.as_deref()),
        _ => {
            tracing::info!("the plugin stays in the chain: pods that start wait for the next agent");
            Ok(())
        }
    }
}

fn restore(node: &Node, state: Option<&Path>) -> Result<()> {
    let changed = node.restore()?;
    tracing::info!(files = ?changed, "the plugin is taken out of the chain");
    state.map_or(Ok(()), node::remove_state)
}

/// Puts the plugin into the chain whenever it is not in it.
async fn keep(args: &InstallCniArgs, node: &Node, chained: ambit_runtime::readiness::Task) -> Result<()> {
    let program = args.program()?;
    let plugin = Plugin {
        socket: args.socket.display().to_string(),
        timeout_seconds: args.timeout_seconds,
        exclude_namespaces: args.exclude_namespaces.clone(),
    };
    // One wake-up stands for any number of changes.
    let (sender, mut wake) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.map_or(true, |event| changes(event.kind)) {
            _ = sender.try_send(());
        }
    })
    .map_err(|cause| Error::part(format!("watching {}", node.conf.display()), cause))?;
    let watched = watcher.watch(&node.conf, RecursiveMode::NonRecursive);
    watched.map_err(|cause| Error::part(format!("watching {}", node.conf.display()), cause))?;
    if node.copy(&program)? {
        tracing::info!(to = %node.bin.display(), "the plugin's program is copied");
    }
    agent(&args.socket).await;
    let (mut chained, mut said) = (Some(chained), String::new());
    loop {
        // What cannot be read may be half written; it is looked at again.
        match look(node, &program, &plugin) {
            Ok(Look::Nothing) => say(&mut said, "there is no network configuration yet".to_owned()),
            Ok(Look::Put(file)) => {
                tracing::info!(file, "the plugin is put into the chain");
                said.clear();
                drop(chained.take());
            }
            Ok(Look::Chained(_)) => {
                said.clear();
                drop(chained.take());
            }
            Err(error) => say(&mut said, error.to_string()),
        }
        if tokio::time::timeout(LOOK, wake.recv()).await.is_ok() {
            tokio::time::sleep(QUIET).await;
            let _those_of_meanwhile = wake.try_recv();
        }
    }
}

fn look(node: &Node, program: &Path, plugin: &Plugin) -> Result<Look> {
    // First, so that no runtime looks for a program that is not there.
    node.copy(program)?;
    node.chain(plugin)
}

/// Whether what happened to a file may have changed it. Looks only open and read: they would bring about the next one, without end.
fn changes(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

/// Logs what has not been said last.
fn say(said: &mut String, reason: String) {
    if *said != reason {
        tracing::warn!(reason, "the plugin is not in the chain: labelled pods are captured only after they started");
        *said = reason;
    }
}

/// Waits until the agent listens.
async fn agent(socket: &Path) {
    let mut said = false;
    while let Err(error) = tokio::net::UnixStream::connect(socket).await {
        if !std::mem::replace(&mut said, true) {
            tracing::info!(socket = %socket.display(), %error, "waiting for the node agent");
        }
        tokio::time::sleep(AGAIN).await;
    }
}
