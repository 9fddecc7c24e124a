//! TLS between workloads: the configurations of both sides, and the two handshakes with their time limit.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use ambit_identity::{SpiffeId, TrustDomain};
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    pki_types::ServerName,
    server::{NoServerSessionStorage, ResolvesServerCert},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    PeerError, Stream, Svid, TlsError,
    provider::provider,
    stream,
    verify::{ClientIdentityVerifier, ServerIdentityVerifier},
};

/// The protocol of HBONE in ALPN.
const ALPN_H2: &[u8] = b"h2";
/// How long a refused client may take to read why, and how much it may still send meanwhile.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: u64 = 1 << 20;

/// A dialled connection under TLS.
pub type ClientStream<T> = Stream<T>;
/// An accepted connection under TLS.
pub type ServerStream<T> = Stream<T>;

/// The client side: TLS 1.3, AES-GCM, ALPN `h2`, no SNI, no resumption; presents `svid`, and accepts a server only when its one
/// URI SAN is among `expected` (wire contract, section 4).
///
/// # Errors
/// When the certificate cannot be used, which a checked [`Svid`] does not cause.
pub fn client_config(svid: &Svid, expected: &[SpiffeId]) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = ServerIdentityVerifier::new(svid.trust().clone(), expected.to_vec());
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(svid.certified_key())));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

/// The server side: TLS 1.3, AES-GCM, ALPN `h2`, a client certificate under the mesh's roots from the own trust domain or one of
/// `aliases`, no tickets. Build it once for each certificate ([`crate::SvidStore::server_config`] does), not for each connection.
///
/// # Errors
/// When the roots cannot be used.
pub fn server_config(svid: &Svid, aliases: &[TrustDomain]) -> Result<Arc<ServerConfig>, TlsError> {
    let mut accepted = vec![svid.id().trust_domain().clone()];
    accepted.extend(aliases.iter().cloned());
    let verifier = ClientIdentityVerifier::new(svid.trust().clone(), accepted);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(OneCertificate(svid.certified_key())));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

/// Presents the pod's certificate whatever name is asked: the listener decides the identity, not the client.
#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl ResolvesServerCert for OneCertificate {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Runs the server's handshake within `limit` and says who the client is.
///
/// A client that is refused gets the alert that says why, and a moment to read it.
///
/// # Errors
/// An io error whose cause is a [`PeerError`] when the peer is to blame ([`PeerError::from_io`]), else the transport's error.
pub async fn accept<T>(io: T, config: Arc<ServerConfig>, limit: Duration) -> io::Result<(ServerStream<T>, SpiffeId)>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    match tokio::time::timeout(limit, stream::server(io, config)).await {
        Err(_) => Err(PeerError::TimedOut.into()),
        Ok(Err(failed)) => {
            let reason = explained(failed.error);
            linger(failed.io).await;
            Err(reason)
        }
        Ok(Ok(stream)) => {
            require_h2(stream.alpn())?;
            let peer = stream.peer()?.clone();
            Ok((stream, peer))
        }
    }
}

/// Runs the client's handshake within `limit`.
///
/// # Errors
/// As [`accept`]. That the *server* refuses our certificate shows only at the first read after this (TLS 1.3).
pub async fn connect<T>(io: T, config: Arc<ClientConfig>, limit: Duration) -> io::Result<ClientStream<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    // Never sent, because SNI is off; and never compared, because the verifier checks the SPIFFE identity.
    let name = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    match tokio::time::timeout(limit, stream::client(io, config, name)).await {
        Err(_) => Err(PeerError::TimedOut.into()),
        Ok(Err(failed)) => Err(explained(failed.error)),
        Ok(Ok(stream)) => {
            require_h2(stream.alpn())?;
            Ok(stream)
        }
    }
}

/// A peer that negotiates no protocol at all passes rustls, but not the mesh.
fn require_h2(negotiated: Option<&[u8]>) -> io::Result<()> {
    if negotiated == Some(ALPN_H2) {
        return Ok(());
    }
    Err(PeerError::Incompatible("the peer does not offer h2".to_owned()).into())
}

/// Puts our typed reason in place of the TLS library's error.
pub(crate) fn explained(error: io::Error) -> io::Error {
    match PeerError::from_io(&error) {
        Some(reason) => reason.into(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => PeerError::Closed.into(),
        None => error,
    }
}

/// Closes in order. Closing a socket with unread bytes makes the kernel send a reset, which would destroy the alert on its way.
async fn linger<T: AsyncRead + AsyncWrite + Unpin>(mut io: T) {
    let drain = async {
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    // Whatever comes of it, the connection is given up.
    let _ended = tokio::time::timeout(LINGER, drain).await;
}
