//! Where tokens are in a request, and what becomes of it.

use http::HeaderName;
use serde_json::json;

use super::super::{ClaimHeader, JwtAuthentication, Place, Provider, Requirement, Why};
use super::signer::Signer;
use super::{ISSUER, NOW, asking, bearing, claims, decide, headers, provider, view, with};

#[test]
fn tokens_are_found_where_the_provider_says_and_nowhere_else() {
    let signer = Signer::p256();
    let token = signer.token(&claims());
    let places = vec![
        Place::Header("x-token".parse().unwrap(), "JWT ".into()),
        Place::Header("x-bare".parse().unwrap(), String::new()),
        Place::Parameter("t".into()),
        Place::Cookie("session".into()),
    ];
    let authentication = asking(vec![Provider { places, ..provider("p", ISSUER, &signer.jwks()) }]);
    let usual = asking(vec![provider("p", ISSUER, &signer.jwks())]);
    let encoded_name = format!("/?a=1&%74={token}#f");
    for (authentication, path, pairs, expected) in [
        (&authentication, "/", vec![("x-token", format!("JWT {token}"))], Some(true)),
        (&authentication, "/", vec![("x-token", format!("a JWT   {token}"))], Some(true)),
        (&authentication, "/", vec![("x-token", token.clone())], None),
        (&authentication, "/", vec![("x-token", "JWT x".into())], Some(false)),
        (&authentication, "/", vec![("x-bare", token.clone())], Some(true)),
        (&authentication, "/", vec![("x-bare", String::new())], Some(false)),
        (&authentication, "/", vec![("authorization", format!("Bearer {token}"))], None),
        (&authentication, &format!("/?t={token}"), vec![], Some(true)),
        (&authentication, &encoded_name, vec![], Some(true)),
        (&authentication, "/?t=x", vec![], Some(false)),
        (&authentication, "/?t", vec![], Some(false)),
        (&authentication, &format!("/?tt={token}"), vec![], None),
        (&authentication, "/", vec![("cookie", format!("a=b; session={token}; c=d"))], Some(true)),
        (&authentication, "/", vec![("cookie", "a=b".into()), ("cookie", format!("session=\"{token}\""))], Some(true)),
        (&authentication, "/", vec![("cookie", "session=x".into())], Some(false)),
        (&authentication, "/", vec![("cookie", "xsession=x".into())], None),
        (&usual, &format!("/?access_token={token}"), vec![], Some(true)),
        (&usual, "/", vec![("authorization", "Bearer ".into())], Some(false)),
        (&usual, "/", vec![("cookie", format!("session={token}"))], None),
        // All of them must hold.
        (&authentication, "/?t=x", vec![("x-bare", token.clone())], Some(false)),
        (&authentication, &format!("/?t={token}"), vec![("x-bare", "x".into())], Some(false)),
        (&authentication, &format!("/?t={token}&t=x"), vec![], Some(false)),
        (&authentication, &format!("/?t=x&%74={token}"), vec![], Some(false)),
        (&authentication, "/", vec![("cookie", format!("session={token}; session=x"))], Some(false)),
        (&authentication, "/", vec![("cookie", format!("session={token}")), ("cookie", "session=x".into())], Some(false)),
        (&usual, "/", vec![("authorization", format!("Bearer {token}")), ("authorization", "Bearer x".into())], Some(false)),
        (&usual, "/", vec![("authorization", "Bearer x".into()), ("authorization", format!("Bearer {token}"))], Some(false)),
    ] {
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let decided = decide(authentication, path, &pairs);
        let found = match &decided {
            Ok(verified) => verified.metadata().map(|_| true),
            Err(_) => Some(false),
        };
        assert_eq!(found, expected, "{path} {pairs:?}: {decided:?}");
    }
}

#[test]
fn no_more_tokens_are_looked_at_than_anybody_needs() {
    let signer = Signer::p256();
    let authentication = asking(vec![provider("p", ISSUER, &signer.jwks())]);
    let value = format!("Bearer {}", signer.token(&claims()));
    let many = |count| vec![("authorization", value.as_str()); count];
    assert!(decide(&authentication, "/", &many(16)).is_ok());
    assert_eq!(decide(&authentication, "/", &many(17)), Err(Why::TooMany));
}

#[test]
fn the_service_is_told_what_the_provider_says_and_a_client_cannot_tell_it() {
    let signer = Signer::p256();
    let claims = with(json!({
        "scope": "read  write", "n": 7, "f": 0.5, "b": true, "list": ["x"], "deep": { "er": { "name": "ü" } }, "nl": "a\r\nb: c",
    }));
    let told = |header: &'static str, claim: &str| ClaimHeader { header: HeaderName::from_static(header), claim: claim.into() };
    let told_of = [
        ("x-sub", "sub"),
        ("x-n", "n"),
        ("x-f", "f"),
        ("x-b", "b"),
        ("x-list", "list"),
        ("x-deep", "deep.er.name"),
        ("x-nl", "nl"),
        ("x-gone", "gone"),
    ];
    let provider = Provider {
        payload_header: Some(HeaderName::from_static("x-payload")),
        claim_headers: told_of.map(|(header, claim)| told(header, claim)).into(),
        ..provider("p", ISSUER, &signer.jwks())
    };
    let authentication = asking(vec![provider.clone()]);
    let token = signer.token(&claims);
    let value = format!("Bearer {token}");
    let lies = [("x-sub", "root"), ("x-payload", "e30"), ("x-gone", "root"), ("x-own", "1")];
    let pairs: Vec<_> = lies.into_iter().chain([("authorization", value.as_str())]).collect();
    let (asked, path) = (headers(&pairs), format!("/a?x=%20&access_token={token}&y"));
    let request = view("GET", &path, &asked);
    let verified = authentication.decide(&request, NOW).unwrap();
    let changed = verified.changed(&request).unwrap();
    assert_eq!(changed.path_and_query, "/a?x=%20&y");
    let payload = token.split('.').nth(1).unwrap();
    // Once for each token that holds.
    let seen =
        |name: &str| changed.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    for (name, expected) in [
        ("x-sub", vec!["ann"; 2]),
        ("x-n", vec!["7"; 2]),
        ("x-f", vec!["0.500000"; 2]),
        ("x-b", vec!["true"; 2]),
        ("x-list", vec![]),
        ("x-deep", vec!["ü"; 2]),
        ("x-nl", vec![]),
        ("x-gone", vec![]),
        ("x-own", vec!["1"]),
        ("x-payload", vec![payload; 2]),
        ("authorization", vec![]),
    ] {
        assert_eq!(seen(name).collect::<Vec<_>>(), expected, "{name}");
    }
    assert_eq!(verified.metadata().unwrap()["payload"]["scope"], json!(["read", "write"]));

    // Without a token, and where none is asked for, lies are taken out all the same.
    for method in ["GET", "OPTIONS"] {
        let pairs: Vec<_> = lies.into_iter().chain([("origin", "o"), ("access-control-request-method", "GET")]).collect();
        let asked = headers(&pairs);
        let request = view(method, "/", &asked);
        let changed = authentication.decide(&request, NOW).unwrap().changed(&request).unwrap();
        assert!(lies[..3].iter().all(|(name, _)| !changed.headers.contains_key(*name)), "{method}: {changed:?}");
        assert!(changed.headers.contains_key("x-own"));
    }

    let forwarding = asking(vec![Provider { forward: true, ..provider }]);
    let verified = forwarding.decide(&request, NOW).unwrap();
    let changed = verified.changed(&request).unwrap();
    assert_eq!(
        (changed.path_and_query.as_str(), changed.headers["authorization"].to_str().unwrap()),
        (path.as_str(), value.as_str())
    );
}

#[test]
fn a_client_neither_takes_away_nor_imitates_what_the_service_is_told() {
    let signer = Signer::p256();
    let told = ClaimHeader { header: HeaderName::from_static("x-sub"), claim: "sub".into() };
    let provider = Provider { claim_headers: vec![told], ..provider("p", ISSUER, &signer.jwks()) };
    let authentication = asking(vec![provider]);
    let value = format!("Bearer {}", signer.token(&claims()));
    for (connection, expected) in [("close, X-Sub , x-other", Some("close, x-other")), ("x-sub", None), ("Close", Some("Close"))]
    {
        let asked = headers(&[("authorization", &value), ("connection", connection), ("x_sub", "root"), ("x_other", "1")]);
        let request = view("GET", "/", &asked);
        let changed = authentication.decide(&request, NOW).unwrap().changed(&request).unwrap();
        let left = headers(&[("x_other", "1"), ("x-sub", "ann")]);
        let connection = changed.headers.get("connection").map(|value| value.to_str().unwrap());
        assert_eq!(connection, expected);
        let mut changed = changed.headers;
        changed.remove("connection");
        assert_eq!(changed, left);
    }
}

#[test]
fn a_preflight_needs_no_token_and_nothing_else_is_one() {
    let authentication = asking(vec![provider("p", ISSUER, &Signer::p256().jwks())]);
    let all = [("origin", "https://o.example"), ("access-control-request-method", "PUT"), ("authorization", "Bearer x")];
    let bad = |authentication: &JwtAuthentication, method: &str, pairs: &[(&str, &str)]| {
        let headers = headers(pairs);
        authentication.decide(&view(method, "/", &headers), NOW).is_err()
    };
    assert!(!bad(&authentication, "OPTIONS", &all));
    assert!(bad(&authentication, "GET", &all));
    assert!(bad(&authentication, "OPTIONS", &all[1..]));
    assert!(bad(&authentication, "OPTIONS", &[all[0], all[2]]));
    assert!(bad(&JwtAuthentication { bypass_preflight: false, ..authentication.clone() }, "OPTIONS", &all));
}

#[test]
fn where_a_token_is_required_none_is_not_enough() {
    let signer = Signer::p256();
    let mut authentication = asking(vec![provider("p", ISSUER, &signer.jwks())]);
    authentication.requirement = Requirement::Provider(0);
    assert_eq!(decide(&authentication, "/", &[]), Err(Why::Missing));
    assert!(bearing(&authentication, &signer.token(&claims())).is_ok());
    authentication.requirement = Requirement::Any(Vec::new());
    assert_eq!(decide(&authentication, "/", &[]), Err(Why::Missing));
    authentication.requirement = Requirement::Provider(7);
    assert_eq!(bearing(&authentication, &signer.token(&claims())), Err(Why::Missing), "of nobody");
}
