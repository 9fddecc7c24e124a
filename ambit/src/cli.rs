//! The command line: one program that carries all parts of the mesh.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::ca::{self, CaArgs};
use crate::check::{self, CheckArgs};
use crate::cluster::{self, ClusterCommand, ImageArgs};
use crate::demo::{self, DemoArgs};
use crate::envoy;
use crate::error::{Error, Result};
use crate::explain::{self, ExplainArgs};
use crate::install::{self, InstallArgs, PutArgs, UninstallArgs, cni};
use crate::up::{self, UpArgs};
use crate::waypoints::{self, WaypointCommand};

/// A service mesh without sidecars.
#[derive(Debug, Parser)]
#[command(
    name = "ambit",
    version,
    about = "A Kubernetes service mesh without sidecars",
    after_help = "Examples:\n  ambit up                     a whole mesh on this machine, live\n  ambit up --for 20s --json    the same for 20 seconds, as one JSON document\n  sudo ambit up --kubernetes   the same on a real Kubernetes on this machine\n  ambit explain connection --dir my-yaml/ --from shop/web-1 --to api:8080\n  ambit explain request --dir my-yaml/ --from shop/web-1 GET http://api:8080/\n  ambit check my-yaml/         what is wrong with it, by file and line\n  ambit check --pre && ambit install --wait\n  ambit ztunnel --help         the settings of the node proxy"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A whole mesh on this machine, live
    Up(UpArgs),
    /// A real Kubernetes on this machine, in namespaces, to try the mesh on
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// A container image of this program, without a container engine
    #[command(after_help = "Example:\n  ambit image --output ambit.tar && sudo ambit cluster load ambit.tar")]
    Image(ImageArgs),
    /// Why the mesh would carry or refuse something
    Explain(ExplainArgs),
    /// The certificate authority of a mesh on Kubernetes
    Ca(CaArgs),
    /// Whether Kubernetes YAML says what the mesh will do, or a cluster has what the mesh needs
    Check(CheckArgs),
    /// Installs the mesh in a Kubernetes cluster
    #[command(
        after_help = "Examples:\n  ambit check --pre && ambit install --wait\n  ambit install --set istiod.replicas=3 --set podMonitors.enabled=true\n  ambit install -f my-values.yaml --dry-run | less"
    )]
    Install(Box<InstallArgs>),
    /// Brings an installation to this version, with the settings that it has
    #[command(after_help = "Example:\n  ambit upgrade --wait --set ztunnel.drainSeconds=60")]
    Upgrade(Box<PutArgs>),
    /// Takes the mesh out of a cluster: pods are let go first, and nothing is left
    #[command(after_help = "Example:\n  ambit uninstall --unlabel")]
    Uninstall(UninstallArgs),
    /// The node proxy: carries the connections of a node's pods
    #[command(after_help = "Example:\n  ambit ztunnel --node node-1 --xds-address istiod.istio-system.svc:15012")]
    Ztunnel(Box<ztunnel::Config>),
    /// The L7 proxy, which routes and authorizes the requests of the services that ask for it; with a subcommand, the waypoints of a cluster
    #[command(
        after_help = "Examples:\n  ambit waypoint apply --namespace shop --wait     ask for a waypoint\n  ambit waypoint list --all-namespaces\n  ambit waypoint --name waypoint --namespace billing --xds-address istiod.istio-system.svc:15012     be one"
    )]
    Waypoint(WaypointCommand),
    /// The control plane: turns Kubernetes YAML into configuration and certificates
    #[command(alias = "istiod-lite", after_help = "Example:\n  ambit istiod --source-dir manifests/ --state-dir /var/lib/ambit")]
    Istiod {
        #[command(flatten)]
        config: istiod_lite::Config,
        /// What to log, in the syntax of RUST_LOG
        #[arg(long, env = "RUST_LOG", default_value = "info")]
        log: String,
    },
    /// The node agent: captures the traffic of a node's labelled pods for the node proxy
    #[command(after_help = "Example:\n  ambit node-agent --pods /var/lib/ambit/pods")]
    NodeAgent(Box<ambit_node_agent::Config>),
    /// Keeps the CNI plugin in the chain of its node: the container beside the node agent
    #[command(after_help = "Example:\n  ambit install-cni --remove")]
    InstallCni(Box<cni::InstallCniArgs>),
    /// An unmodified Envoy as a waypoint of this mesh
    #[command(after_help = "Example:\n  ambit envoy --name waypoint --namespace billing --service-account waypoint")]
    Envoy(envoy::Config),
    /// A program of the demonstration
    #[command(hide = true)]
    Demo(DemoArgs),
}

/// Names by which the program may be called to be one of its parts.
const PARTS: [&str; 5] = ["ztunnel", "waypoint", "istiod", "istiod-lite", "node-agent"];

/// Runs what the command line asks for; the caller has not started any thread yet. The exit code is the command's answer.
///
/// # Errors
/// Whatever ended the command, for `main` to print.
pub fn run() -> Result<ExitCode> {
    let cli = Cli::parse_from(arguments(std::env::args_os().collect()));
    let ended = match cli.command {
        Command::Explain(args) => return block_on_one_thread(async { Ok(explain::run(args).await) }),
        Command::Ca(args) => return block_on_one_thread(async { Ok(ca::run(args).await) }),
        Command::Cluster { command } => return cluster::run(command),
        Command::Image(args) => cluster::write_image(&args),
        Command::Up(args) => {
            // Its own log is for those who look for a fault in it: off unless asked for.
            if let Ok(filter) = std::env::var("RUST_LOG") {
                log(&filter)?;
            }
            up::run(args)
        }
        Command::Ztunnel(config) => block_on_one_thread(async {
            log(&config.log)?;
            ztunnel::run(*config).await.map_err(|error| Error::part("ztunnel", error))
        }),
        Command::Waypoint(WaypointCommand::Gateways(action)) => {
            let done = block_on_one_thread(waypoints::run(action))?;
            return Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Waypoint(WaypointCommand::Proxy(proxy)) => block_on_two_threads(async {
            log(&proxy.log)?;
            waypoint::run(proxy.config).await.map_err(|error| Error::part("waypoint", error))
        }),
        Command::Istiod { config, log: filter } => block_on(async {
            log(&filter)?;
            istiod_lite::run(config).await.map_err(|error| Error::part("istiod", error))
        }),
        Command::Check(args) => return block_on_one_thread(async { Ok(check::run(args).await) }),
        Command::Install(args) => block_on_one_thread(install::install(*args)),
        Command::Upgrade(args) => block_on_one_thread(install::upgrade(*args)),
        Command::Uninstall(args) => block_on_one_thread(install::uninstall(args)),
        Command::NodeAgent(config) => block_on_one_thread(async {
            ambit_node_agent::program(*config).await.map_err(|error| Error::part("node agent", error))
        }),
        Command::InstallCni(args) => block_on_one_thread(async {
            log(&args.log)?;
            cni::run(*args).await
        }),
        Command::Envoy(config) => block_on(async {
            log(&std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()))?;
            envoy::run(config).await
        }),
        Command::Demo(args) => block_on_one_thread(demo::run(args)),
    };
    ended.map(|()| ExitCode::SUCCESS)
}

/// Called by the name of a part, the program is that part.
fn arguments(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let called = arguments.first().map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str()).map(str::to_owned);
    if let Some(part) = called.filter(|name| PARTS.contains(&name.as_str())) {
        arguments.insert(1, part.into());
    }
    arguments
}

fn log(filter: &str) -> Result<()> {
    use ambit_runtime::telemetry::{LogFormat, init_logging};
    init_logging(filter, LogFormat::default()).map_err(|error| Error::part("starting the log", error))
}

/// For the long-running parts: many threads, many open files.
fn block_on(task: impl Future<Output = Result<()>>) -> Result<()> {
    // A low limit is no reason not to start.
    let _best_effort = ambit_runtime::sys::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|cause| Error::io("starting the runtime", cause))?.block_on(task)
}

/// For the waypoint, whose connections have threads of their own. What it does beside them is little, but for the compilation of configuration,
/// which nothing else is to wait for.
fn block_on_two_threads(task: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|cause| Error::io("starting the runtime", cause))?.block_on(task)
}

fn block_on_one_thread<T>(task: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|cause| Error::io("starting the runtime", cause))?.block_on(task)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn called_by_the_name_of_a_part_the_program_is_that_part() {
        let words = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(
            arguments(words(&["/usr/bin/ztunnel", "--node", "a"])),
            words(&["/usr/bin/ztunnel", "ztunnel", "--node", "a"])
        );
        assert_eq!(arguments(words(&["ambit", "up"])), words(&["ambit", "up"]));
    }
}
