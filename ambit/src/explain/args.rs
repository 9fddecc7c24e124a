//! Command line of `ambit explain`.

use std::path::PathBuf;

use ambit_identity::TrustDomain;

/// Why the mesh does what it does.
#[derive(Debug, Clone, clap::Args)]
pub struct ExplainArgs {
    /// What to explain.
    #[command(subcommand)]
    pub topic: Topic,
}

/// What can be explained.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Topic {
    /// Whether a connection would be carried: capture, destination, waypoint or endpoint, identities, policies, and the reason code
    Connection(ConnectionArgs),
    /// What becomes of a request: waypoint, filter chain, policies, route and why not the others, clusters, endpoints, times, retries
    Request(RequestArgs),
}

/// Whether a connection would be carried, and why.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  ambit explain connection --dir my-yaml/ --from shop/web-1 --to api.shop:8080\n  ambit explain connection --ztunnel http://127.0.0.1:15000 --from shop/web-1 --to 10.96.0.12:8080\n  ambit explain connection --dir my-yaml/ --from web-1 --to api:8080 --json\n\nExit code: 0 allowed, 1 refused, 2 cannot say (the names are not known, the files have errors, or it depends on what is not known)"
)]
pub struct ConnectionArgs {
    /// The pod that connects: NAMESPACE/NAME, or NAME where only one pod has it
    #[arg(long, value_name = "POD")]
    pub from: String,
    /// What it dials: a service as the pod would write it, a pod, or an address
    #[arg(long, value_name = "HOST:PORT")]
    pub to: String,
    /// Where the answer is from
    #[command(flatten)]
    pub of: Source,
}

/// What becomes of a request, and why.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  ambit explain request --dir my-yaml/ --from shop/web-1 GET http://api.shop:8080/cart\n  ambit explain request --dir my-yaml/ --from shop/web-1 POST http://api.shop:8080/cart -H 'x-version: 2' --json\n  ambit explain request --ztunnel http://127.0.0.1:15000 --waypoint http://127.0.0.1:15001 --from shop/web-1 GET http://api.shop:8080/\n\nExit code: 0 allowed (or answered by the waypoint without an error), 1 refused, 2 cannot say"
)]
pub struct RequestArgs {
    /// The pod that asks: NAMESPACE/NAME, or NAME where only one pod has it
    #[arg(long, value_name = "POD")]
    pub from: String,
    /// The method, as GET
    #[arg(value_name = "METHOD")]
    pub method: String,
    /// What it asks for: `http://HOST[:PORT]/PATH`, with the service as the pod would write it
    #[arg(value_name = "URL")]
    pub url: String,
    /// A header of the request; `host` takes the place of the URL's
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE")]
    pub headers: Vec<String>,
    /// The client speaks HTTP/2, as gRPC does
    #[arg(long)]
    pub http2: bool,
    /// The admin address of the waypoint, when it runs (`kubectl port-forward`)
    #[arg(long, value_name = "URL", conflicts_with = "dir")]
    pub waypoint: Option<String>,
    /// Where the answer is from
    #[command(flatten)]
    pub of: Source,
}

/// Where an answer is from, and how it is printed.
#[derive(Debug, Clone, clap::Args)]
pub struct Source {
    /// Answer from a directory of Kubernetes YAML, without a running mesh
    #[arg(long, value_name = "DIR", conflicts_with = "ztunnel")]
    pub dir: Option<PathBuf>,
    /// Answer from a running node proxy: its admin address, best that of the client's node
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:15000")]
    pub ztunnel: String,
    /// Print the answer as one JSON document
    #[arg(long)]
    pub json: bool,
    /// The trust domain of the mesh, for --dir
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub trust_domain: TrustDomain,
    /// The name of the cluster, for --dir
    #[arg(long, value_name = "NAME", default_value = "Kubernetes")]
    pub cluster_id: String,
}
