//! What the control plane is told at start; flags are read here and nowhere else.

use std::{net::SocketAddr, path::PathBuf};

use ambit_identity::{Namespace, ServiceAccount, TrustDomain};

use crate::index::MeshConfig;

/// Flags of the control plane.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// A directory of Kubernetes YAML, read recursively and watched. Objects in later directories are laid over those in earlier ones.
    #[arg(long = "source-dir", value_name = "DIR", required_unless_present = "kubernetes", conflicts_with = "kubernetes")]
    pub source_dirs: Vec<PathBuf>,
    /// The cluster, in place of directories.
    #[command(flatten)]
    pub cluster: ClusterConfig,
    /// Where the root certificate, its key and the token key are kept; made when missing.
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Where discovery and certificates are served, under TLS.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15012")]
    pub listen: SocketAddr,
    /// Where readiness, metrics and debug pages are served, in plain text.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15014")]
    pub monitoring: SocketAddr,
    /// The trust domain of every identity.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub trust_domain: TrustDomain,
    /// The name of the cluster, the first part of a workload's uid.
    #[arg(long, value_name = "NAME", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// The domain below which Kubernetes names services; node proxies must have the same.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// A service account that may ask for certificates of the workloads on its node.
    #[arg(long = "node-account", value_name = "NAMESPACE/NAME", default_value = "istio-system/ztunnel")]
    pub node_accounts: Vec<Account>,
    /// Seconds that the certificate of a workload lives at most; proxies replace it at half of that.
    #[arg(long, value_name = "SECONDS", default_value_t = 24 * 3600, value_parser = clap::value_parser!(u64).range(1..))]
    pub certificate_seconds: u64,
    /// Seconds added to each wait of a change of roots, on Kubernetes: for replicas that learn of a step late, and until a ConfigMap is a
    /// file in a pod.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub root_margin_seconds: u64,
    /// A further DNS name or IP address for the certificate of the discovery server.
    #[arg(long = "serving-name", value_name = "NAME")]
    pub serving_names: Vec<String>,
    /// How keys of issuers of tokens are fetched.
    #[command(flatten)]
    pub jwks: crate::jwks::Options,
}

impl Config {
    /// What the index has to know of the mesh.
    #[must_use]
    pub fn mesh(&self) -> MeshConfig {
        let defaults = MeshConfig::new(self.trust_domain.clone(), self.cluster_id.clone());
        MeshConfig { cluster_domain: self.cluster_domain.clone(), ..defaults }
    }
}

/// Flags for an API server as the source.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ClusterConfig {
    /// Read objects from the Kubernetes API server of the cluster that this runs in, or of --kubeconfig, instead of from directories:
    /// needs the verbs list and watch on what it reads, and get, create and update on leases in istio-system. Every replica serves; the
    /// one that holds the Lease istiod-lite-leader writes.
    #[arg(long)]
    pub kubernetes: bool,
    /// A kubeconfig file that says where the API server is and who we are; without it, what the pod was given. For example
    /// --kubernetes --kubeconfig ~/.kube/config --context staging.
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig file other than its current one.
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub context: Option<String>,
    /// The name of this replica in the Lease; a random part is added.
    #[arg(long, value_name = "NAME", env = "POD_NAME", default_value = "istiod-lite")]
    pub replica_name: String,
    /// Where the API server has objects of the mesh validated, under TLS, for example 0.0.0.0:15017; nowhere by default. The one that leads
    /// keeps the roots in the ValidatingWebhookConfiguration ambit-validation right.
    #[arg(long, value_name = "ADDRESS", requires = "kubernetes")]
    pub validation: Option<SocketAddr>,
    /// Read no Secret: listeners of Gateways at the edge of the mesh at which TLS is to end serve nobody. For an installation that is not to have
    /// the right to list and watch Secrets.
    #[arg(long, requires = "kubernetes")]
    pub no_gateway_secrets: bool,
    /// The waypoints that are made for Gateways.
    #[command(flatten)]
    pub waypoints: crate::deploy::Options,
}

/// A service account in its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    /// The namespace.
    pub namespace: Namespace,
    /// The service account.
    pub name: ServiceAccount,
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl std::str::FromStr for Account {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, name) = text.split_once('/').ok_or("not of the form namespace/name")?;
        let namespace = namespace.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { namespace, name: name.parse().map_err(|error| format!("{error}"))? })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::Config;
    use crate::source::NamespacedName;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        config: Config,
    }

    #[test]
    fn services_have_names_of_the_cluster_s_domain() {
        let hostname = |flags: &[&str]| {
            let all = ["istiod-lite", "--source-dir=objects", "--state-dir=state"].iter().chain(flags);
            Program::try_parse_from(all).unwrap().config.mesh().hostname(&NamespacedName::new("shop", "api"))
        };
        assert_eq!(hostname(&[]), "api.shop.svc.cluster.local");
        assert_eq!(hostname(&["--cluster-domain=corp.example"]), "api.shop.svc.corp.example");
    }
}
