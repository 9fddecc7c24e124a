//! Where the discovery server is, how it is recognised, and how it recognises us.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use tonic::{
    metadata::{MetadataMap, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use crate::XdsError;

/// The name a control plane's certificate carries, whatever its address is.
pub const DEFAULT_SERVER_NAME: &str = "istiod.istio-system.svc";

/// The discovery server. Root certificates are read again for each connection, so that a new root needs no restart.
#[derive(Debug, Clone)]
pub enum Target {
    /// TLS to `address` (`host:port`), verified against the roots in `root_file`.
    Tls {
        /// `host:port`; the host is resolved for each connection.
        address: String,
        /// PEM of the mesh roots.
        root_file: PathBuf,
        /// The name to verify instead.
        server_name: Option<String>,
    },
    /// A channel made elsewhere (plain text on 15010, or a test).
    Channel(Channel),
}

impl Target {
    /// TLS to `host:port`, verified by that host (by [`DEFAULT_SERVER_NAME`] when it is an IP address) against the roots in `root_file`.
    #[must_use]
    pub fn tls(address: impl Into<String>, root_file: impl Into<PathBuf>) -> Self {
        Self::Tls { address: address.into(), root_file: root_file.into(), server_name: None }
    }

    /// A channel that connects at its first call.
    ///
    /// # Errors
    /// When the roots cannot be read, or the address is none.
    pub async fn channel(&self) -> Result<Channel, XdsError> {
        match self {
            Self::Channel(channel) => Ok(channel.clone()),
            Self::Tls { address, root_file, server_name } => {
                let pem =
                    tokio::fs::read(root_file).await.map_err(|source| XdsError::File { path: root_file.clone(), source })?;
                named_channel(address, &pem, server_name.as_deref())
            }
        }
    }
}

/// A TLS channel to `address` (`host:port`), verified against `root_pem` as [`Target::tls`] does; it connects at its first call.
///
/// # Errors
/// When the address is not `host:port`, or the roots are not PEM certificates.
pub fn channel(address: &str, root_pem: &[u8]) -> Result<Channel, XdsError> {
    named_channel(address, root_pem, None)
}

fn named_channel(address: &str, root_pem: &[u8], server_name: Option<&str>) -> Result<Channel, XdsError> {
    let bad = || XdsError::Address { address: address.to_owned() };
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    port.parse::<u16>().map_err(|_| bad())?;
    let endpoint = Endpoint::from_shared(format!("https://{address}")).map_err(|_| bad())?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = match bare.parse::<IpAddr>() {
        Ok(_) => DEFAULT_SERVER_NAME,
        Err(_) => bare,
    };
    let host = server_name.unwrap_or(name);
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(root_pem)).domain_name(host);
    Ok(endpoint
        .tls_config(tls)?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .connect_lazy())
}

/// What a stream says about its caller (ambient wire contract, section 2): `authorization: Bearer <token>` and `clusterid: <cluster>`.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// A service account token, read again for each stream, because the kubelet replaces it.
    pub token_file: Option<PathBuf>,
    /// The cluster the caller runs in.
    pub cluster_id: Option<String>,
}

impl Credentials {
    /// A token file and a cluster.
    #[must_use]
    pub fn new(token_file: impl Into<PathBuf>, cluster_id: impl Into<String>) -> Self {
        Self { token_file: Some(token_file.into()), cluster_id: Some(cluster_id.into()) }
    }

    /// The headers of one stream.
    ///
    /// # Errors
    /// When the token cannot be read or is not a header value.
    pub async fn headers(&self) -> Result<MetadataMap, XdsError> {
        let mut headers = MetadataMap::new();
        if let Some(path) = &self.token_file {
            let text = tokio::fs::read_to_string(path).await.map_err(|source| XdsError::File { path: path.clone(), source })?;
            let mut value: MetadataValue<_> =
                format!("Bearer {}", text.trim()).parse().map_err(|_| XdsError::Token { path: path.clone() })?;
            value.set_sensitive(true);
            headers.insert("authorization", value);
        }
        if let Some(cluster) = self.cluster_id.as_ref().and_then(|cluster| cluster.parse().ok()) {
            headers.insert("clusterid", cluster);
        }
        Ok(headers)
    }
}
