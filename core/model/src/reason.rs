//! Why a connection or a request ended as it did: one code for each cause, the same in the access log, the metric label, the header
//! on the tunnel, and what `ambit explain` prints.

use std::fmt;

pub mod dry_run;

use serde::{Serialize, Serializer};

use crate::policy::PolicyKey;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident => $label:literal,)*) => {
        /// One code for each way a connection or a request can end. The labels are a public contract.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[doc = $doc])* $name,)*
        }

        impl Reason {
            /// Every reason there is, for documentation and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable text of this reason.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// One sentence that says what happened, for people.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self {
                    $(Self::$name => reasons!(@doc $($doc)*),)*
                }
            }
        }
    };
    (@doc $first:literal $($rest:literal)*) => { concat!($first $(, $rest)*) };
}

reasons! {
    /// Nothing was refused.
    Ok => "ok",
    /// A DENY policy matched.
    PolicyDeniedExplicit => "policy_denied_explicit",
    /// ALLOW policies apply and none of their rules matched.
    PolicyDeniedNoAllowMatch => "policy_denied_no_allow_match",
    /// A policy that must hold is not known to this proxy or could not be read, so nothing is allowed.
    PolicyUnknown => "policy_unknown",
    /// The destination takes mutual TLS only and the connection came in plain text.
    StrictMtlsRequired => "strict_mtls_required",
    /// The workload that opens the connection is not known to this proxy.
    SourceUnknown => "source_unknown",
    /// The workload that the connection is for is not known to this proxy.
    DestinationUnknown => "destination_unknown",
    /// The destination resolves to the proxy itself.
    UnknownDestinationLoop => "unknown_destination_loop",
    /// The destination is one of the proxy's own ports.
    LoopGuard => "loop_guard",
    /// The service has no such port.
    ServicePortUnknown => "service_port_unknown",
    /// The service has no healthy endpoint that may be used.
    NoHealthyEndpoint => "no_healthy_endpoint",
    /// The host name of the destination does not resolve.
    DestinationUnresolved => "destination_unresolved",
    /// The waypoint that the destination requires is not known.
    WaypointMissing => "waypoint_missing",
    /// The waypoint that the destination requires does not answer.
    WaypointUnreachable => "waypoint_unreachable",
    /// The network of the destination is reached through a gateway that is not known.
    NetworkGatewayMissing => "network_gateway_missing",
    /// The peer's certificate has another identity than the one expected.
    PeerIdentityMismatch => "peer_identity_mismatch",
    /// The peer gave no certificate.
    PeerNoCertificate => "peer_no_certificate",
    /// The peer's certificate is not signed by the mesh's authority.
    PeerUntrusted => "peer_untrusted",
    /// The peer's certificate has expired.
    PeerExpired => "peer_expired",
    /// The peer's certificate is not valid yet.
    PeerNotYetValid => "peer_not_yet_valid",
    /// The peer's certificate was taken back by its authority.
    PeerRevoked => "peer_revoked",
    /// It is not known whether the peer's certificate was taken back.
    PeerRevocationUnknown => "peer_revocation_unknown",
    /// The peer belongs to another trust domain.
    PeerTrustDomain => "peer_trust_domain",
    /// The peer's certificate has no usable SPIFFE identity.
    PeerIdentityInvalid => "peer_identity_invalid",
    /// The TLS handshake failed.
    TlsHandshakeFailed => "tls_handshake_failed",
    /// The TLS handshake took too long.
    TlsHandshakeTimeout => "tls_handshake_timeout",
    /// The peer does not begin to speak HTTP/2, or answers no ping.
    TunnelTimeout => "tunnel_timeout",
    /// The peer does not speak HTTP/2 as the tunnel requires.
    TunnelProtocolError => "tunnel_protocol_error",
    /// The tunnel to the peer was refused or broke before it was open.
    TunnelFailed => "tunnel_failed",
    /// The request on the tunnel is not a CONNECT.
    NotConnect => "not_connect",
    /// The authority of the CONNECT is not an address and a port.
    AuthorityInvalid => "authority_invalid",
    /// The authority of the CONNECT is not an address of this pod.
    AuthorityNotThisPod => "authority_not_this_pod",
    /// The upstream refused the connection.
    UpstreamRefused => "upstream_refused",
    /// The upstream did not answer in time.
    UpstreamTimeout => "upstream_timeout",
    /// The upstream could not be reached.
    UpstreamUnreachable => "upstream_unreachable",
    /// The upstream broke the connection.
    UpstreamReset => "upstream_reset",
    /// The upstream reset the stream of the request, and kept the connection.
    UpstreamStreamReset => "upstream_stream_reset",
    /// The upstream gave the stream of the request back, unseen.
    UpstreamStreamRefused => "upstream_stream_refused",
    /// The upstream's answer breaks its protocol.
    UpstreamProtocolError => "upstream_protocol_error",
    /// The client broke the connection.
    ClientReset => "client_reset",
    /// The client reset the stream of the request, and kept the connection.
    ClientStreamReset => "client_stream_reset",
    /// The connection carried nothing for longer than is allowed.
    IdleTimeout => "idle_timeout",
    /// One side has ended, and the other carried nothing for longer than is allowed.
    HalfOpenTimeout => "half_open_timeout",
    /// The request and its response carried nothing for longer than their route allows.
    StreamIdleTimeout => "stream_idle_timeout",
    /// The stream lasted longer than its route allows.
    StreamTimeout => "stream_timeout",
    /// The request took longer than is allowed.
    RequestTimeout => "request_timeout",
    /// The request breaks its protocol.
    RequestInvalid => "request_invalid",
    /// What came in the place of a request cannot be read as one.
    RequestUnreadable => "request_unreadable",
    /// The request brings a token that is not believed.
    TokenInvalid => "token_invalid",
    /// An external authorizer denied the request.
    ExtAuthzDenied => "ext_authz_denied",
    /// An external authorizer was to be asked about the request, and did not answer as it should.
    ExtAuthzError => "ext_authz_error",
    /// An external processor answered the request itself.
    ExtProcAnswered => "ext_proc_answered",
    /// An external processor was to be told of the request, and did not answer as it should.
    ExtProcError => "ext_proc_error",
    /// The request or its headers are larger than is allowed.
    RequestTooLarge => "request_too_large",
    /// No listener takes this destination.
    ListenerNotFound => "listener_not_found",
    /// No route matches the request.
    RouteNotFound => "route_not_found",
    /// The route answers by itself.
    RouteDirectResponse => "route_direct_response",
    /// The route names a backend that cannot be used.
    BackendInvalid => "backend_invalid",
    /// A fault was put in place of the answer, as its route is told to.
    FaultInjected => "fault_injected",
    /// More requests came than a limit allows.
    RateLimited => "rate_limited",
    /// A rate limit server was to be asked about the request, and did not answer as it should.
    RateLimitError => "rate_limit_error",
    /// The service takes longer with so many requests at once, and no more are let in.
    Overloaded => "overloaded",
    /// A policy at layer 7 denied the request.
    RbacDenied => "rbac_denied",
    /// The configuration for this request could not be compiled, so it is refused.
    ConfigurationInvalid => "configuration_invalid",
    /// Too many connections.
    ConnectionLimit => "connection_limit",
    /// The proxy has no file descriptor left for the connection.
    DescriptorLimit => "descriptor_limit",
    /// Too many bytes wait in the proxy that nobody reads.
    MemoryLimit => "memory_limit",
    /// Too many requests in flight.
    RequestLimit => "request_limit",
    /// The cluster has as many connections or requests as it may have.
    ClusterOverloaded => "cluster_overloaded",
    /// The proxy is shutting down.
    Draining => "draining",
    /// The proxy has no certificate for this workload.
    CertificateUnavailable => "certificate_unavailable",
    /// The proxy failed by itself.
    Internal => "internal",
}

impl Reason {
    /// The reason with this label, when there is one.
    #[must_use]
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.label() == label)
    }

    /// Whether a policy, and not a fault, refused.
    #[must_use]
    pub const fn is_policy(self) -> bool {
        matches!(
            self,
            Self::PolicyDeniedExplicit
                | Self::PolicyDeniedNoAllowMatch
                | Self::PolicyUnknown
                | Self::StrictMtlsRequired
                | Self::RbacDenied
                | Self::ExtAuthzDenied
        )
    }

    /// Whether it was the client who ended it.
    #[must_use]
    pub const fn is_of_client(self) -> bool {
        matches!(self, Self::ClientReset | Self::ClientStreamReset)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

/// A decision not to let a connection or a request through, with everything a person needs to understand it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The code.
    pub reason: Reason,
    /// The policy that decided, or the ALLOW policy that came closest.
    pub policy: Option<PolicyKey>,
    /// Which rule of that policy, counted from 0 in the order it was written.
    pub rule: Option<usize>,
    /// What else there is to say: addresses, names, the field that did not match. May be empty.
    pub detail: String,
}

impl Refusal {
    /// A refusal that no policy is the cause of.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, policy: None, rule: None, detail: detail.into() }
    }

    /// The same refusal, decided by `rule` of `policy`.
    #[must_use]
    pub fn by(mut self, policy: PolicyKey, rule: Option<usize>) -> Self {
        self.policy = Some(policy);
        self.rule = rule;
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.sentence().trim().trim_end_matches('.'))?;
        let closest = if self.reason == Reason::PolicyDeniedNoAllowMatch { "closest was " } else { "" };
        match (&self.policy, self.rule) {
            (Some(policy), Some(rule)) => write!(f, " ({closest}{policy}, rules[{rule}])")?,
            (Some(policy), None) => write!(f, " ({closest}{policy})")?,
            (None, _) => {}
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_label_is_its_own_and_reads_back() {
        let labels: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(Reason::from_label(reason.label()), Some(*reason));
            assert!(reason.label().chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        }
        assert_eq!(Reason::from_label("nonsense"), None);
    }

    #[test]
    fn a_refusal_reads_as_a_sentence_that_names_its_policy() {
        let refusal = Refusal::new(Reason::PolicyDeniedExplicit, "").by(PolicyKey::new("shop", "no-web"), Some(1));
        assert_eq!(refusal.to_string(), "A DENY policy matched (shop/no-web, rules[1])");
        let refusal = Refusal::new(Reason::PolicyDeniedNoAllowMatch, "principals did not match")
            .by(PolicyKey::new("shop", "only-api"), Some(0));
        assert_eq!(
            refusal.to_string(),
            "ALLOW policies apply and none of their rules matched (closest was shop/only-api, rules[0]): principals did not match"
        );
    }
}
