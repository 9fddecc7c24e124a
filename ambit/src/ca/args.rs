//! Command line of `ambit ca`.

use crate::install::cluster::ClusterArgs;

/// The certificate authority of a mesh on Kubernetes.
#[derive(Debug, Clone, clap::Args)]
pub struct CaArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What can be done.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Action {
    /// Who signs, which roots are believed, and where a change of roots is
    Status(StatusArgs),
    /// Begins a change to a new root, which takes two lives of a certificate and fails no connection
    Rotate(RotateArgs),
}

/// Where the cluster is.
#[derive(Debug, Clone, clap::Args)]
pub struct Cluster {
    /// Which cluster
    #[command(flatten)]
    pub at: ClusterArgs,
    /// The root namespace, where the control plane is
    #[arg(long, short, value_name = "NAMESPACE", default_value = "istio-system")]
    pub namespace: String,
}

/// `ambit ca status`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  ambit ca status                                    by the Secret ambit-ca\n  kubectl -n istio-system port-forward deploy/istiod-lite 15014 &\n  ambit ca status --istiod http://127.0.0.1:15014    by a control plane, with the last refusals\n  ambit ca status --json | jq .phase\n\nExit code: 0 all is well, 1 there are problems, 2 cannot say"
)]
pub struct StatusArgs {
    /// Where the cluster is
    #[command(flatten)]
    pub cluster: Cluster,
    /// Ask a running control plane at its monitoring address instead
    #[arg(long, value_name = "URL", conflicts_with_all = ["kubeconfig", "context"])]
    pub istiod: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// `ambit ca rotate`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  ambit ca rotate              then watch it with: ambit ca status\n  ambit ca rotate --at-once    the key is known to others: connections fail until every proxy has asked again\n\nThe root of a plug-in CA is changed in the Secret cacerts instead."
)]
pub struct RotateArgs {
    /// Where the cluster is
    #[command(flatten)]
    pub cluster: Cluster,
    /// Wait for nothing: take all steps that are left now, or all steps to a new root if none is under way, whatever fails by it
    #[arg(long)]
    pub at_once: bool,
}
