//! Why a request was answered as it was, in the words of Envoy (`%RESPONSE_CODE_DETAILS%`), where it has some; elsewhere the reason by its own
//! label.

use std::borrow::Cow;

use ambit_model::Reason;

use super::Logged;
use crate::observe::Record;

/// Of a request.
pub fn of_request<'a>(record: &'a Record, logged: &'a Logged) -> Cow<'a, str> {
    let reset = |why: &str| {
        let when = if logged.responded.is_some() { "after" } else { "before" };
        Cow::Owned(format!("upstream_reset_{when}_response_started{{{why}}}"))
    };
    let detail = logged.refused.as_ref().map_or("", |(_, detail)| detail.as_str());
    let text: &'static str = match record.reason {
        Reason::Ok if logged.responded.is_some() => "via_upstream",
        Reason::Ok if record.status == Some(200) => "cors_response",
        Reason::Ok | Reason::RouteDirectResponse => "direct_response",
        Reason::ClientReset => "downstream_remote_disconnect",
        Reason::ClientStreamReset => "http2.remote_reset",
        Reason::RequestUnreadable if record.status == Some(431) => "http1.headers_too_large",
        Reason::RequestUnreadable => "http1.codec_error",
        Reason::PolicyDeniedExplicit | Reason::PolicyDeniedNoAllowMatch | Reason::RbacDenied => return denied(record, logged),
        Reason::TokenInvalid => return format!("jwt_authn_access_denied{{{}}}", detail.replace(' ', "_")).into(),
        Reason::RouteNotFound => "route_not_found",
        Reason::BackendInvalid => "cluster_not_found",
        Reason::NoHealthyEndpoint => "no_healthy_upstream",
        Reason::UpstreamReset => return reset("connection_termination"),
        Reason::UpstreamStreamReset => return reset("remote_reset"),
        Reason::UpstreamStreamRefused => return reset("remote_refused_stream_reset"),
        Reason::UpstreamProtocolError => return reset("protocol_error"),
        Reason::ClusterOverloaded => return reset("overflow"),
        reason if is_unreached(reason) => return reset("remote_connection_failure"),
        Reason::UpstreamTimeout => "upstream_per_try_timeout",
        Reason::RequestTimeout => "response_timeout",
        Reason::StreamTimeout => "max_duration_timeout",
        Reason::RequestTooLarge if record.status == Some(413) => "request_payload_too_large",
        Reason::ExtAuthzDenied => "ext_authz_denied",
        Reason::ExtAuthzError => "ext_authz_error",
        Reason::FaultInjected => "fault_filter_abort",
        // What a server says is said to be its word.
        Reason::RateLimited if detail.starts_with("cluster ") => "request_rate_limited",
        Reason::RateLimited => "local_rate_limited",
        Reason::RateLimitError => "rate_limiter_error",
        Reason::Overloaded => "reached_concurrency_limit",
        Reason::RequestLimit => "overload",
        reason => reason.label(),
    };
    Cow::Borrowed(text)
}

/// Of a connection that was refused.
pub fn of_connection<'a>(record: &'a Record, logged: &'a Logged) -> Option<Cow<'a, str>> {
    record.reason.is_policy().then(|| denied(record, logged))
}

/// As our control plane calls the rules of policies.
fn denied<'a>(record: &'a Record, logged: &'a Logged) -> Cow<'a, str> {
    let rule = logged.refused.as_ref().and_then(|(rule, _)| *rule);
    let by = match (&record.policy, record.reason, rule) {
        (Some(policy), Reason::PolicyDeniedExplicit, Some(rule)) => {
            format!("ns[{}]-policy[{}]-rule[{rule}]", policy.namespace, policy.name)
        }
        _ => "none".to_owned(),
    };
    format!("rbac_access_denied_matched_policy[{by}]").into()
}

/// Whether this is said of an endpoint to which there was no connection.
pub fn is_unreached(reason: Reason) -> bool {
    matches!(reason, Reason::UpstreamRefused | Reason::UpstreamUnreachable | Reason::PeerIdentityMismatch | Reason::TunnelFailed)
}

/// Flags in words (`%RESPONSE_FLAGS_LONG%`).
pub fn long(flags: &str) -> String {
    let word = |flag: &str| match flag {
        "UH" => "NoHealthyUpstream",
        "UF" => "UpstreamConnectionFailure",
        "UC" => "UpstreamConnectionTermination",
        "UR" => "UpstreamRemoteReset",
        "UPE" => "UpstreamProtocolError",
        "UT" => "UpstreamRequestTimeout",
        "SI" => "StreamIdleTimeout",
        "UO" => "UpstreamOverflow",
        "URX" => "UpstreamRetryLimitExceeded",
        "NR" => "NoRouteFound",
        "NC" => "NoClusterFound",
        "DC" => "DownstreamConnectionTermination",
        "DR" => "DownstreamRemoteReset",
        "DPE" => "DownstreamProtocolError",
        "OM" => "OverloadManagerTerminated",
        "DI" => "DelayInjected",
        "FI" => "FaultInjected",
        "RL" => "RateLimited",
        "RLSE" => "RateLimitServiceError",
        "UAEX" => "UnauthorizedExternalService",
        _ => "-",
    };
    flags.split(',').map(word).collect::<Vec<_>>().join(",")
}

/// The status of a call by its name (`google.rpc.Code`), as Envoy writes it.
pub fn grpc_name(status: u32) -> Option<&'static str> {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    NAMES.get(usize::try_from(status).ok()?).copied()
}
