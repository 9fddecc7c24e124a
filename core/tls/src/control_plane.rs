//! The way to the control plane: gRPC under TLS, verified with the mesh's root file, authenticated by a token with each call.

use std::{
    future::Future,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tonic::{
    metadata::{Ascii, MetadataMap, MetadataValue},
    transport::{Channel, Endpoint, Uri},
};

use crate::{Stream, TlsError, handshake::explained, provider::provider, stream, svid::root_store};

/// The name the control plane's certificate carries when its address is given as an IP address.
pub const DEFAULT_SERVER_NAME: &str = "istiod.istio-system.svc";

/// A mesh's whole configuration comes at once when a proxy starts.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Where the control plane is and how it is recognised.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    /// `host:port`, `ip:port` or `[ip]:port`.
    pub address: String,
    /// File with the root certificates, PEM. Read again for each connection.
    pub root_file: PathBuf,
    /// The name its certificate must carry; the host of `address` if not set, or [`DEFAULT_SERVER_NAME`] when that is an IP address.
    pub server_name: Option<String>,
    /// Limit for TCP and TLS together.
    pub connect_timeout: Duration,
}

impl ControlPlane {
    /// With a limit of 5 s and the default name.
    #[must_use]
    pub fn new(address: impl Into<String>, root_file: impl Into<PathBuf>) -> Self {
        Self { address: address.into(), root_file: root_file.into(), server_name: None, connect_timeout: Duration::from_secs(5) }
    }

    /// A channel that connects when first used and again when the connection is lost.
    ///
    /// # Errors
    /// When the address is not one.
    pub fn channel(&self) -> Result<Channel, TlsError> {
        let unusable = |detail: String| TlsError::Unreachable { address: self.address.clone(), detail };
        // The connector below does TLS itself, which tonic would do a second time for `https`; the peer still sees `https`.
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).map_err(|e| unusable(e.to_string()))?;
        let origin: Uri = format!("https://{}", self.address).parse().map_err(|e| unusable(format!("{e}")))?;
        let endpoint = endpoint
            .origin(origin)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(20))
            .keep_alive_while_idle(true);
        let this = Arc::new(self.clone());
        Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let this = Arc::clone(&this);
            async move { this.connect().await.map(TokioIo::new) }
        })))
    }

    fn connect(&self) -> impl Future<Output = io::Result<Stream<TcpStream>>> {
        let attempt = async {
            let config = Arc::new(self.tls()?);
            let name = ServerName::try_from(self.expected_name()).map_err(io::Error::other)?;
            let tcp = TcpStream::connect(&self.address).await?;
            tcp.set_nodelay(true)?;
            stream::client(tcp, config, name).await.map_err(|failed| explained(failed.error))
        };
        async { tokio::time::timeout(self.connect_timeout, attempt).await.unwrap_or_else(|late| Err(late.into())) }
    }

    fn tls(&self) -> io::Result<ClientConfig> {
        let pem =
            std::fs::read_to_string(&self.root_file).map_err(|e| io::Error::other(TlsError::file("read", &self.root_file, e)))?;
        let roots = root_store(&pem).map_err(io::Error::other)?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.enable_secret_extraction = true;
        Ok(config)
    }

    fn expected_name(&self) -> String {
        if let Some(name) = &self.server_name {
            return name.clone();
        }
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if bare.parse::<IpAddr>().is_ok() { DEFAULT_SERVER_NAME.to_owned() } else { bare.to_owned() }
    }
}

/// What a call to the control plane carries: `authorization: Bearer <token>` and `clusterid`.
#[derive(Debug, Clone)]
pub struct Credentials {
    token_file: PathBuf,
    cluster_id: String,
}

impl Credentials {
    /// The token in `token_file`, in the name of `cluster_id`.
    #[must_use]
    pub fn new(token_file: impl Into<PathBuf>, cluster_id: impl Into<String>) -> Self {
        Self { token_file: token_file.into(), cluster_id: cluster_id.into() }
    }

    /// The file of the token.
    #[must_use]
    pub fn token_file(&self) -> &Path {
        &self.token_file
    }

    /// Reads the token again, since it is replaced in place, and adds both headers.
    ///
    /// # Errors
    /// When the file cannot be read or holds something that cannot be a header.
    pub async fn apply(&self, metadata: &mut MetadataMap) -> Result<(), TlsError> {
        let token = tokio::fs::read_to_string(&self.token_file).await.map_err(|e| TlsError::file("read", &self.token_file, e))?;
        let unusable = |_| TlsError::Token(format!("{} holds something else", self.token_file.display()));
        let mut bearer: MetadataValue<Ascii> = format!("Bearer {}", token.trim()).parse().map_err(unusable)?;
        bearer.set_sensitive(true);
        metadata.insert("authorization", bearer);
        metadata.insert("clusterid", self.cluster_id.parse().map_err(unusable)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_for(address: &str) -> String {
        ControlPlane::new(address, "root.pem").expected_name()
    }

    #[test]
    fn a_control_plane_is_known_by_its_host_name_or_the_usual_one() {
        assert_eq!(name_for("istiod.mesh.svc:15012"), "istiod.mesh.svc");
        assert_eq!(name_for("172.30.0.100:15012"), DEFAULT_SERVER_NAME);
        assert_eq!(name_for("[fd30::100]:15012"), DEFAULT_SERVER_NAME);
        let named = ControlPlane { server_name: Some("other".to_owned()), ..ControlPlane::new("a:1", "root.pem") };
        assert_eq!(named.expected_name(), "other");
    }

    #[test]
    fn an_address_that_is_none_makes_no_channel() {
        for address in ["", "a b:1", "a:b:c"] {
            assert!(ControlPlane::new(address, "root.pem").channel().is_err(), "{address:?} was taken for an address");
        }
    }
}
