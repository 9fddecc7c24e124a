//! What people are told of a certificate.

use std::time::SystemTime;

use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::{
    TlsError,
    peer::uri_names,
    svid::{certificates_of, time_of},
};

/// A certificate, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Whose it is, in the usual notation of a distinguished name.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Its serial number, hexadecimal, lower case.
    pub serial: String,
    /// The URIs that it is for.
    pub uris: Vec<String>,
    /// The host names that it is for.
    pub hosts: Vec<String>,
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
    certificates_of(pem)?.iter().map(|der| certificate(der)).collect()
}

/// A certificate in DER.
///
/// # Errors
/// When it cannot be read.
pub fn certificate(der: &[u8]) -> Result<CertificateFacts, TlsError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| TlsError::malformed("certificate", error))?;
    Ok(CertificateFacts {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        // A first byte of 0 says no more than that the number is not negative.
        serial: certificate.raw_serial().iter().skip_while(|byte| **byte == 0).map(|byte| format!("{byte:02x}")).collect(),
        uris: uri_names(&certificate),
        hosts: host_names(&certificate),
        sha256: sha256(der),
        not_before: time_of(certificate.validity().not_before.timestamp()),
        not_after: time_of(certificate.validity().not_after.timestamp()),
    })
}

fn host_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let host = |name: &GeneralName<'_>| if let GeneralName::DNSName(host) = name { Some((*host).to_owned()) } else { None };
    names.value.general_names.iter().filter_map(host).collect()
}

/// Hexadecimal, lower case.
pub(super) fn sha256(der: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
