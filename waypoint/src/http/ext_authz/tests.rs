use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use ambit_api::envoy::pb::{
    envoy::{
        config::core::v3::{HeaderValue as Header, HeaderValueOption, QueryParameter, header_value_option::HeaderAppendAction},
        service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse},
        r#type::v3::HttpStatus,
    },
    google::{protobuf::BoolValue, rpc::Status},
};
use ambit_model::route::{StringMatch, StringTest};
use bytes::Bytes;

use super::{answer::*, *};
use crate::{compiled::HttpService, http::call::Answer};

fn message(code: i32, response: HttpResponse) -> CheckResponse {
    CheckResponse { status: Some(Status { code, ..Default::default() }), http_response: Some(response), ..Default::default() }
}

fn option(key: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
    let header = Some(Header { key: key.into(), value: value.into(), ..Default::default() });
    HeaderValueOption { header, append_action: action.into(), ..Default::default() }
}

/// In the older form.
#[allow(deprecated)]
fn older(key: &str, value: &str, append: bool) -> HeaderValueOption {
    HeaderValueOption { append: Some(BoolValue { value: append }), ..option(key, value, HeaderAppendAction::AppendIfExistsOrAdd) }
}

fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn allowed(ok: OkHttpResponse) -> Result<Changes, String> {
    match Said::of(message(0, HttpResponse::OkResponse(ok))) {
        Ok(Said::Allowed(changes)) => Ok(*changes),
        Ok(Said::Denied(denial)) => panic!("{denial:?}"),
        Err(failure) => Err(failure.text),
    }
}

#[test]
fn an_answer_that_allows_changes_the_request_and_its_response_as_it_says() {
    use HeaderAppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};
    // Of requests the action does not count, as in Envoy.
    let parameter = |key: &str, value: &str| QueryParameter { key: key.into(), value: value.into() };
    let changes = allowed(OkHttpResponse {
        headers: vec![
            option("x-set", "new", OverwriteIfExistsOrAdd),
            option("x-add", "two", AppendIfExistsOrAdd),
            option("x-absent", "new", AddIfAbsent),
            option("x-there", "new", AddIfAbsent),
            option("x-none", "new", OverwriteIfExists),
            older("X-Older", "new", false),
            older("x-joined", "two", true),
            older("x-nothing", "two", true),
        ],
        headers_to_remove: vec!["x-secret".into(), "host".into(), ":path".into()],
        response_headers_to_add: vec![
            option("x-told", "yes", AppendIfExistsOrAdd),
            option("x-kept", "new", AddIfAbsent),
            option("x-none", "new", OverwriteIfExists),
            option("x-kept-not", "new", OverwriteIfExistsOrAdd),
            older("x-told", "too", true),
        ],
        query_parameters_to_set: vec![parameter("b", "3"), parameter("d", "4")],
        query_parameters_to_remove: vec!["a".into()],
        ..Default::default()
    });
    let mut headers = map(&[
        ("host", "shop"),
        ("x-set", "old"),
        ("x-add", "one"),
        ("x-there", "old"),
        ("x-older", "old"),
        ("x-joined", "one"),
        ("x-secret", "s"),
    ]);
    let mut target = Target { authority: "shop".into(), path_and_query: "/p?a=1&b=2&c&b=5".into(), scheme: "http" };
    let mut passed = Passed::default();
    changes.unwrap().apply(&mut headers, &mut target, &mut passed).unwrap();
    let expected = map(&[
        ("host", "shop"),
        ("x-set", "new"),
        ("x-add", "two"),
        ("x-absent", "new"),
        ("x-there", "new"),
        ("x-none", "new"),
        ("x-older", "new"),
        ("x-joined", "one,two"),
    ]);
    assert_eq!(headers, expected);
    assert_eq!(target.path_and_query, "/p?b=3&c&d=4");
    let mut response = map(&[("x-kept", "old"), ("x-kept-not", "old")]);
    passed.tell(&mut response);
    let mut expected = map(&[("x-kept", "old"), ("x-kept-not", "new"), ("x-told", "yes")]);
    expected.append("x-told", HeaderValue::from_static("too"));
    assert_eq!(response, expected);
}

#[test]
fn what_cannot_be_carried_out_is_no_answer_and_changes_nothing() {
    for key in [":path", "host", "content-length", "transfer-encoding", "a b", ""] {
        let headers = vec![option(key, "x", HeaderAppendAction::OverwriteIfExistsOrAdd)];
        assert!(allowed(OkHttpResponse { headers, ..Default::default() }).is_err(), "{key:?}");
    }
    for value in ["\u{1}", "b#"] {
        let query_parameters_to_set = vec![QueryParameter { key: "a".into(), value: value.into() }];
        let headers = vec![older("x-set", "new", false)];
        let changes = allowed(OkHttpResponse { query_parameters_to_set, headers, ..Default::default() }).unwrap();
        let mut target = Target { authority: "shop".into(), path_and_query: "/p".into(), scheme: "http" };
        let (mut headers, mut passed) = (HeaderMap::new(), Passed::default());
        assert!(changes.apply(&mut headers, &mut target, &mut passed).is_err());
        assert!(headers.is_empty() && target.path_and_query == "/p");
    }
}

#[test]
fn an_answer_with_more_headers_than_a_request_can_have_breaks_nothing() {
    let many: Vec<_> = (0..40_000).map(|n| older(&format!("x-{n}"), "", false)).collect();
    assert!(allowed(OkHttpResponse { headers: many.clone(), ..Default::default() }).is_err());
    let changes = allowed(OkHttpResponse { response_headers_to_add: many.clone(), ..Default::default() }).unwrap();
    let denied = message(7, HttpResponse::DeniedResponse(DeniedHttpResponse { headers: many, ..Default::default() }));
    let Ok(Said::Denied(denial)) = Said::of(denied) else { panic!("it is denied") };
    assert_eq!((changes.response.len(), denial.headers.len()), (1000, 1000));
}

#[test]
fn an_answer_that_denies_has_a_status_headers_and_a_body_or_is_403() {
    let denied = |response: CheckResponse| match Said::of(response) {
        Ok(Said::Denied(denial)) => denial,
        other => panic!("{other:?}"),
    };
    let full = DeniedHttpResponse {
        status: Some(HttpStatus { code: 401 }),
        headers: vec![older("x-why", "no", false), older("content-length", "9", false)],
        body: "go away".into(),
    };
    let denial = denied(message(7, HttpResponse::DeniedResponse(full.clone())));
    assert_eq!((denial.status, denial.body.as_ref(), denial.headers.len()), (Some(StatusCode::UNAUTHORIZED), &b"go away"[..], 1));
    for response in [
        CheckResponse { status: Some(Status { code: 16, ..Default::default() }), ..Default::default() },
        message(7, HttpResponse::OkResponse(OkHttpResponse::default())),
        message(7, HttpResponse::DeniedResponse(DeniedHttpResponse::default())),
        message(7, HttpResponse::DeniedResponse(DeniedHttpResponse { status: Some(HttpStatus { code: 100 }), ..full.clone() })),
    ] {
        assert_eq!(denied(response).status, None);
    }
    let failed = Said::of(message(13, HttpResponse::ErrorResponse(full))).unwrap_err();
    assert_eq!(failed.denial.and_then(|denial| denial.status), Some(StatusCode::UNAUTHORIZED));
}

fn tests(names: &[&str]) -> Vec<StringMatch> {
    names.iter().map(|name| StringMatch::new(StringTest::Prefix((*name).to_owned()), true)).collect()
}

fn service(to_client_on_deny: &[&str]) -> HttpService {
    HttpService {
        path_prefix: "/check".into(),
        added: vec![(HeaderName::from_static("x-mesh"), HeaderValue::from_static("ambit"))],
        to_upstream: tests(&["x-user"]),
        to_client_on_deny: tests(to_client_on_deny),
        to_client_on_allow: tests(&["x-told"]),
    }
}

fn answered(status: u16, headers: &[(&'static str, &'static str)]) -> Answer {
    let (mut head, ()) = ::http::Response::builder().status(status).body(()).unwrap().into_parts();
    head.headers = map(headers);
    Answer { head, body: Bytes::from_static(b"no text: \xff"), trailers: None }
}

#[test]
fn an_authorizer_asked_by_http_is_told_only_what_is_said_and_that_it_always_is() {
    let headers =
        map(&[("host", "shop"), ("authorization", "a"), ("x-user", "u"), ("x-secret", "s"), ("cookie", "c"), ("x-mesh", "lie")]);
    let view = RequestView { method: "POST", scheme: "http", authority: "shop:80", path_and_query: "/p?q", headers: &headers };
    let told = Told::new(None, None, Some(3), Version::HTTP_11);
    let asked = http::question(&service(&[]), view, &tests(&["x-u"]), &told).unwrap();
    assert_eq!((asked.path.as_str(), asked.authority.as_str(), asked.head.method().as_str()), ("/check/p?q", "shop:80", "POST"));
    let expected = map(&[("authorization", "a"), ("x-user", "u"), ("x-mesh", "ambit"), ("content-length", "0")]);
    assert_eq!(*asked.head.headers(), expected);
    let body = Buffered { max_bytes: 3, partial: true, as_bytes: false };
    let told = Told::new(Some(body), Some(Bytes::from_static(b"abc")), Some(5), Version::HTTP_11);
    let asked = http::question(&service(&[]), view, &[], &told).unwrap();
    assert_eq!(asked.head.headers()["x-envoy-auth-partial-body"], "true");
    assert_eq!((asked.head.headers()["content-length"].to_str().unwrap(), asked.body.as_ref()), ("3", &b"abc"[..]));
}

#[test]
fn an_authorizer_asked_by_http_is_told_headers_that_are_no_text() {
    let mut headers = HeaderMap::new();
    for value in [&b"a\xff"[..], "\u{e9}".as_bytes()] {
        headers.append("x-user", HeaderValue::from_bytes(value).unwrap());
    }
    let view = RequestView { method: "GET", scheme: "http", authority: "shop", path_and_query: "/", headers: &headers };
    let asked = http::question(&service(&[]), view, &tests(&["x-u"]), &Told::new(None, None, Some(0), Version::HTTP_11)).unwrap();
    assert_eq!(asked.head.headers()["x-user"].as_bytes(), b"a\xff,\xc3\xa9");
}

#[test]
fn what_an_http_authorizer_answers_is_passed_on_by_the_names_of_headers() {
    let said = |status, headers: &[_], on_deny: &[&str]| http::said(answered(status, headers), &service(on_deny));
    let names = |changes: &[Change]| changes.iter().map(|change| change.name.as_str().to_owned()).collect::<Vec<_>>();
    let headers = [
        ("x-user", "u"),
        ("x-told", "t"),
        ("x-else", "e"),
        ("x-envoy-auth-headers-to-remove", "x-a, host, x-b, transfer-encoding"),
    ];
    match said(200, &headers, &[]) {
        Ok(Said::Allowed(changes)) => {
            assert_eq!(
                (names(&changes.request), names(&changes.response)),
                (vec!["x-user".to_owned()], vec!["x-told".to_owned()])
            );
            assert_eq!(changes.remove, ["x-a", "x-b"]);
        }
        other => panic!("{other:?}"),
    }
    let headers = [("location", "/login"), ("x-why", "w"), ("content-length", "4"), ("connection", "close")];
    for (on_deny, expected) in [(&[][..], &["location", "x-why"][..]), (&["x-other"], &["location"])] {
        match said(302, &headers, on_deny) {
            Ok(Said::Denied(denial)) => {
                let mut told = names(&denial.headers);
                told.sort();
                assert_eq!(
                    (told, denial.body.as_ref(), denial.status),
                    (expected.iter().map(|n| (*n).to_owned()).collect(), &b"no text: \xff"[..], Some(StatusCode::FOUND))
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(said(503, &[], &[]).is_err() && said(101, &[], &[]).is_err());
}
