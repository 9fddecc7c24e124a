//! Command lines of the mesh's own programs and of pods.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ambit_testbed::{Command, Output};
use istiod_lite::source::NamespacedName;

use super::cluster::Container;
use super::objects::SYSTEM;
use super::options::{LocalOptions, Paths, WaypointKind};

/// Port of the control plane.
const CONTROL_PLANE: u16 = 15012;

/// Ports of readiness and metrics of the proxies, of monitoring of the control plane (wire contract, section 1).
pub const READY: u16 = 15021;
/// See [`READY`].
pub const METRICS: u16 = 15020;
/// See [`READY`].
pub const MONITORING: u16 = 15014;

/// Port of the proxies' admin pages, on loopback.
pub const ADMIN: u16 = 15000;

/// Makes the command lines.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    /// Settings of the mesh.
    pub options: LocalOptions,
    /// Its directories.
    pub paths: Paths,
    /// Where the control plane serves: its node in the bed.
    pub control_plane: IpAddr,
}

impl Programs {
    fn ours(&self, process: &str) -> Command {
        Command::new(&self.options.program).name(process).output(Output::File(self.paths.log(process)))
    }

    /// The control plane.
    pub fn istiod(&self) -> Command {
        let command = self.ours("istiod").arg("istiod");
        let command = command.arg("--source-dir").arg(&self.options.manifests).arg("--source-dir").arg(&self.paths.objects);
        let command = command.arg("--state-dir").arg(&self.paths.state).args(["--trust-domain", &self.options.trust_domain]);
        command.args(&self.options.control_plane_flags)
    }

    /// The node proxy of a node.
    pub fn ztunnel(&self, node: &str, address: &str, token: &Path) -> Command {
        let process = format!("ztunnel/{node}");
        let command = self.ours(&process).args(["ztunnel", "--node", node, "--pod-name", &ztunnel_pod(node)]);
        let command = command.args(["--instance-ip", address, "--xds-address", &self.control_plane()]);
        let command = command.arg("--zds-socket").arg(self.zds_socket(node)).args(["--drain-seconds", "1"]);
        let command = command.args(&self.options.node_proxy_flags);
        self.proxy(command, &process, token)
    }

    /// A waypoint.
    pub fn waypoint(&self, name: &NamespacedName, token: &Path) -> Command {
        let process = waypoint_process(name);
        let kind = self.options.other_waypoints.get(name).copied().unwrap_or(self.options.waypoint);
        let command = match kind {
            WaypointKind::Ours => self.ours(&process).arg("waypoint"),
            WaypointKind::Envoy => {
                let envoy = self.ours(&process).arg("envoy");
                self.options.envoy.iter().fold(envoy, |envoy, program| envoy.arg("--envoy").arg(program))
            }
        };
        let command = command.args(["--name", &name.name, "--namespace", &name.namespace]);
        let command = command.args(["--service-account", &name.name, "--xds-address", &self.control_plane()]);
        self.proxy(command, &process, token)
    }

    fn proxy(&self, command: Command, process: &str, token: &Path) -> Command {
        let command = command.arg("--ca-root").arg(self.paths.root_cert()).arg("--token").arg(token);
        let command = command.arg("--access-log").arg(self.paths.access_log(process));
        command.args(["--ca-address", &self.control_plane(), "--trust-domain", &self.options.trust_domain])
    }

    fn control_plane(&self) -> String {
        SocketAddr::new(self.control_plane, CONTROL_PLANE).to_string()
    }

    /// A container of a pod; `ambit` is the program that runs now, as if every image had it.
    pub fn container(&self, process: &str, container: &Container, stats: &Path) -> Command {
        let mut words = container.command.iter();
        let program = match words.next().map(String::as_str) {
            None | Some("ambit") => self.options.program.clone(),
            Some(program) => PathBuf::from(program),
        };
        let command = Command::new(program).name(process).output(Output::File(self.paths.log(process))).args(words);
        let command = command.env("AMBIT_DEMO_STATS", stats).current_dir("/");
        container.env.iter().fold(command, |command, (name, value)| command.env(name, value))
    }

    /// The socket on which the node agent hands pods to the proxy.
    pub fn zds_socket(&self, node: &str) -> PathBuf {
        self.paths.run.join(format!("{node}.zds"))
    }
}

/// Name of the pod of a node's proxy.
pub fn ztunnel_pod(node: &str) -> String {
    format!("ztunnel-{node}")
}

/// Name and namespace of the pod of a node's proxy.
pub fn ztunnel_name(node: &str) -> NamespacedName {
    NamespacedName::new(SYSTEM, ztunnel_pod(node))
}

/// Name of a waypoint's process in the mesh.
pub fn waypoint_process(name: &NamespacedName) -> String {
    format!("waypoint/{name}")
}

/// The programs that a pod needs on this machine and that are not there.
pub fn missing(needs: impl Iterator<Item = String>) -> Vec<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let found = |program: &str| match program {
        "ambit" => true,
        program if program.contains('/') => Path::new(program).exists(),
        program => directories.iter().any(|directory| directory.join(program).is_file()),
    };
    needs.filter(|program| !found(program)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_installed_is_missing() {
        let needs = ["sh", "ambit", "/bin/sh", "no-such-program", "/no/such/program"].map(str::to_owned);
        assert_eq!(missing(needs.into_iter()), ["no-such-program", "/no/such/program"]);
    }
}
