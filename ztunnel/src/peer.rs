//! What went wrong with a peer, as a reason, and how a refusal crosses the tunnel.

use ambit_model::{Reason, Refusal, policy::PolicyKey};
use ambit_tls::PeerError;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

const REASON: HeaderName = HeaderName::from_static("x-ambit-reason");
const POLICY: HeaderName = HeaderName::from_static("x-ambit-policy");

/// The reason code of a failed handshake.
#[must_use]
pub fn reason(error: &PeerError) -> Reason {
    match error {
        PeerError::NoCertificate => Reason::PeerNoCertificate,
        PeerError::UnknownAuthority => Reason::PeerUntrusted,
        PeerError::Expired { .. } => Reason::PeerExpired,
        PeerError::NotYetValid { .. } => Reason::PeerNotYetValid,
        PeerError::Revoked => Reason::PeerRevoked,
        PeerError::RevocationUnknown(_) => Reason::PeerRevocationUnknown,
        PeerError::WrongTrustDomain { .. } => Reason::PeerTrustDomain,
        PeerError::UnexpectedIdentity { .. } => Reason::PeerIdentityMismatch,
        PeerError::NoIdentity(_) => Reason::PeerIdentityInvalid,
        PeerError::TimedOut => Reason::TlsHandshakeTimeout,
        PeerError::NotTls(_)
        | PeerError::BadCertificate(_)
        | PeerError::Refused(_)
        | PeerError::Incompatible(_)
        | PeerError::Closed => Reason::TlsHandshakeFailed,
    }
}

/// The status of an answer that refuses a CONNECT for `reason` (wire contract, section 4).
#[must_use]
pub fn status(reason: Reason) -> StatusCode {
    match reason {
        _ if reason.is_policy() => StatusCode::UNAUTHORIZED,
        Reason::AuthorityInvalid | Reason::AuthorityNotThisPod | Reason::LoopGuard | Reason::NotConnect => {
            StatusCode::BAD_REQUEST
        }
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The headers that tell the other side why.
#[must_use]
pub fn write_refusal(refusal: &Refusal) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(REASON, HeaderValue::from_static(refusal.reason.label()));
    if let Some(Ok(policy)) = refusal.policy.as_ref().map(|policy| HeaderValue::from_str(&policy.to_string())) {
        headers.insert(POLICY, policy);
    }
    headers
}

/// Why the other side refused: what its headers say, or what its status means when it says nothing.
#[must_use]
pub fn read_refusal(status: StatusCode, headers: &HeaderMap) -> Refusal {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let said = text(REASON).and_then(Reason::from_label).filter(|reason| *reason != Reason::Ok);
    let reason = said.unwrap_or(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Reason::PolicyDeniedExplicit,
        StatusCode::BAD_REQUEST => Reason::AuthorityNotThisPod,
        StatusCode::GATEWAY_TIMEOUT => Reason::UpstreamTimeout,
        StatusCode::SERVICE_UNAVAILABLE => Reason::UpstreamUnreachable,
        _ => Reason::TunnelFailed,
    });
    let mut refusal = Refusal::new(reason, format!("the destination answered {}", status.as_u16()));
    // A peer names the policy; that it is well-formed is all that can be known here.
    refusal.policy = text(POLICY).and_then(|policy| policy.parse::<PolicyKey>().ok());
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_arrives_with_its_reason_and_policy() {
        let refusal = Refusal::new(Reason::PolicyDeniedExplicit, "").by(PolicyKey::new("shop", "no-web"), Some(0));
        let read = read_refusal(status(refusal.reason), &write_refusal(&refusal));
        assert_eq!((read.reason, read.policy), (refusal.reason, refusal.policy));
    }

    #[test]
    fn a_refusal_without_words_is_read_from_its_status() {
        let check = |status: StatusCode, reason| assert_eq!(read_refusal(status, &HeaderMap::new()).reason, reason);
        check(StatusCode::UNAUTHORIZED, Reason::PolicyDeniedExplicit);
        check(StatusCode::SERVICE_UNAVAILABLE, Reason::UpstreamUnreachable);
        check(StatusCode::IM_A_TEAPOT, Reason::TunnelFailed);
    }

    #[test]
    fn a_peer_cannot_call_its_refusal_a_success_or_invent_a_reason() {
        for said in ["ok", "everything_is_fine"] {
            let mut headers = HeaderMap::new();
            headers.insert(REASON, HeaderValue::from_static(said));
            assert_eq!(read_refusal(StatusCode::UNAUTHORIZED, &headers).reason, Reason::PolicyDeniedExplicit);
        }
    }
}
