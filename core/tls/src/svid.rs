//! A workload's certificate, and how one is asked for.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ambit_identity::SpiffeId;
use async_trait::async_trait;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::{
    RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    pki_types::{CertificateDer, UnixTime},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{TlsError, Trust, peer::uri_names, provider::provider};

/// A certificate for one identity, its private key, and the roots of the mesh it belongs to.
///
/// The private key stays inside: nothing here returns or prints it.
pub struct Svid {
    id: SpiffeId,
    key: Arc<CertifiedKey>,
    trust: Trust,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Svid {
    /// Whose certificate this is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The chain that is sent to peers, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// Whom we believe when we present this certificate: the roots that came with it, or for certificates of a [`crate::SvidStore`]
    /// the newest that came with any.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The same certificate with `trust` in place of its own.
    pub(crate) fn trusting(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// From and to when it is valid.
    pub(crate) fn validity(&self) -> (SystemTime, SystemTime) {
        (self.not_before, self.not_after)
    }

    /// The serial number of the leaf, hexadecimal.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Start of validity.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether the certificate is valid at `now`.
    #[must_use]
    pub fn valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// Chain and key in the form rustls presents.
    #[must_use]
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("serial", &self.serial)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Where certificates come from.
#[async_trait]
pub trait SvidSource: Send + Sync + 'static {
    /// Obtains a fresh certificate for `id`, with a fresh key.
    ///
    /// # Errors
    /// When the source cannot be reached, refuses, or answers with something else than was asked.
    async fn issue(&self, id: &SpiffeId) -> Result<Svid, TlsError>;
}

/// A fresh P-256 key and the signing request for it: empty subject, one URI SAN (wire contract, section 3).
pub struct CertificateRequest {
    id: SpiffeId,
    key: KeyPair,
    csr: String,
}

impl CertificateRequest {
    /// Makes a key and a request for `id`.
    ///
    /// # Errors
    /// When the key cannot be generated.
    pub fn new(id: &SpiffeId) -> Result<Self, TlsError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.to_string().as_str().try_into()?)];
        let csr = params.serialize_request(&key)?.pem()?;
        Ok(Self { id: id.clone(), key, csr })
    }

    /// The request, PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.csr
    }

    /// Joins the key with the chain that the authority answered: leaf, each intermediate its own string, the root bundle last.
    ///
    /// # Errors
    /// When the chain does not parse, the leaf is for another identity or another key, or it is not valid now.
    pub fn complete(self, chain: &[String]) -> Result<Svid, TlsError> {
        let checked = self.check(chain)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key)?;
        Ok(Svid {
            id: self.id,
            serial: checked.facts.serial,
            not_before: checked.facts.not_before,
            not_after: checked.facts.not_after,
            trust: Trust::new(Arc::new(checked.roots)),
            key: Arc::new(CertifiedKey::new(checked.certificates, signer)),
        })
    }

    /// As [`CertificateRequest::complete`], but gives the private key out: for a proxy that is not ours and gets it over its own
    /// interface (Envoy's SDS). Nothing of ours uses it for itself.
    ///
    /// # Errors
    /// As [`CertificateRequest::complete`].
    pub fn complete_pem(self, chain: &[String]) -> Result<PemSvid, TlsError> {
        let checked = self.check(chain)?;
        let (roots, certificates) = parts(chain)?;
        Ok(PemSvid {
            chain: certificates.iter().map(|pem| format!("{}\n", pem.trim_end())).collect(),
            key: self.key.serialize_pem(),
            roots: roots.clone(),
            not_before: checked.facts.not_before,
            not_after: checked.facts.not_after,
        })
    }

    fn check(&self, chain: &[String]) -> Result<Checked, TlsError> {
        let (roots, pems) = parts(chain)?;
        let mut certificates = Vec::new();
        for pem in pems {
            certificates.extend(certificates_of(pem)?);
        }
        let leaf = certificates.first().ok_or_else(|| TlsError::malformed("certificate chain", "it has no certificate"))?;
        let facts = Facts::read(leaf)?;
        facts.check(&self.id, &self.key)?;
        let roots = root_store(roots)?;
        // Peers would refuse what does not chain to the roots; better to know it here.
        let intermediates = certificates.get(1..).unwrap_or_default();
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &roots,
            intermediates,
            UnixTime::now(),
            algorithms,
        )
        .map_err(|e| TlsError::malformed("certificate chain", e))?;
        Ok(Checked { facts, certificates, roots })
    }
}

/// An answer of the authority that passed all checks.
struct Checked {
    facts: Facts,
    certificates: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
}

/// A certificate with its key as text, for a proxy that is not ours.
pub struct PemSvid {
    /// Leaf and intermediates, PEM.
    pub chain: String,
    /// Private key, PKCS #8 PEM.
    pub key: String,
    /// The mesh's roots, PEM.
    pub roots: String,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

impl fmt::Debug for PemSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemSvid")
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The root bundle and the certificates of an authority's answer.
fn parts(chain: &[String]) -> Result<(&String, &[String]), TlsError> {
    match chain {
        [] | [_] => Err(TlsError::malformed("certificate chain", "no root came with the certificate")),
        [certificates @ .., roots] => Ok((roots, certificates)),
    }
}

impl fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateRequest").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What we need to know of our own leaf.
struct Facts {
    names: Vec<String>,
    public_key: Vec<u8>,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Facts {
    fn read(leaf: &CertificateDer<'_>) -> Result<Self, TlsError> {
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|e| TlsError::malformed("certificate", e))?;
        Ok(Self {
            names: uri_names(&certificate),
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
            serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before: time_of(certificate.validity().not_before.timestamp()),
            not_after: time_of(certificate.validity().not_after.timestamp()),
        })
    }

    fn check(&self, id: &SpiffeId, key: &KeyPair) -> Result<(), TlsError> {
        if self.names != [id.to_string()] {
            let got = if self.names.is_empty() { "nobody".to_owned() } else { self.names.join(", ") };
            return Err(TlsError::WrongIdentity { expected: id.clone(), got });
        }
        if self.public_key != key.public_key_raw() {
            return Err(TlsError::malformed("certificate", "it is for another key"));
        }
        let now = SystemTime::now();
        if now < self.not_before || now >= self.not_after {
            return Err(TlsError::not_valid(id, (self.not_before, self.not_after), now));
        }
        Ok(())
    }
}

fn time_of(unix_seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix_seconds).unwrap_or(0))
}

/// All certificates of a PEM text.
pub(crate) fn certificates_of(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| TlsError::malformed("PEM certificate", format!("{e:?}")))
}

/// The trust anchors of a PEM text.
pub(crate) fn root_store(pem: &str) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates_of(pem)? {
        store.add(certificate).map_err(|e| TlsError::malformed("root certificate", e))?;
    }
    if store.is_empty() {
        return Err(TlsError::malformed("root certificate", "there is none"));
    }
    Ok(store)
}
