//! A workload's certificate.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ambit_identity::SpiffeId;
use rustls::{
    Error, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    pki_types::{CertificateDer, UnixTime},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
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
    /// Puts together what a source has handed over: `chain` with the leaf first, the leaf's key, and the roots that peers are
    /// believed under.
    ///
    /// # Errors
    /// When the leaf is for another identity or another key, it is not valid now, or peers would refuse it because it does not chain to
    /// the roots.
    pub(crate) fn assemble(
        id: &SpiffeId,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: RootCertStore,
    ) -> Result<Self, TlsError> {
        Self::assemble_at(id, chain, key, roots, SystemTime::now())
    }

    /// The same by another clock.
    pub(crate) fn assemble_at(
        id: &SpiffeId,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: RootCertStore,
        now: SystemTime,
    ) -> Result<Self, TlsError> {
        let [leaf, intermediates @ ..] = chain.as_slice() else {
            return Err(TlsError::malformed("certificate chain", "it has no certificate"));
        };
        let Facts { names, serial, not_before, not_after } = Facts::read(leaf)?;
        if names != [id.to_string()] {
            let got = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
            return Err(TlsError::WrongIdentity { expected: id.clone(), got });
        }
        if now < not_before || now >= not_after {
            return Err(TlsError::not_valid(id, (not_before, not_after), now));
        }
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &roots,
            intermediates,
            UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()),
            provider().signature_verification_algorithms.all,
        )
        .map_err(|e| TlsError::malformed("certificate chain", e))?;
        let key = CertifiedKey::new(chain, provider().key_provider.load_private_key(key)?);
        key.keys_match().map_err(|error| match error {
            Error::InconsistentKeys(_) => TlsError::malformed("certificate", "it is for another key"),
            other => other.into(),
        })?;
        Ok(Self { id: id.clone(), key: Arc::new(key), trust: Trust::new(Arc::new(roots)), serial, not_before, not_after })
    }

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

/// What we need to know of our own leaf.
struct Facts {
    names: Vec<String>,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Facts {
    fn read(leaf: &CertificateDer<'_>) -> Result<Self, TlsError> {
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|e| TlsError::malformed("certificate", e))?;
        Ok(Self {
            names: uri_names(&certificate),
            serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before: time_of(certificate.validity().not_before.timestamp()),
            not_after: time_of(certificate.validity().not_after.timestamp()),
        })
    }
}

/// A time of a certificate.
pub(crate) fn time_of(unix_seconds: i64) -> SystemTime {
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
