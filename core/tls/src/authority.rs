//! A certificate authority: with a self-signed root, kept in memory or in two files, or out of [`Material`] that somebody else keeps.

mod facts;
mod local;
mod material;

pub use facts::{CertificateFacts, certificate, certificates};
pub use local::LocalSource;
pub use material::{Material, Part, Unusable, blocks};

use std::{
    fmt,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use ambit_identity::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{TlsError, files, svid::time_of};

/// How long a workload's certificate lives unless asked otherwise (wire contract, section 3).
pub const DEFAULT_LIFETIME: Duration = Duration::from_hours(24);
/// How far back validity begins, for peers whose clock is behind the authority's. Clocks of the mesh may differ by half of this.
pub const BACKDATE: Duration = Duration::from_mins(10);
const ROOT_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
/// File of the root's private key in the state directory.
pub const KEY_FILE: &str = "root-key.pem";
/// File of the root certificate in the state directory.
pub const CERTIFICATE_FILE: &str = "root-cert.pem";

/// File of further roots in the state directory, PEM: the next one, before it signs, or the last one, while its certificates live.
pub const FURTHER_ROOTS_FILE: &str = "further-roots.pem";

/// A key that signs certificates of workloads and of the control plane itself: that of a root, or of an authority below one.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Certificates between a leaf and the root, PEM, from below; none when the root signs itself.
    intermediates: Vec<String>,
    /// When the last of the certificates above a leaf begins.
    not_before: SystemTime,
    /// When the first of the certificates above a leaf ends: no leaf outlives it.
    not_after: SystemTime,
    root_pem: String,
    /// [`Self::root_pem`], and the further roots that are believed.
    bundle: String,
    max_lifetime: Duration,
    backdate: Duration,
}

/// A certificate for a server that is known by DNS names or addresses, with its key: the control plane's own.
pub struct ServingCertificate {
    /// Leaf certificate and those between it and the root, PEM.
    pub certificate_pem: String,
    /// Private key, PEM (PKCS #8).
    pub key_pem: String,
}

impl fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServingCertificate").finish_non_exhaustive()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("max_lifetime", &self.max_lifetime)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A new root in memory.
    ///
    /// # Errors
    /// When a key cannot be generated.
    pub fn create(trust_domain: &TrustDomain) -> Result<Self, TlsError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let root = self_signed(&key, trust_domain)?;
        Self::from_pem(&root, key)
    }

    /// The root kept in `directory` (`root-key.pem`, readable by the owner only, and `root-cert.pem`); made when it is not there.
    ///
    /// # Errors
    /// When the files cannot be read or written, or do not belong together.
    pub fn load_or_create(directory: &Path, trust_domain: &TrustDomain) -> Result<Self, TlsError> {
        let key_pem = files::create_or_read(&directory.join(KEY_FILE), files::SECRET, || {
            Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem())
        })?;
        let key = KeyPair::from_pem(&key_pem)?;
        let root = files::create_or_read(&directory.join(CERTIFICATE_FILE), files::PUBLIC, || self_signed(&key, trust_domain))?;
        let authority = Self::from_pem(&root, key)?;
        let further = directory.join(FURTHER_ROOTS_FILE);
        if further.exists() { authority.with_further_roots(&files::read(&further)?) } else { Ok(authority) }
    }

    /// Has the mesh believe these roots too (PEM). Roots change in three steps, each at least one lifetime of a certificate after the
    /// one before: the old root signs and both are believed; the new root signs and both are believed; only the new root is left.
    ///
    /// # Errors
    /// When one of them is no certificate.
    pub fn with_further_roots(mut self, pem: &str) -> Result<Self, TlsError> {
        crate::svid::root_store(pem)?;
        self.bundle = format!("{}\n{}", self.root_pem.trim_end(), pem);
        Ok(self)
    }

    fn from_pem(root_pem: &str, key: KeyPair) -> Result<Self, TlsError> {
        let der = CertificateDer::from_pem_slice(root_pem.as_bytes())
            .map_err(|e| TlsError::malformed("root certificate", format!("{e:?}")))?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|e| TlsError::malformed("root certificate", e))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(TlsError::malformed("root certificate", "it does not belong to the root key"));
        }
        let not_before = time_of(parsed.validity().not_before.timestamp());
        let not_after = time_of(parsed.validity().not_after.timestamp());
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        let (root_pem, bundle) = (root_pem.to_owned(), root_pem.to_owned());
        let (max_lifetime, backdate) = (DEFAULT_LIFETIME, BACKDATE);
        Ok(Self { issuer, intermediates: Vec::new(), not_before, not_after, root_pem, bundle, max_lifetime, backdate })
    }

    /// Has the mesh believe the roots in `bundle` (PEM) instead of those that the authority came with. The one that it signs under has to be
    /// among them, or its own certificates would not be believed.
    ///
    /// # Errors
    /// When one of them is no certificate.
    pub fn with_bundle(mut self, bundle: &str) -> Result<Self, TlsError> {
        crate::svid::root_store(bundle)?;
        bundle.clone_into(&mut self.bundle);
        Ok(self)
    }

    /// Lowers or raises the longest lifetime that [`Authority::sign`] grants (24 h unless set).
    #[must_use]
    pub fn with_max_lifetime(mut self, lifetime: Duration) -> Self {
        self.max_lifetime = lifetime;
        self
    }

    /// Changes how far back validity begins ([`BACKDATE`] unless set).
    #[must_use]
    pub fn with_backdate(mut self, backdate: Duration) -> Self {
        self.backdate = backdate;
        self
    }

    /// The certificate of the root that signs, PEM.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// When the certificates that this authority signs are believed at the earliest, by exact clocks.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// When the certificates that this authority signs end at the latest.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// All roots that are believed, PEM.
    #[must_use]
    pub fn bundle_pem(&self) -> &str {
        &self.bundle
    }

    /// Signs a PEM request for `id`. The signature on the request is checked; of its content only the public key is used, the name
    /// is `id`. The lifetime is `lifetime`, or the default, and never more than the longest allowed, nor than what is left of the
    /// authority's own. Answers the chain as the certificate service sends it: leaf first, each intermediate its own string, the
    /// roots last.
    ///
    /// # Errors
    /// When the request does not parse, its signature is wrong, or it asks for a name other than `id`; when the authority's own
    /// time is over.
    pub fn sign(&self, csr_pem: &str, id: &SpiffeId, lifetime: Option<Duration>) -> Result<Vec<String>, TlsError> {
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|e| TlsError::malformed("certificate signing request", e))?;
        let wanted = SanType::URI(id.to_string().as_str().try_into()?);
        if request.params.subject_alt_names.iter().any(|name| *name != wanted) {
            let detail = format!("it asks for {:?}, allowed is {id}", request.params.subject_alt_names);
            return Err(TlsError::malformed("certificate signing request", detail));
        }
        let lifetime = lifetime.filter(|l| !l.is_zero()).unwrap_or(DEFAULT_LIFETIME).min(self.max_lifetime);
        let both = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        request.params = self.leaf(vec![wanted], both, lifetime)?;
        let mut chain = vec![request.signed_by(&self.issuer)?.pem()];
        chain.extend(self.intermediates.iter().cloned());
        chain.push(self.bundle.clone());
        Ok(chain)
    }

    /// A certificate and key for a server with these names, each a DNS name or an IP address.
    ///
    /// # Errors
    /// When a name is not one, a key cannot be generated, or the authority's own time is over.
    pub fn serving_certificate(&self, names: &[String], lifetime: Duration) -> Result<ServingCertificate, TlsError> {
        let mut alternatives = Vec::new();
        for name in names {
            alternatives.push(match name.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = self.leaf(alternatives, vec![ExtendedKeyUsagePurpose::ServerAuth], lifetime)?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok(ServingCertificate { certificate_pem: leaf.pem() + &self.intermediates.concat(), key_pem: key.serialize_pem() })
    }

    /// A revocation list with these serial numbers (hexadecimal, [`crate::Svid::serial`]), PEM, that is to be replaced within `lifetime`.
    ///
    /// # Errors
    /// When a serial number is none.
    pub fn revocation_list(&self, serials: &[&str], lifetime: Duration) -> Result<String, TlsError> {
        let now = SystemTime::now();
        let revoked = |hex: &&str| {
            let byte = |at| hex.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
            let serial = bytes.ok_or_else(|| TlsError::malformed("serial number", hex))?;
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&serial),
                revocation_time: now.into(),
                reason_code: None,
                invalidity_date: None,
            })
        };
        let list = CertificateRevocationListParams {
            this_update: (now - self.backdate).into(),
            next_update: (now + lifetime).into(),
            crl_number: serial(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect::<Result<_, TlsError>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }

    fn leaf(
        &self,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        lifetime: Duration,
    ) -> Result<CertificateParams, TlsError> {
        let now = SystemTime::now();
        if self.not_after <= now {
            return Err(TlsError::malformed("certificate of the authority", "it has expired, so nothing can be signed"));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial());
        params.not_before = (now - self.backdate).into();
        params.not_after = (now + lifetime).min(self.not_after).into();
        Ok(params)
    }
}

fn self_signed(key: &KeyPair, trust_domain: &TrustDomain) -> Result<String, TlsError> {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
    // Roots of several meshes must not look alike: a chain is followed by name.
    params.distinguished_name.push(DnType::CommonName, format!("Ambit root {}", root_name(key)));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial());
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + ROOT_LIFETIME).into();
    Ok(params.self_signed(key)?.pem())
}

/// A short name of a key.
fn root_name(key: &KeyPair) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.public_key_raw());
    digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Unpredictable, positive, and within the 20 octets of RFC 5280, section 4.1.2.2.
fn serial() -> SerialNumber {
    let mut bytes = [0u8; 16];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        fastrand::fill(&mut bytes);
    }
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    SerialNumber::from_slice(&bytes)
}
