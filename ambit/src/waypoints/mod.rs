//! `ambit waypoint`: the L7 proxy itself, and `apply`, `list`, `status` and `delete` for the Gateways that ask for one.

mod apply;
mod cluster;
mod delete;
mod gateway;
mod show;
#[cfg(test)]
mod tests;
mod wait;

use std::time::Duration;

use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};

use crate::error::Result;
pub use cluster::PlaceArgs;
pub use gateway::{Admit, WaypointFor};

/// What `ambit waypoint` does: without one of the subcommands it is the proxy.
#[derive(Debug)]
pub enum WaypointCommand {
    /// Be the proxy.
    Proxy(Box<Proxy>),
    /// Work on Gateways of a cluster.
    Gateways(Action),
}

/// The settings of the proxy.
#[derive(Debug, Args)]
pub struct Proxy {
    /// Its own.
    #[command(flatten)]
    pub config: waypoint::Config,
    /// What to log, in the syntax of RUST_LOG
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log: String,
}

impl FromArgMatches for WaypointCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        if matches.subcommand_name().is_some() {
            return Action::from_arg_matches(matches).map(Self::Gateways);
        }
        Proxy::from_arg_matches(matches).map(|proxy| Self::Proxy(Box::new(proxy)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for WaypointCommand {
    fn augment_args(command: Command) -> Command {
        let command = Action::augment_subcommands(Proxy::augment_args(command));
        // The flags of the proxy are required only where it is what is asked for.
        command
            .subcommand_required(false)
            .arg_required_else_help(false)
            .subcommand_negates_reqs(true)
            .args_conflicts_with_subcommands(true)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Ask for a waypoint: make its Gateway, or change it
    #[command(
        after_help = "Examples:\n  ambit waypoint apply --namespace shop --wait              a waypoint for the services of shop\n  ambit waypoint apply -n shop --enroll-namespace           … which go through it as soon as it is ready\n  ambit waypoint apply -n infra --name shared --admit all   one that other namespaces may use\n  ambit waypoint apply -n shop --dry-run                    print the Gateway instead"
    )]
    Apply(ApplyArgs),
    /// The waypoints of a namespace, or of all
    #[command(after_help = "Examples:\n  ambit waypoint list --namespace shop\n  ambit waypoint list --all-namespaces --json")]
    List(ListArgs),
    /// What became of one waypoint: conditions, pods, who uses it. The exit code is 0 when it can be used
    #[command(after_help = "Examples:\n  ambit waypoint status --namespace shop\n  ambit waypoint status shared -n infra --wait")]
    Status(StatusArgs),
    /// Give waypoints up; not those that something still goes through
    #[command(
        after_help = "Examples:\n  ambit waypoint delete --namespace shop\n  ambit waypoint delete first second -n shop --wait"
    )]
    Delete(DeleteArgs),
}

/// How long to wait.
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// Wait until it is done, telling what is missing
    #[arg(long)]
    pub wait: bool,
    /// Seconds to wait at most
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub timeout: u64,
}

impl WaitArgs {
    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    cluster: PlaceArgs,
    /// Name of the Gateway, and of all that is made for it
    #[arg(long, default_value = "waypoint")]
    name: String,
    /// What goes through it: requests to services, to pods by their address, both, or nothing; as it is, or `service`, if not given
    #[arg(long = "for", value_enum, value_name = "WHAT")]
    serves: Option<WaypointFor>,
    /// Whose services may go through it: `same` namespace, `all`, or those of namespaces with a label, `KEY=VALUE`; as it is, or `same`, if
    /// not given
    #[arg(long, value_name = "NAMESPACES")]
    admit: Option<Admit>,
    /// Once it is ready, have all services of the namespace go through it (label istio.io/use-waypoint)
    #[arg(long)]
    enroll_namespace: bool,
    /// Take over fields that another program has set, and another waypoint's place in the namespace's label
    #[arg(long)]
    overwrite: bool,
    /// Print the Gateway instead of applying it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    cluster: PlaceArgs,
    /// Those of all namespaces
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    cluster: PlaceArgs,
    /// Name of the Gateway
    #[arg(default_value = "waypoint")]
    name: String,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    cluster: PlaceArgs,
    /// Names of the Gateways
    #[arg(default_value = "waypoint")]
    names: Vec<String>,
    /// Even if something still goes through them; it cannot be reached then
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Runs a subcommand; `false` when its answer is no.
///
/// # Errors
/// What kept it from being done, and what to do about it.
pub async fn run(action: Action) -> Result<bool> {
    match action {
        Action::Apply(args) => apply::run(args).await.map(|()| true),
        Action::List(args) => show::list(args).await.map(|()| true),
        Action::Status(args) => show::status(args).await,
        Action::Delete(args) => delete::run(args).await.map(|()| true),
    }
}
