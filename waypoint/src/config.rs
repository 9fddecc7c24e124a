//! What the waypoint is told at start: flags and environment, read here and nowhere else.

use std::{net::SocketAddr, num::NonZero, path::PathBuf};

use ambit_identity::{Namespace, ServiceAccount, SpiffeId, TrustDomain};
use ambit_tls::ControlPlaneFlags;

/// Flags of the waypoint.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Name of the Gateway this waypoint is for.
    #[arg(long, env = "GATEWAY_NAME")]
    pub name: String,
    /// Its namespace.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: Namespace,
    /// Its service account; the Gateway's name when not given.
    #[arg(long, env = "SERVICE_ACCOUNT")]
    pub service_account: Option<ServiceAccount>,
    /// Name of its pod; the Gateway's name when not given.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// Address of its pod, for the control plane's eyes only.
    #[arg(long, env = "INSTANCE_IP", default_value = "127.0.0.1")]
    pub pod_ip: std::net::IpAddr,
    /// The control plane, and certificates.
    #[command(flatten)]
    pub control_plane: ControlPlaneFlags,
    /// Trust domain of the mesh.
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: TrustDomain,
    /// Where tunnels are accepted.
    #[arg(long, default_value = "[::]:15008")]
    pub hbone: SocketAddr,
    /// Admin pages.
    #[arg(long, default_value = "127.0.0.1:15000")]
    pub admin: SocketAddr,
    /// Metrics.
    #[arg(long, default_value = "[::]:15020")]
    pub metrics: SocketAddr,
    /// Readiness.
    #[arg(long, default_value = "[::]:15021")]
    pub ready: SocketAddr,
    /// Access log; standard output when not given.
    #[arg(long)]
    pub access_log: Option<PathBuf>,
    /// Threads that carry connections, at most; one for each core if not set. Connections of clients at ports of Gateways are shared out among
    /// all threads. Those of ztunnels go to the first of two threads until it has been busy for a while, and are shared out among three or more.
    #[arg(long, env = "WORKERS")]
    pub workers: Option<NonZero<usize>>,
    /// How long all goes on as before after SIGTERM, in seconds: until those who send requests here have heard that they are to send them
    /// elsewhere. Then open requests have --drain-seconds.
    #[arg(long, default_value_t = 0)]
    pub linger_seconds: u64,
    /// How long open requests may go on then, in seconds.
    #[arg(long, default_value_t = 20)]
    pub drain_seconds: u64,
}

impl Config {
    /// The waypoint's own identity.
    ///
    /// # Errors
    /// When the Gateway's name, which stands in for a service account that is not given, is not one.
    pub fn identity(&self) -> Result<SpiffeId, ambit_identity::IdentityError> {
        let account = match &self.service_account {
            Some(account) => account.clone(),
            None => ServiceAccount::new(&self.name)?,
        };
        Ok(SpiffeId::new(self.trust_domain.clone(), self.namespace.clone(), account))
    }

    /// The name of its pod.
    #[must_use]
    pub fn pod(&self) -> &str {
        self.pod_name.as_deref().unwrap_or(&self.name)
    }
}
