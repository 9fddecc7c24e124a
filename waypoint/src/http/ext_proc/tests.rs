use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use ambit_api::envoy::pb::{
    envoy::{
        config::core::v3::{HeaderValue as Header, HeaderValueOption},
        service::ext_proc::v3::{
            BodyMutation, GrpcStatus, HeaderMutation, ImmediateResponse, StreamedBodyResponse, body_mutation::Mutation,
        },
        r#type::v3::HttpStatus,
    },
    google::protobuf::BoolValue,
};
use bytes::Bytes;
use http_body_util::BodyExt;

use super::{mutation::*, told::replaced, *};
use crate::compiled::{MutationRules, ProcessingMode};

const MOST: usize = 1024;

pub(super) fn config() -> ExtProc {
    ExtProc {
        name: "p".into(),
        on: true,
        cluster: "p".into(),
        authority: "p".into(),
        message_timeout: Duration::from_secs(1),
        failure_mode_allow: false,
        status_on_error: StatusCode::INTERNAL_SERVER_ERROR,
        mode: ProcessingMode::DEFAULT,
        rules: MutationRules::default(),
        allow_mode_override: false,
        allowed_override_modes: Vec::new(),
    }
}

fn option(key: &str, value: &str) -> HeaderValueOption {
    let header = Some(Header { key: key.into(), raw_value: value.into(), ..Default::default() });
    HeaderValueOption { header, ..Default::default() }
}

#[allow(deprecated)]
fn appended(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption { append: Some(BoolValue { value: true }), ..option(key, value) }
}

fn sets(all: &[(&str, &str)]) -> HeaderMutation {
    HeaderMutation { set_headers: all.iter().map(|(key, value)| option(key, value)).collect(), ..Default::default() }
}

fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

/// A request `POST /p` after a mutation, and what it is then.
fn changed(mutation: HeaderMutation, rules: MutationRules, replaces: bool) -> Result<(HeaderMap, String, Method), String> {
    let mut target = Target { authority: "shop".into(), path_and_query: "/p".into(), scheme: "http" };
    let (mut headers, mut method) = (map(&[("host", "shop"), ("x-a", "1"), ("content-length", "3")]), Method::POST);
    let mut line = Line::Request { target: &mut target, method: replaces.then_some(&mut method) };
    apply(mutation, &rules, &mut headers, &mut line, MOST)?;
    assert_eq!(target.authority, "shop");
    Ok((headers, target.path_and_query, method))
}

#[test]
fn headers_are_set_added_and_removed_and_a_path_is_another() {
    let mutation = HeaderMutation {
        set_headers: vec![option("X-A", "2"), appended("x-a", "3"), option("x-b", "4"), option(":path", "/q?r")],
        remove_headers: vec!["x-c".into(), "X-A".into()],
    };
    let (headers, path, method) = changed(mutation, MutationRules::default(), false).unwrap();
    // What is removed is so before anything is set.
    let mut expected = map(&[("host", "shop"), ("content-length", "3"), ("x-a", "2"), ("x-b", "4")]);
    expected.append("x-a", HeaderValue::from_static("3"));
    assert_eq!((headers, path.as_str(), method), (expected, "/q?r", Method::POST));
}

#[test]
fn what_a_request_was_judged_by_and_how_it_is_framed_stay() {
    let kept = [
        ("host", "other"),
        (":authority", "other"),
        (":scheme", "https"),
        (":method", "GET"),
        (":status", "200"),
        ("content-length", "9"),
        ("transfer-encoding", "chunked"),
        ("connection", "x-a"),
        ("upgrade", "websocket"),
        ("x-envoy-retry-on", "5xx"),
        (":path", "no-slash"),
        (":path", "/a#b"),
    ];
    for (name, value) in kept {
        let (headers, path, method) = changed(sets(&[(name, value)]), MutationRules::default(), false).unwrap();
        let before = map(&[("host", "shop"), ("x-a", "1"), ("content-length", "3")]);
        assert_eq!((headers, path.as_str(), method), (before, "/p", Method::POST), "{name}");
        let strict = MutationRules { disallow_is_error: true, ..MutationRules::default() };
        assert!(changed(sets(&[(name, value)]), strict, false).is_err(), "{name}");
    }
    for name in ["host", ":path", "content-length"] {
        let mutation = HeaderMutation { remove_headers: vec![name.into()], ..Default::default() };
        assert_eq!(changed(mutation, MutationRules::default(), false).unwrap().0.len(), 3, "{name}");
    }
    // Along with its body a request may be of another method, as in Envoy.
    assert_eq!(changed(sets(&[(":method", "PUT")]), MutationRules::default(), true).unwrap().2, Method::PUT);
    assert_eq!(changed(sets(&[(":method", "CONNECT")]), MutationRules::default(), true).unwrap().2, Method::POST);
}

#[test]
fn rules_say_what_else_may_change() {
    let after = |rules: MutationRules| changed(sets(&[("x-b", "1"), ("x-envoy-b", "1"), (":path", "/q")]), rules, false).unwrap();
    let (headers, path, _) = after(MutationRules { allow_envoy: true, ..Default::default() });
    assert_eq!((headers.len(), path.as_str()), (5, "/q"));
    let (headers, path, _) = after(MutationRules { disallow_system: true, ..Default::default() });
    assert_eq!((headers.len(), path.as_str()), (4, "/p"));
    let (headers, path, _) = after(MutationRules { disallow_all: true, ..Default::default() });
    assert_eq!((headers.len(), path.as_str()), (3, "/p"));
}

#[test]
fn what_cannot_be_done_is_an_error_whatever_the_rules_say() {
    let long = "v".repeat(MOST);
    let both = HeaderValueOption {
        header: Some(Header { key: "x-b".into(), value: "1".into(), raw_value: "2".into() }),
        ..Default::default()
    };
    for mutation in [
        sets(&[("a b", "1")]),
        sets(&[("x-b", "\n")]),
        sets(&[("", "1")]),
        sets(&[("x-b", &long)]),
        sets(&[("x-b", "1"); 1001]),
        HeaderMutation { set_headers: vec![both], ..Default::default() },
        HeaderMutation { remove_headers: vec!["a b".into()], ..Default::default() },
    ] {
        assert!(changed(mutation, MutationRules::default(), false).is_err());
    }
}

#[test]
fn the_status_of_a_response_may_be_another() {
    let status = |value: &str| {
        let mut status = StatusCode::OK;
        let mut line = Line::Response(&mut status);
        apply(sets(&[(":status", value)]), &MutationRules::default(), &mut HeaderMap::new(), &mut line, MOST).unwrap();
        status.as_u16()
    };
    assert_eq!(["418", "100", "x", "1000"].map(status), [418, 200, 200, 200]);
}

#[test]
fn a_body_is_replaced_as_it_was_told() {
    let said = |mutation| replaced(Some(BodyMutation { mutation: Some(mutation) }));
    assert_eq!(said(Mutation::Body(b"new".to_vec())), Ok(Some(Bytes::from_static(b"new"))));
    assert_eq!(said(Mutation::ClearBody(true)), Ok(Some(Bytes::new())));
    assert_eq!(said(Mutation::ClearBody(false)), Ok(None));
    assert_eq!(replaced(None), Ok(None));
    assert!(said(Mutation::StreamedResponse(StreamedBodyResponse::default())).is_err());
}

#[tokio::test]
async fn a_client_is_answered_what_a_processor_says() {
    let immediate = |code: i32, headers: HeaderMutation| ImmediateResponse {
        status: Some(HttpStatus { code }),
        headers: Some(headers),
        body: b"no".to_vec(),
        grpc_status: Some(GrpcStatus { status: 7 }),
        details: String::new(),
    };
    let answer = |immediate, grpc| End::said(immediate, &config(), MOST).answer(None, Style { grpc });
    let response = answer(immediate(429, sets(&[("content-type", "text/css"), ("content-length", "99")])), false);
    assert_eq!(response.status(), 429);
    assert_eq!(
        (response.headers()["content-type"].as_bytes(), response.headers().get("content-length")),
        (&b"text/css"[..], None)
    );
    assert_eq!(response.headers()["x-ambit-reason"], "ext_proc_answered");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "no");
    for code in [0, 100, 1000] {
        let response = answer(immediate(code, HeaderMutation::default()), false);
        assert_eq!((response.status().as_u16(), response.headers().get("x-ambit-reason")), (200, None), "{code}");
    }
    let response = answer(immediate(403, HeaderMutation::default()), true);
    assert_eq!((response.status().as_u16(), response.headers()["grpc-status"].as_bytes()), (200, &b"7"[..]));
    assert_eq!(response.headers()["grpc-message"], "no");
    // What cannot be a header is none, and the answer stands.
    assert_eq!(answer(immediate(418, sets(&[("a b", "")])), false).status(), 418);
}
