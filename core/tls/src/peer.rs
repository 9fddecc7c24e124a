//! Why a peer was refused, and who an accepted peer is.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use ambit_identity::{SpiffeId, TrustDomain};
use rustls::{
    AlertDescription, CertificateError, CommonState,
    pki_types::{CertificateDer, UnixTime},
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::clock;

/// Why a TLS handshake with a peer failed. The text is one sentence for a log; [`PeerError::label`] is for a metric.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The client sent no certificate.
    #[error("no client certificate")]
    NoCertificate,
    /// The certificate does not chain to the roots of the mesh.
    #[error("unknown authority: the certificate is not under the roots of this mesh")]
    UnknownAuthority,
    /// The certificate's validity is over.
    #[error("expired certificate: it expired {} ago{}", clock::whole(*ago), clock::hint(*ago))]
    Expired {
        /// For how long, by our clock.
        ago: Duration,
    },
    /// The certificate's validity has not begun.
    #[error("certificate is not valid yet: it will be in {}{}", clock::whole(*left), clock::hint(*left))]
    NotYetValid {
        /// In what time it does, by our clock.
        left: Duration,
    },
    /// The certificate is from another trust domain.
    #[error("trust domain \"{got}\" is not {}", quoted(expected))]
    WrongTrustDomain {
        /// The peer's trust domain.
        got: TrustDomain,
        /// Ours, and its aliases.
        expected: Vec<TrustDomain>,
    },
    /// The server is in the mesh but is not the workload that was called.
    #[error("identity {got} is not one of {}", listed(expected))]
    UnexpectedIdentity {
        /// Who answered.
        got: SpiffeId,
        /// Who was expected.
        expected: Vec<SpiffeId>,
    },
    /// The certificate, or one above it, was taken back by its authority.
    #[error("revoked certificate: its authority has taken it back")]
    Revoked,
    /// It cannot be said whether the certificate was taken back, and then it is refused.
    #[error("revocation unknown: {0}")]
    RevocationUnknown(String),
    /// The certificate names no workload: no URI SAN, several, or one of another form.
    #[error("the certificate has no SPIFFE identity: {0}")]
    NoIdentity(String),
    /// The certificate or the proof of its key is wrong in another way.
    #[error("bad certificate: {0}")]
    BadCertificate(String),
    /// The peer refused us; its alert says why.
    #[error("the peer refused our certificate: {0}")]
    Refused(String),
    /// The peer and we do not share a protocol: version, suite or ALPN.
    #[error("no common protocol: {0}")]
    Incompatible(String),
    /// The bytes are not TLS.
    #[error("not TLS: {0}")]
    NotTls(String),
    /// The peer closed the connection in the handshake.
    #[error("the peer closed the connection during the TLS handshake")]
    Closed,
    /// The handshake took too long.
    #[error("the TLS handshake took too long")]
    TimedOut,
}

impl PeerError {
    /// A stable word for metrics and logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_client_certificate",
            Self::UnknownAuthority => "unknown_authority",
            Self::Expired { .. } => "certificate_expired",
            Self::NotYetValid { .. } => "certificate_not_yet_valid",
            Self::Revoked => "certificate_revoked",
            Self::RevocationUnknown(_) => "revocation_unknown",
            Self::WrongTrustDomain { .. } => "wrong_trust_domain",
            Self::UnexpectedIdentity { .. } => "unexpected_identity",
            Self::NoIdentity(_) => "no_identity",
            Self::BadCertificate(_) => "bad_certificate",
            Self::Refused(_) => "refused_by_peer",
            Self::Incompatible(_) => "no_common_protocol",
            Self::NotTls(_) => "not_tls",
            Self::Closed => "handshake_closed",
            Self::TimedOut => "handshake_timeout",
        }
    }

    /// Finds the reason in a failed handshake's error, or in an error of the connection after it: with TLS 1.3 a client learns
    /// only then that the server refused its certificate.
    #[must_use]
    pub fn from_io(error: &io::Error) -> Option<Self> {
        Self::from_error(error)
    }

    /// As [`PeerError::from_io`], for any error: walks down its causes.
    #[must_use]
    pub fn from_error(error: &(dyn Error + 'static)) -> Option<Self> {
        // An error that names itself as its cause must not hold us here.
        const DEPTH: usize = 16;
        let mut at = Some(error);
        for _ in 0..DEPTH {
            let here = at?;
            if let Some(found) = here.downcast_ref::<Self>() {
                return Some(found.clone());
            }
            if let Some(tls) = here.downcast_ref::<rustls::Error>() {
                return Some(Self::from(tls));
            }
            // `source` of an io::Error skips the error that it wraps.
            at = match here.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => here.source(),
            };
        }
        None
    }
}

impl From<&rustls::Error> for PeerError {
    fn from(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::InvalidCertificate(why) => why.into(),
            rustls::Error::AlertReceived(alert) => alert_reason(*alert),
            rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => Self::Incompatible(error.to_string()),
            _ => Self::NotTls(error.to_string()),
        }
    }
}

impl From<&CertificateError> for PeerError {
    fn from(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired => Self::Expired { ago: Duration::ZERO },
            CertificateError::ExpiredContext { time, not_after } => Self::Expired { ago: between(*not_after, *time) },
            CertificateError::NotValidYet => Self::NotYetValid { left: Duration::ZERO },
            CertificateError::NotValidYetContext { time, not_before } => Self::NotYetValid { left: between(*time, *not_before) },
            CertificateError::Revoked => Self::Revoked,
            CertificateError::UnknownRevocationStatus => {
                Self::RevocationUnknown("there is no revocation list of its authority".to_owned())
            }
            CertificateError::ExpiredRevocationListContext { time, next_update } => {
                let ago = between(*next_update, *time);
                Self::RevocationUnknown(format!("the list of its authority was to be replaced {} ago", clock::whole(ago)))
            }
            // A root with the same name but another key: the chain ends at an authority that is not ours.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
            CertificateError::Other(other) => match other.0.downcast_ref::<Self>() {
                Some(reason) => reason.clone(),
                None => Self::BadCertificate(other.0.to_string()),
            },
            _ => Self::BadCertificate(error.to_string()),
        }
    }
}

impl From<PeerError> for rustls::Error {
    fn from(reason: PeerError) -> Self {
        CertificateError::Other(rustls::OtherError(Arc::new(reason))).into()
    }
}

impl From<PeerError> for io::Error {
    fn from(reason: PeerError) -> Self {
        let kind = match reason {
            PeerError::TimedOut => io::ErrorKind::TimedOut,
            PeerError::Closed => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, reason)
    }
}

/// What the peer's alert says (RFC 8446, section 6.2).
fn alert_reason(alert: AlertDescription) -> PeerError {
    let text = match alert {
        AlertDescription::CertificateRequired => "it requires one",
        AlertDescription::UnknownCA => "it is from an authority unknown to the peer",
        AlertDescription::CertificateExpired => "it is expired or not yet valid by the peer's clock",
        AlertDescription::CertificateRevoked => "it is revoked",
        AlertDescription::BadCertificate | AlertDescription::UnsupportedCertificate => "the peer finds it malformed",
        AlertDescription::DecryptError => "the proof of its key failed",
        AlertDescription::AccessDenied | AlertDescription::CertificateUnknown => "our identity is not accepted there",
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity
        | AlertDescription::NoApplicationProtocol => {
            return PeerError::Incompatible(format!("the peer sent the alert {alert:?}"));
        }
        other => return PeerError::Refused(format!("the alert was {other:?}")),
    };
    PeerError::Refused(format!("{text} (alert {alert:?})"))
}

/// The certificates that a peer has proven to be its own, leaf first.
#[derive(Debug, Clone)]
pub struct Presented {
    pub(crate) chain: Arc<[CertificateDer<'static>]>,
}

impl Presented {
    /// What the peer of this connection has presented.
    pub(crate) fn by(connection: &CommonState) -> Self {
        Self {
            chain: connection.peer_certificates().unwrap_or_default().iter().cloned().map(CertificateDer::into_owned).collect(),
        }
    }
}

/// Who the peer of an established connection is.
///
/// # Errors
/// When the connection has no peer certificate, or it names no workload.
pub fn peer_identity(connection: &CommonState) -> Result<SpiffeId, PeerError> {
    let leaf = connection.peer_certificates().and_then(<[_]>::first).ok_or(PeerError::NoCertificate)?;
    identity_of(leaf)
}

/// The one SPIFFE identity of a certificate (X.509-SVID standard, section 2: exactly one URI SAN).
pub(crate) fn identity_of(leaf: &CertificateDer<'_>) -> Result<SpiffeId, PeerError> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|e| PeerError::BadCertificate(e.to_string()))?;
    let names = uri_names(&certificate);
    match names.as_slice() {
        [] => Err(PeerError::NoIdentity("it has no URI name".to_owned())),
        [one] => one.parse().map_err(|e| PeerError::NoIdentity(format!("{one:?} is {e}"))),
        several => Err(PeerError::NoIdentity(format!("it has {} URI names", several.len()))),
    }
}

/// All URI names of a certificate.
pub(crate) fn uri_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let uri = |name: &GeneralName<'_>| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None };
    names.value.general_names.iter().filter_map(uri).collect()
}

fn between(from: UnixTime, to: UnixTime) -> Duration {
    Duration::from_secs(to.as_secs().saturating_sub(from.as_secs()))
}

fn quoted(names: &[TrustDomain]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" or ")
}

fn listed(ids: &[impl fmt::Display]) -> String {
    match ids {
        [] => "nobody".to_owned(),
        ids => ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}
