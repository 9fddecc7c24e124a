//! The flags that are the same for every proxy: how it reaches its control plane, where its certificates come from, whom it does not believe.

use std::{path::PathBuf, sync::Arc};

use crate::{
    CaConfig, SvidSource, TlsError, Trust,
    control_plane::{ControlPlane, Credentials},
    revocation::{Follower, Unlisted},
    source::SourceName,
};

/// To be flattened into the flags of a proxy.
#[derive(Debug, Clone, clap::Args)]
pub struct ControlPlaneFlags {
    /// The control plane's discovery service, host:port.
    #[arg(long, env = "XDS_ADDRESS", default_value = "istiod.istio-system.svc:15012")]
    pub xds_address: String,
    /// The certificate service, host:port; the discovery service's address if not set.
    #[arg(long, env = "CA_ADDRESS")]
    pub ca_address: Option<String>,
    /// Where certificates come from: `ca` (the certificate service), `files:DIR` (`DIR/NAMESPACE/ACCOUNT/tls.crt` and `tls.key`, `DIR/ca.crt`,
    /// followed as they change), or `spiffe:SOCKET` (the Workload API of a SPIRE agent).
    #[arg(long, env = "CERTIFICATES", default_value_t = SourceName::Authority)]
    pub certificates: SourceName,
    /// File with the root certificates of the control plane, PEM.
    #[arg(long, env = "CA_ROOT", default_value = "/var/run/secrets/istio/root-cert.pem")]
    pub ca_root: PathBuf,
    /// File with this proxy's service-account token.
    #[arg(long, env = "TOKEN", default_value = "/var/run/secrets/tokens/istio-token")]
    pub token: PathBuf,
    /// The cluster this proxy belongs to.
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// File with the revocation lists of the mesh's authorities, PEM; followed as it changes. None are heeded if not set.
    #[arg(long, env = "CRL_FILE")]
    pub crl: Option<PathBuf>,
    /// Accept certificates of authorities without a revocation list, and heed lists whose time is over. As long as this is not set,
    /// both are refused, and so is everybody when no list can be read.
    #[arg(long, env = "CRL_LISTED_ONLY")]
    pub crl_listed_only: bool,
}

impl ControlPlaneFlags {
    /// Where certificates come from; with `impersonate` those of other identities than the token's.
    ///
    /// # Errors
    /// When an address is none.
    pub fn source(&self, impersonate: bool) -> Result<Arc<dyn SvidSource>, TlsError> {
        let authority = ControlPlane::new(self.ca_address.as_ref().unwrap_or(&self.xds_address), &self.ca_root);
        let credentials = Credentials::new(&self.token, &self.cluster_id);
        self.certificates.open(CaConfig::new(authority, credentials, impersonate))
    }

    /// Has `trust` heed the revocation lists, if there are to be any; what is returned has to be run to follow them.
    pub async fn revocations(&self, trust: &Trust) -> Option<Follower> {
        let unlisted = if self.crl_listed_only { Unlisted::Accepted } else { Unlisted::Refused };
        Some(Follower::load(self.crl.clone()?, unlisted, trust.clone()).await)
    }
}
