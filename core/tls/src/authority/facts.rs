//! What people are told of a certificate.

use std::time::SystemTime;

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    TlsError,
    svid::{certificates_of, time_of},
};

/// A certificate, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Whose it is, in the usual notation of a distinguished name.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// SHA-256 of the certificate, hexadecimal, lower case.
    pub sha256: String,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

/// The certificates of a PEM text, in its order.
///
/// # Errors
/// When one cannot be read.
pub fn certificates(pem: &str) -> Result<Vec<CertificateFacts>, TlsError> {
    let facts = |der: &[u8]| {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| TlsError::malformed("certificate", error))?;
        Ok(CertificateFacts {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            sha256: sha256(der),
            not_before: time_of(certificate.validity().not_before.timestamp()),
            not_after: time_of(certificate.validity().not_after.timestamp()),
        })
    };
    certificates_of(pem)?.iter().map(|der| facts(der)).collect()
}

/// Hexadecimal, lower case.
pub(super) fn sha256(der: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
