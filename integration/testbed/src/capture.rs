//! How the suites start the node agent and the CNI plugin: as processes of the program that runs, told apart by its first argument.
//!
//! What the two do is the program's own affair ([`AGENT`], [`PLUGIN`]): the bed knows their flags and files, not their code.

use std::path::{Path, PathBuf};

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::{Command, Error, Output, Place, process::Finished};

/// The first argument that makes a program the node agent.
pub const AGENT: &str = "node-agent";
/// The first argument that makes a program the CNI plugin.
pub const PLUGIN: &str = "cni-plugin";

/// The agent's files, below a node's directory: the flag of each, and whether it is a directory.
const FILES: [(&str, &str, bool); 6] = [
    ("--zds-socket", "zds.sock", false),
    ("--cni-socket", "cni.sock", false),
    ("--pods", "pods", true),
    ("--state", "sandboxes", true),
    ("--status", "status", true),
    ("--proc", "proc", true),
];

/// The files of a node's agent.
#[derive(Clone, Debug)]
pub struct AgentFiles {
    directory: PathBuf,
}

impl AgentFiles {
    /// Files below this directory, whose own directories are made.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn create(directory: &Path) -> Result<Self, Error> {
        let directories = FILES.iter().filter(|(_, _, is_directory)| *is_directory).map(|(_, name, _)| *name);
        for name in directories.chain(["netns"]) {
            let path = directory.join(name);
            std::fs::create_dir_all(&path).map_err(Error::io(format!("make {}", path.display())))?;
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// One of them by name: `zds.sock`, `cni.sock`, `pods`, `sandboxes`, `status`, `proc`, or `netns`, where namespaces of pods show.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// This program as the agent with these files.
    #[must_use]
    pub fn agent(&self) -> Command {
        let command = Command::this_program().name("node-agent").arg(AGENT);
        FILES.iter().fold(command, |command, (flag, name, _)| command.arg(flag).arg(self.path(name)))
    }

    /// Whether an agent listens at the plugin's socket.
    pub async fn answers(&self) -> bool {
        tokio::net::UnixStream::connect(self.path("cni.sock")).await.is_ok()
    }
}

/// What a container runtime calls the plugin for.
#[derive(Clone, Debug)]
pub struct PluginCall<'a> {
    /// `ADD`, `DEL` or `CHECK`.
    pub command: &'a str,
    /// The pod's namespace and name.
    pub pod: (&'a str, &'a str),
    /// The UID of its object.
    pub uid: &'a str,
    /// The runtime's name of its sandbox.
    pub container: &'a str,
    /// Where its network namespace shows.
    pub netns: &'a Path,
    /// How long the agent may take, in seconds.
    pub patience: u64,
}

impl AgentFiles {
    /// Runs this program as the plugin on a node, as the last of its chain.
    ///
    /// # Errors
    /// When it does not start or its configuration cannot be given to it. That it fails is in what it gives.
    pub async fn plugin(&self, node: &Place, call: &PluginCall<'_>) -> Result<Finished, Error> {
        let configuration = json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "ambit-cni", "agentSocket": self.path("cni.sock"),
            "timeoutSeconds": call.patience,
            "prevResult": { "cniVersion": "1.0.0", "interfaces": [{ "name": "eth0" }], "ips": [] },
        });
        let (namespace, name) = call.pod;
        let plugin = Command::this_program()
            .arg(PLUGIN)
            .env("CNI_COMMAND", call.command)
            .env("CNI_CONTAINERID", call.container)
            .env("CNI_NETNS", call.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={}", call.uid))
            .output(Output::Piped)
            .stdin_piped();
        let plugin = node.spawn(plugin)?;
        if let Some(mut stdin) = plugin.take_stdin() {
            stdin
                .write_all(configuration.to_string().as_bytes())
                .await
                .map_err(Error::io("give the plugin its configuration"))?;
        }
        plugin.finish().await
    }
}
