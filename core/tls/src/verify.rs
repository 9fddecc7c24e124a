//! The two verifiers. The chain, validity and signature checks are webpki's; only the name check is ours, by SPIFFE identity.
//!
//! Validity is checked by this machine's clock, without tolerance: the authority dates certificates back
//! ([`crate::authority::BACKDATE`]), and they are renewed at half of their life, so that clocks which differ by minutes refuse nobody.

use std::time::Duration;

use ambit_identity::{SpiffeId, TrustDomain};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    PeerError, Presented, Svid, Trust,
    peer::identity_of,
    provider::provider,
    revocation::{Unlisted, options},
};

/// Checks that a certificate chains to a root that is believed now, and is valid at `now` for this use.
pub(crate) fn verify_chain(
    trust: &Trust,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    usage: KeyUsage,
    now: UnixTime,
) -> Result<(), Error> {
    let certificate = EndEntityCert::try_from(end_entity).map_err(|error| refused(&error))?;
    let algorithms = provider().signature_verification_algorithms.all;
    let (roots, revocations) = (trust.roots(), trust.revocations());
    let lists = revocations.as_ref().map(|revocations| revocations.references()).unwrap_or_default();
    let options = match &revocations {
        Some(revocations) if lists.is_empty() && revocations.unlisted() == Unlisted::Refused => {
            return Err(CertificateError::UnknownRevocationStatus.into());
        }
        Some(revocations) => options(&lists, revocations.unlisted()),
        None => None,
    };
    certificate
        .verify_for_usage(algorithms, &roots.roots, intermediates, now, usage, options, None)
        .map_err(|error| refused(&error))?;
    Ok(())
}

/// Whether a certificate that was believed has been taken back since. Whether its time is over by now is not asked.
pub(crate) fn revoked(trust: &Trust, presented: &Presented) -> bool {
    let ([leaf, intermediates @ ..], Some(lists)) = (&*presented.chain, trust.revocations()) else { return false };
    // Nearly always this says it all; only what a list may name is verified, to learn whether the list is of its authority.
    if !presented.chain.iter().any(|certificate| lists.may_name(certificate)) {
        return false;
    }
    // When it was valid: or else that it is over would be all that is said of it.
    let Some(then) = valid_then(leaf) else { return false };
    matches!(
        verify_chain(trust, leaf, intermediates, KeyUsage::client_auth(), then).or_else(|_| verify_chain(
            trust,
            leaf,
            intermediates,
            KeyUsage::server_auth(),
            then
        )),
        Err(Error::InvalidCertificate(CertificateError::Revoked))
    )
}

/// Now, or the last second of a certificate's validity.
fn valid_then(leaf: &CertificateDer<'_>) -> Option<UnixTime> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let last = u64::try_from(certificate.validity().not_after.timestamp()).ok()?.saturating_sub(1);
    Some(UnixTime::since_unix_epoch(Duration::from_secs(last.min(UnixTime::now().as_secs()))))
}

/// Whether peers that believe what we believe still believe our own certificate. That no list says so is no fault of it.
pub(crate) fn believed(svid: &Svid) -> bool {
    let (leaf, intermediates) = match svid.chain() {
        [leaf, intermediates @ ..] => (leaf, intermediates),
        [] => return false,
    };
    let verified = verify_chain(svid.trust(), leaf, intermediates, KeyUsage::server_auth(), UnixTime::now());
    !matches!(
        verified,
        Err(Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature | CertificateError::Revoked
        ))
    )
}

/// What webpki says, in the words of rustls, which knows the alert for each.
fn refused(error: &webpki::Error) -> Error {
    let error = match error {
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => CertificateError::BadEncoding,
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time: *time, not_before: *not_before }
        }
        webpki::Error::CertExpired { time, not_after } => CertificateError::ExpiredContext { time: *time, not_after: *not_after },
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::CertRevoked => CertificateError::Revoked,
        webpki::Error::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        webpki::Error::CrlExpired { time, next_update } => {
            CertificateError::ExpiredRevocationListContext { time: *time, next_update: *next_update }
        }
        webpki::Error::InvalidCrlSignatureForPublicKey | webpki::Error::IssuerNotCrlSigner => {
            return PeerError::RevocationUnknown("the list of its authority is not signed by it".to_owned()).into();
        }
        other => return PeerError::BadCertificate(other.to_string()).into(),
    };
    error.into()
}

/// A client's check of the server: under the mesh's roots, and one of the expected identities.
#[derive(Debug)]
pub(crate) struct ServerIdentityVerifier {
    trust: Trust,
    expected: Vec<SpiffeId>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerIdentityVerifier {
    pub(crate) fn new(trust: Trust, expected: Vec<SpiffeId>) -> Self {
        Self { trust, expected, algorithms: provider().signature_verification_algorithms }
    }
}

impl ServerCertVerifier for ServerIdentityVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_chain(&self.trust, end_entity, intermediates, KeyUsage::server_auth(), now)?;
        let got = identity_of(end_entity)?;
        if !self.expected.contains(&got) {
            return Err(PeerError::UnexpectedIdentity { got, expected: self.expected.clone() }.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A server's check of the client: a certificate under the mesh's roots, from one of the accepted trust domains.
#[derive(Debug)]
pub(crate) struct ClientIdentityVerifier {
    trust: Trust,
    accepted: Vec<TrustDomain>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientIdentityVerifier {
    pub(crate) fn new(trust: Trust, accepted: Vec<TrustDomain>) -> Self {
        Self { trust, accepted, algorithms: provider().signature_verification_algorithms }
    }
}

impl ClientCertVerifier for ClientIdentityVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        verify_chain(&self.trust, end_entity, intermediates, KeyUsage::client_auth(), now)?;
        let got = identity_of(end_entity)?;
        if !self.accepted.contains(got.trust_domain()) {
            let reason = PeerError::WrongTrustDomain { got: got.trust_domain().clone(), expected: self.accepted.clone() };
            return Err(reason.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
