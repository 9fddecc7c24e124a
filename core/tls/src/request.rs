//! Asking an authority for a certificate: the key, the signing request, and the check of the answer.

use std::{fmt, time::SystemTime};

use ambit_identity::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{
    Svid, TlsError,
    svid::{certificates_of, root_store},
};

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
        self.joined(chain, SystemTime::now())
    }

    /// As [`CertificateRequest::complete`], but gives the private key out: for a proxy that is not ours and gets it over its own
    /// interface (Envoy's SDS). Nothing of ours uses it for itself.
    ///
    /// # Errors
    /// As [`CertificateRequest::complete`].
    pub fn complete_pem(self, chain: &[String]) -> Result<PemSvid, TlsError> {
        let svid = self.joined(chain, SystemTime::now())?;
        let (roots, certificates) = parts(chain)?;
        Ok(PemSvid {
            chain: certificates.iter().map(|pem| format!("{}\n", pem.trim_end())).collect(),
            key: self.key.serialize_pem(),
            roots: roots.clone(),
            not_before: svid.not_before(),
            not_after: svid.not_after(),
        })
    }

    /// As [`CertificateRequest::complete`] at `now`, and the request stays.
    pub(crate) fn joined(&self, chain: &[String], now: SystemTime) -> Result<Svid, TlsError> {
        let (roots, pems) = parts(chain)?;
        let mut certificates = Vec::new();
        for pem in pems {
            certificates.extend(certificates_of(pem)?);
        }
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        Svid::assemble_at(&self.id, certificates, key, root_store(roots)?, now)
    }
}

impl fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateRequest").field("id", &self.id).finish_non_exhaustive()
    }
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
