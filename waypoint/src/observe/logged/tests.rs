use ambit_model::{Reason, policy::PolicyKey};
use ambit_runtime::telemetry::{AccessLog, Destination};

use super::*;
use crate::{
    compiled::{LogTo, Logger},
    observe::Telemetry,
    terminate::Peer,
};

const FORMAT: &str = "%REQ(x-a)%|%REQ(x-gone?:AUTHORITY)%|%RESP(x-b)%|%TRAILER(x-c)%|%RESPONSE_CODE%|%RESPONSE_FLAGS%|\
                      %RESPONSE_CODE_DETAILS%|%GRPC_STATUS%|%GRPC_STATUS(NUMBER)%|%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%|\
                      %DOWNSTREAM_LOCAL_PORT%|%ROUTE_NAME%|%CONNECTION_TERMINATION_DETAILS%|%UPSTREAM_TRANSPORT_FAILURE_REASON%";

fn logs() -> Option<Arc<Logs>> {
    let format = ambit_model::access_log::Format::Text(ambit_model::access_log::Text::parse(FORMAT, false).unwrap());
    Some(Arc::new(Logs::new(vec![Logger { only: None, to: LogTo::File { path: "/dev/null".into(), format } }])))
}

fn record(protocol: &'static str) -> Record {
    let telemetry = Arc::new(Telemetry::new(AccessLog::open(&Destination::Off).unwrap()));
    let peer = Arc::new(Peer::new("10.0.0.1:4000".parse().unwrap(), None));
    Record::new(telemetry, peer, "10.96.0.7:80".parse().unwrap(), protocol)
}

/// A request of which a route and headers are known.
fn request(protocol: &'static str) -> Record {
    let mut record = record(protocol);
    let request = Request::get("/a?b").header("host", "shop").header("x-a", "1").header("x-gone", "").body(()).unwrap();
    record.logged = Logged::request(&logs(), &request, "http");
    record.route = Some("shop/r".into());
    record
}

#[track_caller]
fn check(record: &Record, expected: &str) {
    let logged = record.logged.as_deref().unwrap();
    let mut line = Vec::new();
    for logger in &logged.logs.loggers {
        let LogTo::File { format, .. } = &logger.to else { panic!("{logger:?}") };
        format.write(&Line::new(record, logged), &mut line);
    }
    assert_eq!(String::from_utf8(line).unwrap(), expected);
}

fn headers(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
}

#[test]
fn what_came_from_an_endpoint_is_written_with_the_headers_asked_for() {
    let mut record = request("grpc");
    (record.reason, record.status) = (Reason::Ok, Some(200));
    record.responded(&headers("x-b", "2"));
    record.trailed(&headers("x-c", "3"));
    record.grpc_status = Some(5);
    check(&record, "1||2|3|200|-|via_upstream|NotFound|5|10.0.0.1|80|shop/r|-|-");
    let mut record = request("grpc");
    (record.reason, record.status) = (Reason::Ok, Some(200));
    record.responded(&headers("grpc-status", "77"));
    check(&record, "1||-|-|200|-|via_upstream|77|77|10.0.0.1|80|shop/r|-|-");
    let mut record = request("grpc");
    (record.reason, record.status) = (Reason::Ok, Some(503));
    record.responded(&HeaderMap::new());
    check(&record, "1||-|-|503|-|via_upstream|Unavailable|14|10.0.0.1|80|shop/r|-|-");
}

#[test]
fn refusals_have_the_words_of_envoy() {
    let policy = || PolicyKey::new("shop", "p");
    for (refusal, status, middle) in [
        (Refusal::new(Reason::RouteNotFound, ""), 404, "NR|route_not_found"),
        (Refusal::new(Reason::NoHealthyEndpoint, ""), 503, "UH|no_healthy_upstream"),
        (
            Refusal::new(Reason::PolicyDeniedExplicit, "").by(policy(), Some(1)),
            403,
            "-|rbac_access_denied_matched_policy[ns[shop]-policy[p]-rule[1]]",
        ),
        (
            Refusal::new(Reason::PolicyDeniedNoAllowMatch, "").by(policy(), Some(1)),
            403,
            "-|rbac_access_denied_matched_policy[none]",
        ),
        (Refusal::new(Reason::TokenInvalid, "Jwt is missing"), 401, "-|jwt_authn_access_denied{Jwt_is_missing}"),
        (Refusal::new(Reason::RequestTimeout, ""), 504, "UT|response_timeout"),
        (Refusal::new(Reason::FaultInjected, ""), 503, "FI|fault_filter_abort"),
        (Refusal::new(Reason::UpstreamReset, ""), 503, "UC|upstream_reset_before_response_started{connection_termination}"),
        (Refusal::new(Reason::UpstreamStreamReset, ""), 503, "UR|upstream_reset_before_response_started{remote_reset}"),
        (
            Refusal::new(Reason::UpstreamStreamRefused, ""),
            503,
            "UR|upstream_reset_before_response_started{remote_refused_stream_reset}",
        ),
        (Refusal::new(Reason::RateLimited, "too many"), 429, "RL|local_rate_limited"),
        (Refusal::new(Reason::RateLimited, "cluster x says so"), 429, "RL|request_rate_limited"),
        (Refusal::new(Reason::ClusterOverloaded, ""), 503, "UO|upstream_reset_before_response_started{overflow}"),
    ] {
        let mut record = request("http");
        record.refused(&refusal);
        record.status = Some(status);
        check(&record, &format!("1||-|-|{status}|{middle}|-|-|10.0.0.1|80|shop/r|-|-"));
    }
}

#[test]
fn answers_that_break_off_and_clients_that_leave_have_the_words_of_envoy() {
    for (reason, middle) in [
        (Reason::UpstreamReset, "UC|upstream_reset_after_response_started{connection_termination}"),
        (Reason::UpstreamStreamReset, "UR|upstream_reset_after_response_started{remote_reset}"),
        (Reason::ClientReset, "DC|downstream_remote_disconnect"),
        (Reason::ClientStreamReset, "DR|http2.remote_reset"),
    ] {
        let mut record = request("http");
        record.responded(&HeaderMap::new());
        (record.reason, record.status) = (reason, Some(200));
        check(&record, &format!("1||-|-|200|{middle}|-|-|10.0.0.1|80|shop/r|-|-"));
    }
    for (status, details) in [(400, "http1.codec_error"), (431, "http1.headers_too_large")] {
        let mut unread = record("http");
        unread.logged = Logged::connection(&logs());
        unread.refused(&Refusal::new(Reason::RequestUnreadable, ""));
        unread.status = Some(status);
        check(&unread, &format!("-|-|-|-|{status}|DPE|{details}|-|-|10.0.0.1|80|-|-|-"));
    }
}

#[test]
fn flags_in_words_are_those_of_envoy() {
    assert_eq!(details::long("URX,UR"), "UpstreamRetryLimitExceeded,UpstreamRemoteReset");
    assert_eq!(details::long("DR"), "DownstreamRemoteReset");
    assert_eq!(details::long("DPE"), "DownstreamProtocolError");
}

#[test]
fn connections_have_no_requests_to_speak_of() {
    let mut denied = record("tcp");
    denied.logged = Logged::connection(&logs());
    denied.refused(&Refusal::new(Reason::PolicyDeniedNoAllowMatch, ""));
    check(&denied, "-|-|-|-|0|-|-|-|-|10.0.0.1|80|-|rbac_access_denied_matched_policy[none]|-");
    let mut unreached = record("tcp");
    unreached.logged = Logged::connection(&logs());
    unreached.refused(&Refusal::new(Reason::UpstreamRefused, "no"));
    let why = unreached.error.clone().unwrap();
    check(&unreached, &format!("-|-|-|-|0|UF|-|-|-|10.0.0.1|80|-|-|{why}"));
    assert!(Logged::connection(&None).is_none());
}
