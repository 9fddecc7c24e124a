use std::time::Duration;

use ambit_api::envoy::pb::google::protobuf::Duration as ProtoDuration;
use ambit_model::route::HeaderMutations;

use super::*;

fn header(key: &str, value: &str) -> Header {
    Header { key: key.into(), value: value.into(), ..Default::default() }
}

fn status(code: Code, seconds: Option<i64>) -> DescriptorStatus {
    let duration_until_reset = seconds.map(|seconds| ProtoDuration { seconds, nanos: 0 });
    DescriptorStatus { code: code.into(), duration_until_reset, ..Default::default() }
}

fn limiter() -> Limiter {
    Limiter {
        name: "envoy.filters.http.ratelimit".into(),
        cluster: "limiter".into(),
        authority: "limiter".into(),
        domain: "shop".into(),
        timeout: Duration::from_millis(20),
        failure_mode_deny: false,
        status_on_error: StatusCode::INTERNAL_SERVER_ERROR,
        status: StatusCode::TOO_MANY_REQUESTS,
        exhausted: true,
        tells: true,
        tells_when: true,
        refused: HeaderMutations::default(),
    }
}

fn names(headers: &[(HeaderName, HeaderValue)]) -> Vec<&str> {
    headers.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn only_what_is_over_its_limit_is_one_too_many() {
    let said = |code: Code, statuses: Vec<DescriptorStatus>| {
        let message = RateLimitResponse { overall_code: code.into(), statuses, ..Default::default() };
        Said::of(message).map(|said| (said.over, said.wait)).unwrap()
    };
    assert_eq!(said(Code::Ok, vec![status(Code::Ok, Some(9))]), (false, None));
    assert_eq!(said(Code::Unknown, vec![]), (false, None));
    let several = vec![status(Code::OverLimit, Some(7)), status(Code::Ok, Some(60)), status(Code::OverLimit, None)];
    assert_eq!(said(Code::OverLimit, several), (true, Some(7)));
    assert_eq!(said(Code::OverLimit, vec![status(Code::OverLimit, Some(-5))]), (true, Some(1)));
    assert_eq!(said(Code::OverLimit, vec![]), (true, None));
}

#[test]
fn an_answer_adds_no_headers_of_a_connection_and_not_more_than_can_be_borne() {
    let message = RateLimitResponse {
        request_headers_to_add: vec![
            header("x-plan", "gold"),
            header("Host", "other"),
            header(":path", "/other"),
            header("content-length", "9"),
        ],
        response_headers_to_add: vec![
            header("X-Left", "7"),
            header("transfer-encoding", "chunked"),
            header("connection", "close"),
            header("a b", ""),
            header("x-bad", "a\nb"),
        ],
        raw_body: b"no text: \xff".to_vec(),
        ..Default::default()
    };
    let said = Said::of(message).unwrap();
    assert_eq!((names(&said.request), names(&said.response)), (vec!["x-plan"], vec!["x-left"]));
    assert_eq!(said.body.as_ref(), &b"no text: \xff"[..]);
    let many: Vec<Header> = (0..40_000).map(|n| header(&format!("x-{n}"), "")).collect();
    for message in [
        RateLimitResponse { request_headers_to_add: many.clone(), ..Default::default() },
        RateLimitResponse { response_headers_to_add: many, ..Default::default() },
    ] {
        let why = Said::of(message).unwrap_err();
        assert!(why.contains("more than 1000 headers"), "{why}");
    }
}

#[test]
fn a_refusal_has_the_headers_that_the_server_says_and_those_of_envoy() {
    let dressed = |limiter: &Limiter, said: Vec<Header>, wait: Option<u64>| {
        let mut response = HeaderMap::new();
        response.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        dress(&mut response, limiter, headers(said), wait);
        let value = |name: &str| response.get(name).map(|value| value.to_str().unwrap().to_owned());
        ["content-type", "x-envoy-ratelimited", "retry-after"].map(|name| value(name).unwrap_or_default())
    };
    assert_eq!(dressed(&limiter(), vec![], None), ["text/plain", "true", ""]);
    let said = vec![header("content-type", "application/json"), header("retry-after", "3")];
    assert_eq!(dressed(&limiter(), said, Some(9)), ["application/json", "true", "3"]);
    assert_eq!(dressed(&limiter(), vec![], Some(9)), ["text/plain", "true", "9"]);
    let other = Limiter { tells: false, status: StatusCode::SERVICE_UNAVAILABLE, ..limiter() };
    assert_eq!(dressed(&other, vec![], Some(9)), ["text/plain", "", ""]);
    let silent = Limiter { tells_when: false, ..limiter() };
    assert_eq!(dressed(&silent, vec![], Some(9)), ["text/plain", "true", ""]);
}
