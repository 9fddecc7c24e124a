//! The two verifiers. The chain, validity and signature checks are webpki's; only the name check is ours, by SPIFFE identity.

use std::sync::Arc;

use ambit_identity::{SpiffeId, TrustDomain};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::{PeerError, TlsError, peer::identity_of, provider::provider};

/// A client's check of the server: under the mesh's roots, and one of the expected identities.
#[derive(Debug)]
pub(crate) struct ServerIdentityVerifier {
    roots: Arc<RootCertStore>,
    expected: Vec<SpiffeId>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerIdentityVerifier {
    pub(crate) fn new(roots: Arc<RootCertStore>, expected: Vec<SpiffeId>) -> Self {
        Self { roots, expected, algorithms: provider().signature_verification_algorithms }
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
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)?;
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
    chain: Arc<dyn ClientCertVerifier>,
    accepted: Vec<TrustDomain>,
}

impl ClientIdentityVerifier {
    pub(crate) fn new(roots: Arc<RootCertStore>, accepted: Vec<TrustDomain>) -> Result<Self, TlsError> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .clear_root_hint_subjects()
            .build()
            .map_err(|e| TlsError::Configuration(e.to_string()))?;
        Ok(Self { chain, accepted })
    }
}

impl ClientCertVerifier for ClientIdentityVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let got = identity_of(end_entity)?;
        if !self.accepted.contains(got.trust_domain()) {
            let reason = PeerError::WrongTrustDomain { got: got.trust_domain().clone(), expected: self.accepted.clone() };
            return Err(reason.into());
        }
        Ok(verified)
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
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
