//! What is believed and what is not, with keys and signatures of all kinds.

mod request;
mod signer;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::{JwtAuthentication, Keys, Place, Provider, Requirement, Verified, Why};
use crate::route::RequestView;
use signer::{Signer, encoded};

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.example";

fn provider(name: &str, issuer: &str, keys: &str) -> Provider {
    Provider {
        name: name.to_owned(),
        issuer: issuer.to_owned(),
        audiences: Vec::new(),
        keys: Keys::parse(keys).unwrap(),
        places: Place::usual(),
        forward: false,
        payload_header: None,
        pad_payload: false,
        claim_headers: Vec::new(),
        metadata: Some("payload".to_owned()),
        space_delimited: vec!["scope".to_owned()],
    }
}

/// As the control plane asks for it, of providers that look at the same places: a token of any, or none.
fn asking(providers: Vec<Provider>) -> JwtAuthentication {
    let all: Vec<usize> = (0..providers.len()).collect();
    let of = all.iter().copied().map(Requirement::Provider);
    let requirement = Requirement::Any(of.chain([Requirement::AllowMissing(all.clone())]).collect());
    JwtAuthentication { providers, requirement, bypass_preflight: true }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| -> (HeaderName, HeaderValue) { (name.parse().unwrap(), value.parse().unwrap()) };
    let mut headers = HeaderMap::new();
    for (name, value) in pairs.iter().map(pair) {
        headers.append(name, value);
    }
    headers
}

fn view<'a>(method: &'a str, path_and_query: &'a str, headers: &'a HeaderMap) -> RequestView<'a> {
    RequestView { method, scheme: "http", authority: "shop", path_and_query, headers }
}

/// What is decided of a request with these headers.
fn decide(authentication: &JwtAuthentication, path: &str, pairs: &[(&str, &str)]) -> Result<Verified, Why> {
    let headers = headers(pairs);
    authentication.decide(&view("GET", path, &headers), NOW).map_err(|refused| refused.why)
}

fn bearing(authentication: &JwtAuthentication, token: &str) -> Result<Verified, Why> {
    decide(authentication, "/", &[("authorization", &format!("Bearer {token}"))])
}

fn claims() -> Value {
    json!({ "iss": ISSUER, "sub": "ann", "aud": ["shop", "other"], "exp": NOW + 60, "nbf": NOW - 60 })
}

/// The claims with some of them others.
fn with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

#[test]
fn a_good_token_of_each_algorithm_is_believed_and_its_payload_is_known() {
    for signer in Signer::all() {
        let authentication = asking(vec![provider("p", ISSUER, &signer.jwks())]);
        let verified = bearing(&authentication, &signer.token(&claims())).unwrap_or_else(|why| panic!("{}: {why}", signer.alg));
        assert_eq!(verified.metadata().unwrap()["payload"], claims(), "{}", signer.alg);
        // The service does not see it.
        assert_eq!(verified.removed, ["authorization"], "{}", signer.alg);
    }
}

#[test]
fn a_request_without_a_token_passes_and_nothing_is_known_of_it() {
    let authentication = asking(vec![provider("p", ISSUER, &Signer::p256().jwks())]);
    for pairs in [&[][..], &[("authorization", "Basic YTpi")], &[("x-token", "a.b.c")], &[("authorization", "bearer a.b.c")]] {
        let verified = decide(&authentication, "/?token=a", pairs).unwrap();
        assert_eq!(verified.metadata(), None, "{pairs:?}");
        assert_eq!(verified, Verified::default(), "{pairs:?}");
    }
}

#[test]
fn claims_are_looked_at_before_the_signature_and_each_in_its_own_words() {
    let signer = Signer::p256();
    let mut provider = provider("p", ISSUER, &signer.jwks());
    provider.audiences = vec!["https://shop/".to_owned(), "third".to_owned()];
    let authentication = asking(vec![provider]);
    for (changes, expected) in [
        (json!({}), Ok(())),
        (json!({ "iss": "https://other.example" }), Err(Why::Issuer)),
        (json!({ "iss": "https://issuer.example/" }), Err(Why::Issuer)),
        (json!({ "iss": null }), Err(Why::Issuer)),
        (json!({ "iss": 1 }), Err(Why::Claim)),
        (json!({ "sub": ["ann"] }), Err(Why::Claim)),
        (json!({ "sub": null }), Ok(())),
        // To the second, with a minute for clocks that differ.
        (json!({ "exp": NOW - 60 }), Ok(())),
        (json!({ "exp": NOW - 61 }), Err(Why::Expired)),
        (json!({ "exp": 0 }), Err(Why::Expired)),
        (json!({ "exp": null }), Ok(())),
        (json!({ "exp": -1 }), Err(Why::Claim)),
        (json!({ "exp": (NOW + 1).to_string() }), Err(Why::Claim)),
        (json!({ "exp": 1e300 }), Ok(())),
        (json!({ "exp": NOW as f64 + 0.5 }), Ok(())),
        (json!({ "nbf": NOW + 60 }), Ok(())),
        (json!({ "nbf": NOW + 61 }), Err(Why::NotYetValid)),
        (json!({ "nbf": u64::MAX }), Err(Why::NotYetValid)),
        (json!({ "nbf": "now" }), Err(Why::Claim)),
        (json!({ "iat": NOW + 9999 }), Ok(())),
        (json!({ "iat": {} }), Err(Why::Claim)),
        (json!({ "aud": "shop" }), Ok(())),
        (json!({ "aud": "http://shop" }), Ok(())),
        (json!({ "aud": "shop2" }), Err(Why::Audience)),
        (json!({ "aud": [] }), Err(Why::Audience)),
        (json!({ "aud": null }), Err(Why::Audience)),
        (json!({ "aud": [1] }), Err(Why::Claim)),
        (json!({ "aud": { "shop": true } }), Err(Why::Claim)),
    ] {
        let claims = with(changes.clone());
        assert_eq!(bearing(&authentication, &signer.token(&claims)).map(drop), expected, "{changes}");
    }
    assert_eq!(Why::Audience.status(), 403);
    assert!(Why::ALL.iter().all(|why| *why == Why::Audience || why.status() == 401));
}

#[test]
fn without_audiences_of_the_provider_a_token_for_anybody_holds() {
    let signer = Signer::p256();
    let authentication = asking(vec![provider("p", ISSUER, &signer.jwks())]);
    assert!(bearing(&authentication, &signer.token(&with(json!({ "aud": null })))).is_ok());
}

#[test]
fn what_is_not_signed_by_a_key_of_the_issuer_is_not_believed() {
    let signer = Signer::p256();
    let authentication = asking(vec![provider("p", ISSUER, &signer.jwks())]);
    let good = signer.token(&claims());
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let forged = encoded(with(json!({ "sub": "root" })).to_string().as_bytes());
    let head = |header: Value| encoded(header.to_string().as_bytes());
    let unsigned = |alg: &str| format!("{}.{payload}.{signature}", head(json!({ "alg": alg })));
    let other = Signer::p256();
    let of_other_kind = Signer::ed25519();
    for (token, expected) in [
        (other.token(&claims()), Why::Signature),
        (of_other_kind.token(&claims()), Why::NoSuchKey),
        (signer.token_with(&json!({ "alg": "ES256", "kid": "gone" }), &claims()), Why::NoSuchKey),
        (format!("{header}.{forged}.{signature}"), Why::Signature),
        (format!("{header}.{payload}.{}", encoded(&[0; 64])), Why::Signature),
        (format!("{header}.{payload}.{}", encoded(&[1; 63])), Why::Signature),
        (format!("{header}.{payload}."), Why::Format),
        (format!("{header}.{payload}"), Why::Format),
        (format!("{header}..{signature}"), Why::Format),
        (format!(".{payload}.{signature}"), Why::Format),
        (format!("{good}.{signature}"), Why::Format),
        (format!("{good} "), Why::SignatureEncoding),
        (format!("{good}="), Why::SignatureEncoding),
        (format!("{header}.{payload}.{}", signature.replace(char::is_alphanumeric, "+")), Why::SignatureEncoding),
        (format!("a.{payload}.{signature}"), Why::HeaderEncoding),
        (format!("{}.{payload}.{signature}", encoded(b"[]")), Why::HeaderJson),
        (format!("{}.{payload}.{signature}", head(json!({}))), Why::NoAlgorithm),
        (format!("{}.{payload}.{signature}", head(json!({ "alg": 1 }))), Why::NoAlgorithm),
        (format!("{}.{payload}.{signature}", head(json!({ "alg": "ES256", "kid": 1 }))), Why::KeyId),
        (signer.token_with(&json!({ "alg": "ES256", "crit": ["b64"], "b64": false }), &claims()), Why::Critical),
        (format!("{header}.+.{signature}"), Why::PayloadEncoding),
        (format!("{header}.{}.{signature}", encoded(b"\"text\"")), Why::PayloadJson),
        (unsigned("none"), Why::Algorithm),
        (unsigned("None"), Why::Algorithm),
        (unsigned("HS256"), Why::Algorithm),
        (unsigned("HS512"), Why::Algorithm),
        (unsigned("es256"), Why::Algorithm),
        (unsigned("ES256K"), Why::Algorithm),
        (unsigned("RS256"), Why::NoSuchKey),
        (unsigned("ES384"), Why::NoSuchKey),
        ("a".repeat(super::MAX_TOKEN_BYTES + 1), Why::TooLarge),
        (String::new(), Why::Format),
    ] {
        // A value of nothing but the prefix is a token as well.
        assert_eq!(bearing(&authentication, &token), Err(expected), "{token}");
    }
    // A key known to everybody is no secret.
    let hmac = encoded(br#"{"alg":"HS256"}"#);
    assert_eq!(bearing(&authentication, &format!("{hmac}.{payload}.{signature}")), Err(Why::Algorithm));
}

#[test]
fn a_provider_without_keys_believes_nothing_and_other_providers_are_none_the_worse() {
    let (signer, unknown) = (Signer::p256(), Signer::p256());
    let keyless = provider("later", "https://later.example", r#"{"keys": []}"#);
    let authentication = asking(vec![keyless, provider("p", ISSUER, &signer.jwks())]);
    assert!(bearing(&authentication, &signer.token(&claims())).is_ok());
    let of_later = unknown.token(&with(json!({ "iss": "https://later.example" })));
    let headers = headers(&[("authorization", &format!("Bearer {of_later}"))]);
    let refused = authentication.decide(&view("GET", "/", &headers), NOW).unwrap_err();
    assert_eq!((refused.why, refused.provider), (Why::NoKeys, Some("later")));
    assert!(decide(&authentication, "/", &[]).is_ok());
}

#[test]
fn a_token_is_of_one_provider_and_not_verified_with_the_keys_of_another() {
    let (one, two) = (Signer::p256(), Signer::p256());
    let authentication = asking(vec![provider("one", "i1", &one.jwks()), provider("two", "i2", &two.jwks())]);
    for (signer, issuer, expected) in [
        (&one, "i1", Ok(())),
        (&two, "i2", Ok(())),
        // Both look at the same place.
        (&one, "i2", Err(Why::Signature)),
        (&two, "i1", Err(Why::Signature)),
        (&one, "i3", Err(Why::Issuer)),
    ] {
        let token = signer.token(&with(json!({ "iss": issuer })));
        assert_eq!(bearing(&authentication, &token).map(drop), expected, "{issuer}");
    }
}

#[test]
fn one_good_token_does_not_stand_for_another_that_another_provider_looks_for() {
    let (one, two) = (Signer::p256(), Signer::p256());
    let places = vec![Place::Header(HeaderName::from_static("x-two"), String::new())];
    let other = Provider { places, ..provider("two", "i2", &two.jwks()) };
    let mut authentication = asking(vec![provider("one", "i1", &one.jwks()), other]);
    let each = |one: usize| Requirement::Any(vec![Requirement::Provider(one), Requirement::AllowMissing(vec![one])]);
    authentication.requirement = Requirement::All(vec![each(0), each(1)]);
    let bearer = |signer: &Signer| format!("Bearer {}", signer.token(&with(json!({ "iss": "i1" }))));
    let (good, bad) = (bearer(&one), bearer(&two));
    let [good_two, bad_two] = [&two, &one].map(|signer| signer.token(&with(json!({ "iss": "i2" }))));
    for (first, second, expected) in [
        (None, None, Ok(())),
        (Some(&good), None, Ok(())),
        (None, Some(&good_two), Ok(())),
        (Some(&good), Some(&good_two), Ok(())),
        (Some(&good), Some(&bad_two), Err(Why::Signature)),
        (Some(&bad), Some(&good_two), Err(Why::Signature)),
        (None, Some(&bad_two), Err(Why::Signature)),
    ] {
        let pairs = [first.map(|value| ("authorization", value.as_str())), second.map(|value| ("x-two", value.as_str()))];
        let pairs: Vec<_> = pairs.into_iter().flatten().collect();
        assert_eq!(decide(&authentication, "/", &pairs).map(drop), expected, "{pairs:?}");
    }
}

#[test]
fn keys_are_chosen_by_kid_and_without_one_each_is_tried() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let set = |keys: [Value; 2]| json!({ "keys": keys }).to_string();
    let named = |signer: &Signer, kid: &str| {
        let mut key = signer.jwk();
        key["kid"] = kid.into();
        key
    };
    let nameless = |signer: &Signer| {
        let mut key = signer.jwk();
        key.as_object_mut().unwrap().remove("kid");
        key
    };
    let (by_name, without) = (set([named(&old, "old"), named(&new, "new")]), set([nameless(&old), nameless(&new)]));
    for (keys, header, expected) in [
        (&by_name, json!({ "alg": "ES256", "kid": "new" }), Ok(())),
        (&by_name, json!({ "alg": "ES256", "kid": "old" }), Err(Why::Signature)),
        (&by_name, json!({ "alg": "ES256", "kid": "other" }), Err(Why::NoSuchKey)),
        (&by_name, json!({ "alg": "ES256" }), Ok(())),
        (&without, json!({ "alg": "ES256", "kid": "any" }), Ok(())),
        (&without, json!({ "alg": "ES256" }), Ok(())),
    ] {
        let authentication = asking(vec![provider("p", ISSUER, keys)]);
        let token = new.token_with(&header, &claims());
        assert_eq!(bearing(&authentication, &token).map(drop), expected, "{header} {keys}");
    }
}

#[test]
fn of_a_set_of_keys_what_cannot_be_used_is_left_out_by_name_and_nothing_secret_is_passed_on() {
    let good = Signer::p256().jwk();
    let edit = |name: &str, value: Value| {
        let mut key = good.clone();
        key[name] = value;
        key
    };
    let rsa = |n: String| json!({ "kty": "RSA", "n": n, "e": "AQAB" });
    let keys = [
        (good.clone(), ""),
        (edit("d", "private".into()), ""),
        (edit("key_ops", json!(["verify"])), ""),
        (json!({ "kty": "oct", "k": "c2VjcmV0", "alg": "HS256" }), "its alg is none"),
        (json!({ "kty": "oct", "k": "c2VjcmV0" }), "it is a secret"),
        (edit("use", "enc".into()), "not for signatures"),
        (edit("key_ops", json!(["deriveKey"])), "not to verify"),
        (edit("alg", "ES384".into()), "not one of its kind"),
        (edit("alg", "RSA-OAEP".into()), "its alg is none"),
        (edit("kid", json!(7)), "kid is not text"),
        (edit("crv", "secp256k1".into()), "its crv is none"),
        (edit("x", "AA".into()), "no coordinate"),
        (edit("x", encoded(&[1; 32]).into()), "not on the curve"),
        (rsa(encoded(&[0xff; 128])), "2048"),
        (rsa("!".into()), "n is no number"),
        (json!({ "kty": "OKP", "crv": "X25519", "x": encoded(&[9; 32]) }), "of no kind"),
        (json!({}), "of no kind"),
    ];
    for (key, expected) in keys {
        let read = Keys::parse(&json!({ "keys": [key] }).to_string()).unwrap();
        match read.unusable() {
            [] => assert!(expected.is_empty() && !read.is_empty(), "{key} {expected}"),
            [(0, why)] => assert!(!expected.is_empty() && why.contains(expected) && read.is_empty(), "{key}: {why}"),
            other => panic!("{other:?}"),
        }
        let passed: Value = serde_json::from_str(&read.to_jwks()).unwrap();
        assert!(!read.to_jwks().contains("private") && !read.to_jwks().contains("c2VjcmV0"), "{passed}");
        assert_eq!(passed["keys"].as_array().unwrap().len(), usize::from(expected.is_empty()), "{passed}");
        assert_eq!(Keys::parse(&read.to_jwks()).unwrap().to_jwks(), read.to_jwks());
    }
    for bad in ["", "[]", "{}", r#"{"keys": {}}"#, r#"{"keys": [1]}"#] {
        assert_eq!(Keys::parse(bad).unwrap_err(), super::BadJwks::Form, "{bad}");
    }
    let many = json!({ "keys": vec![json!({}); 65] }).to_string();
    assert_eq!(Keys::parse(&many).unwrap_err(), super::BadJwks::TooMany(65));
    assert_eq!(Keys::parse(&" ".repeat(300_000)).unwrap_err(), super::BadJwks::TooLarge(300_000));
}
