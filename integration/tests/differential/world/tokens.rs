//! Tokens of requests: which are believed, what rules know of them, and what a service is told. Times are far away, so that none of it depends
//! on the day.

#[path = "../../routing/tokens/signer.rs"]
mod signer;

use serde_json::{Value, json};

use self::signer::{Signer, encoded};
use super::requests::{HTTP2, Request};
use super::{Service, picked_address, service};
use crate::backend::PORTS;

const NAME: &str = "tokens";
const ISSUER: &str = "https://issuer.example";
/// Seconds since 1970, in 2001 and in 2100.
const PAST: u64 = 1_000_000_000;
const FUTURE: u64 = 4_102_444_800;
/// What rules are about, each of one thing.
const PATHS: [&str; 11] =
    ["/open", "/ann", "/issuer", "/any", "/nobody", "/audience", "/presenter", "/text", "/list", "/deep", "/elsewhere"];

/// A service whose rules go by tokens of one issuer.
///
/// # Errors
/// When tokens cannot be signed.
pub fn picked() -> anyhow::Result<Service> {
    let (issuer, other) = (Signer::create()?, Signer::create()?);
    let authentication = json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication", "metadata": {"name": NAME, "namespace": "shop"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": NAME}],
            "jwtRules": [{
                "issuer": ISSUER, "audiences": ["shop"], "jwks": issuer.jwks(), "outputPayloadToHeader": "x-payload",
                "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}, {"header": "x-deep", "claim": "realm.name"}],
            }],
        },
    });
    let objects = vec![service(NAME, picked_address(19), PORTS[4]), authentication, rules()];
    Ok(Service::picked(NAME, 19, objects, requests(&issuer, &other)?))
}

fn rules() -> Value {
    let to = |path: &str| json!([{"operation": {"paths": [path]}}]);
    let of = |path: &str, source: Value| json!({"from": [{"source": source}], "to": to(path)});
    let when = |path: &str, condition: Value| json!({"to": to(path), "when": [condition]});
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": NAME, "namespace": "shop"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": NAME}],
            "rules": [
                {"to": to("/open")},
                of("/ann", json!({"requestPrincipals": [format!("{ISSUER}/ann")]})),
                of("/issuer", json!({"requestPrincipals": [format!("{ISSUER}/*")]})),
                of("/any", json!({"requestPrincipals": ["*"]})),
                of("/nobody", json!({"notRequestPrincipals": ["*"]})),
                when("/audience", json!({"key": "request.auth.audiences", "values": ["shop"]})),
                when("/presenter", json!({"key": "request.auth.presenter", "values": ["app"]})),
                when("/text", json!({"key": "request.auth.claims[role]", "values": ["adm*"]})),
                when("/list", json!({"key": "request.auth.claims[groups]", "values": ["two"], "notValues": ["three"]})),
                when("/deep", json!({"key": "request.auth.claims[realm][roles]", "values": ["op"]})),
            ],
        },
    })
}

/// What a token says that is believed, with some of it otherwise.
fn claims(changes: Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "sub": "ann", "aud": ["else", "shop"], "azp": "app", "iat": PAST, "exp": FUTURE, "role": "admin",
        "groups": ["one", "two"], "realm": {"name": "r", "roles": ["op", "dev"]},
    });
    if let (Some(all), Value::Object(changes)) = (claims.as_object_mut(), changes) {
        all.extend(changes);
    }
    claims
}

fn requests(issuer: &Signer, other: &Signer) -> anyhow::Result<Vec<Request>> {
    let get = |path: &str| Request::new("GET", path, "svc.shop");
    let bearing = |path: &str, token: &str| get(path).with("authorization", &format!("Bearer {token}"));
    let ann = issuer.token(&claims(json!({})))?;
    let bob = json!({
        "sub": "bob", "aud": "shop", "azp": "other", "role": "user", "groups": ["two", "three"], "realm": {"roles": "opera"},
    });
    let bob = issuer.token(&claims(bob))?;
    let mut requests = Vec::new();
    for path in PATHS {
        requests.extend([get(path), bearing(path, &ann), bearing(path, &bob)]);
    }
    for bad in bad(issuer, other, &ann)? {
        requests.push(bearing("/open", &bad));
    }
    requests.extend([
        bearing("/any", &ann).over(HTTP2),
        bearing("/open", "x.y.z").over(HTTP2),
        bearing("/any", &ann).call(),
        bearing("/open", "x.y.z").call(),
        bearing("/open", "x.y.z").call().over(HTTP2),
        bearing("/open?x=1", "x.y.z"),
        Request::new("POST", "/open", "svc.shop").with("authorization", "Bearer x.y.z").with_body(true),
        get("/any").with("authorization", &format!("Basic {ann}")),
        get(&format!("/any?x=1&access_token={ann}&y=2")),
        get("/open").with("x-sub", "root").with("x-payload", "e30").with("x-deep", "root"),
        bearing("/any", &ann).with("x-sub", "root"),
        // A browser asks without a token whether it may send one.
        Request { method: "OPTIONS".to_owned(), ..bearing("/open", "x.y.z") }
            .with("origin", "https://a.example")
            .with("access-control-request-method", "GET"),
    ]);
    Ok(requests)
}

/// Tokens that are not believed.
fn bad(issuer: &Signer, other: &Signer, good: &str) -> anyhow::Result<Vec<String>> {
    let parts: Vec<&str> = good.split('.').collect();
    let forged = encoded(claims(json!({"sub": "root"})).to_string());
    let with_head = |head: &str| format!("{}.{}.{}", encoded(head), parts[1], parts[2]);
    Ok(vec![
        issuer.token(&claims(json!({"exp": PAST + 1})))?,
        issuer.token(&claims(json!({"nbf": FUTURE - 1})))?,
        issuer.token(&claims(json!({"iss": "https://evil.example"})))?,
        issuer.token(&claims(json!({"aud": "bank"})))?,
        other.token(&claims(json!({})))?,
        format!("{}.{forged}.{}", parts[0], parts[2]),
        with_head(r#"{"alg":"none"}"#),
        with_head(r#"{"alg":"ES256","kid":"x"}"#),
        issuer.by_secret(&claims(json!({}))),
        format!("{}.{}", parts[0], parts[1]),
        "x".to_owned(),
    ])
}
