//! TLS of the discovery server: a certificate by our own authority, replaced before it expires, and when the authority is another.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use ambit_tls::authority::{Authority, ServingCertificate};
use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{sync::watch, time::timeout};
use tokio_rustls::TlsAcceptor;

use super::Issuing;
use crate::error::Error;

/// How long a serving certificate lives.
const LIFETIME: Duration = Duration::from_hours(24);
/// It is replaced at half of its life; when that fails, this is the time to the next attempt.
const RETRY: Duration = Duration::from_mins(1);
/// An authority that is about to end makes certificates for moments; nobody is helped by making them all the time.
const LEAST: Duration = Duration::from_millis(100);

/// The serving certificate in force.
#[derive(Debug)]
pub struct Serving {
    issuing: Issuing,
    /// Has seen the authority of the first certificate.
    changes: watch::Receiver<Arc<Authority>>,
    names: Vec<String>,
    key: ArcSwap<CertifiedKey>,
    lifetime: Duration,
}

impl Serving {
    /// A first certificate for `names`, each a DNS name or an IP address.
    ///
    /// # Errors
    /// When a name is neither.
    pub fn new(issuing: Issuing, names: Vec<String>) -> Result<Self, Error> {
        Self::with_lifetime(issuing, names, LIFETIME)
    }

    /// The same, with another lifetime of the certificates.
    ///
    /// # Errors
    /// When a name is neither.
    pub fn with_lifetime(issuing: Issuing, names: Vec<String>, lifetime: Duration) -> Result<Self, Error> {
        let changes = issuing.changes();
        let key = ArcSwap::from_pointee(issue(&issuing.authority(), &names, lifetime)?);
        Ok(Self { issuing, changes, names, key, lifetime })
    }

    /// Replaces the certificate at half of its life, and at once when another authority signs, for ever. The time is looked at often, so
    /// that a machine that slept notices.
    pub async fn rotate(self: Arc<Self>) {
        let mut changes = self.changes.clone();
        let mut due = SystemTime::now() + self.left() / 2;
        loop {
            let left = due.duration_since(SystemTime::now()).unwrap_or_default();
            if !left.is_zero() {
                match timeout(left.min(RETRY), changes.changed()).await {
                    Ok(Ok(())) => {}
                    // Ours keeps the other end open.
                    Ok(Err(_)) | Err(_) => continue,
                }
            }
            match issue(&self.issuing.authority(), &self.names, self.lifetime) {
                Ok(key) => {
                    self.key.store(Arc::new(key));
                    due = SystemTime::now() + self.left() / 2;
                    tracing::info!("the certificate of the discovery server was replaced");
                }
                Err(error) => {
                    due = SystemTime::now() + RETRY;
                    tracing::error!(%error, "the certificate of the discovery server cannot be replaced");
                }
            }
        }
    }

    /// How long a certificate lives: never longer than the authority.
    fn left(&self) -> Duration {
        let authority = self.issuing.authority().not_after().duration_since(SystemTime::now()).unwrap_or_default();
        self.lifetime.min(authority).max(LEAST)
    }

    /// The leaf certificate in force.
    #[must_use]
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.key.load().cert.first().cloned().unwrap_or_else(|| CertificateDer::from(Vec::new()))
    }

    /// TLS 1.3 and HTTP/2 under the certificate in force at each handshake.
    ///
    /// # Errors
    /// When the provider has no TLS 1.3, which is a defect of the build.
    pub fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, Error> {
        self.acceptor_of("h2")
    }

    /// The same with HTTP/1.1, which is what API servers speak to webhooks.
    ///
    /// # Errors
    /// When the provider has no TLS 1.3, which is a defect of the build.
    pub fn http1_acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, Error> {
        self.acceptor_of("http/1.1")
    }

    fn acceptor_of(self: &Arc<Self>, protocol: &str) -> Result<TlsAcceptor, Error> {
        let mut config = ServerConfig::builder_with_provider(ambit_tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| Error::Serving(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver(Arc::clone(self))));
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

#[derive(Debug)]
struct Resolver(Arc<Serving>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.key.load_full())
    }
}

fn issue(authority: &Authority, names: &[String], lifetime: Duration) -> Result<CertifiedKey, Error> {
    let ServingCertificate { certificate_pem, key_pem } = authority.serving_certificate(names, lifetime)?;
    let wrong = |what: &str, error: &dyn std::fmt::Debug| Error::Serving(format!("{what}: {error:?}"));
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| wrong("certificate", &error))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| wrong("key", &error))?;
    let provider: Arc<CryptoProvider> = ambit_tls::provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|error| wrong("certificate and key", &error))
}
