//! Certificates for clients outside of the mesh, which know nothing of its roots and prove nothing: those of Secrets that Gateways name.
//!
//! Unlike between workloads TLS 1.2 is spoken as well, as such clients are anybody's.

use std::{
    fmt,
    sync::{Arc, LazyLock, PoisonError, RwLock},
};

use rustls::{
    ServerConfig,
    client::verify_server_name,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::ServerName,
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::TlsError;

/// The library of the mesh with the suites that the rest of the world has.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// A certificate with the private key that it is for. The key stays inside: nothing here returns or prints it.
#[derive(Clone)]
pub struct Served(Arc<CertifiedKey>);

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Served(..)")
    }
}

impl Served {
    /// Reads a chain, the leaf first, and its key, both as PEM. No clock is asked: a certificate that is over is shown, and clients say so.
    ///
    /// # Errors
    /// When one of them cannot be read, or the key is not that of the leaf. Nothing of the key is in the text.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|_| TlsError::malformed("certificate", "it is not PEM"))?;
        let Some(leaf) = chain.first() else {
            return Err(TlsError::malformed("certificate", "there is none in PEM"));
        };
        ParsedCertificate::try_from(leaf).map_err(|error| TlsError::malformed("certificate", error))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| TlsError::malformed("private key", "there is none in PEM that can be read"))?;
        let key = PROVIDER
            .key_provider
            .load_private_key(key)
            .map_err(|_| TlsError::malformed("private key", "it is of a kind that is not known, or broken"))?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| TlsError::malformed("private key", "it is not that of the certificate"))?;
        Ok(Self(Arc::new(certified)))
    }

    /// Whether the certificate is for this host.
    fn is_for(&self, name: &ServerName<'_>) -> bool {
        let leaf = self.0.cert.first().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
        leaf.is_some_and(|leaf| verify_server_name(&leaf, name).is_ok())
    }
}

/// The certificates of one listener, which may become others while it is in use: connections that stand go on.
#[derive(Debug, Default)]
pub struct Certificates(RwLock<Vec<Served>>);

impl Certificates {
    /// Shows these from now on. Without any all handshakes fail.
    pub fn show(&self, certificates: Vec<Served>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certificates;
    }

    /// Shows what another one shows now.
    pub fn follow(&self, before: &Self) {
        let shown = before.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.show(shown);
    }
}

impl ResolvesServerCert for Certificates {
    /// The first that is for the host, of those whose key the client can check; without one for it the first of these, which the client refuses.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let usable = || held.iter().filter(|one| one.0.key.choose_scheme(hello.signature_schemes()).is_some());
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| usable().find(|one| one.is_for(&name)));
        named.or_else(|| usable().next()).or_else(|| held.first()).map(|one| Arc::clone(&one.0))
    }
}

/// The server side for clients outside of the mesh: TLS 1.3 and 1.2, no client certificate, these protocols of ALPN, the dearest first.
///
/// # Errors
/// When the library has no suite for these versions.
pub fn edge_config(certificates: Arc<Certificates>, alpn: &[String]) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// Certificate and key for a host.
    fn pair(host: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![host.to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn a_key_that_is_not_that_of_the_certificate_is_refused_and_none_is_printed() {
        let ((one, its_key), (_, other)) = (pair("a.example"), pair("b.example"));
        let read = |certificate: &str, key: &str| Served::from_pem(certificate.as_bytes(), key.as_bytes());
        let refused = |certificate: &str, key: &str| read(certificate, key).unwrap_err().to_string();
        let served = read(&one, &its_key).unwrap();
        assert_eq!(format!("{served:?}"), "Served(..)");
        assert_eq!(refused(&one, &other), "private key: it is not that of the certificate");
        assert_eq!(refused(&one, &one), "private key: there is none in PEM that can be read");
        assert_eq!(refused("", &its_key), "certificate: there is none in PEM");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(refused(broken, &its_key).starts_with("certificate: "), "{}", refused(broken, &its_key));
    }

    #[test]
    fn a_certificate_is_for_the_hosts_that_it_names() {
        let (certificate, key) = pair("*.example.com");
        let served = Served::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
        for (host, expected) in [("a.example.com", true), ("example.com", false), ("a.b.example.com", false)] {
            assert_eq!(served.is_for(&ServerName::try_from(host).unwrap()), expected, "{host}");
        }
    }
}
