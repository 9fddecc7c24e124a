//! Tokens of requests: which are believed, what a service is told of them, and what rules know of them.

mod fetched;
mod signer;

use std::time::{Duration, SystemTime};

use ambit_integration::{
    SharedMesh,
    client::{Answer, Client, get},
    shared,
    suite::Suite,
    wait,
};
use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use self::signer::{Signer, encoded};
use super::{CLIENT, ECHO};

/// As for other policies.
const EFFECT: Duration = Duration::from_secs(15);
const ISSUER: &str = "https://issuer.example";
const OTHER: &str = "https://other.example";

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        shared(mesh, "believes the tokens that a RequestAuthentication says, and rules go by what they say", tokens),
        shared(mesh, "believes tokens by keys that their issuer shows, and goes on while it is away", fetched::tokens),
    ]
}

/// Two issuers whose keys are known, one whose keys are not, and a rule for each path.
fn policies(issuer: &Signer, other: &Signer) -> String {
    let (issuer, other) = (issuer.jwks(), other.jwks());
    format!(
        r#"apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: shop}}
spec:
  targetRefs: [{{group: "", kind: Service, name: echo}}]
  jwtRules:
  - issuer: {ISSUER}
    audiences: [shop]
    jwks: '{issuer}'
    outputPayloadToHeader: x-payload
    outputClaimToHeaders: [{{header: x-sub, claim: sub}}, {{header: x-deep, claim: realm.name}}]
  - issuer: {OTHER}
    jwks: '{other}'
    fromHeaders: [{{name: x-token, prefix: "JWT "}}]
    fromParams: [token]
    fromCookies: [session]
    forwardOriginalToken: true
  - issuer: https://later.example
    jwksUri: https://later.example/keys
    fromHeaders: [{{name: x-later}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: tokens, namespace: shop}}
spec:
  targetRefs: [{{group: "", kind: Service, name: echo}}]
  rules:
  - to: [{{operation: {{paths: [/first/open]}}}}]
  - from: [{{source: {{requestPrincipals: ["{ISSUER}/ann"]}}}}]
    to: [{{operation: {{paths: [/first/ann]}}}}]
  - from: [{{source: {{requestPrincipals: ["{ISSUER}/*"]}}}}]
    to: [{{operation: {{paths: [/first/issuer]}}}}]
  - from: [{{source: {{requestPrincipals: ["*"]}}}}]
    to: [{{operation: {{paths: [/first/any]}}}}]
  - from: [{{source: {{notRequestPrincipals: ["*"]}}}}]
    to: [{{operation: {{paths: [/first/nobody]}}}}]
  - to: [{{operation: {{paths: [/first/audience]}}}}]
    when: [{{key: request.auth.audiences, values: [shop]}}]
  - to: [{{operation: {{paths: [/first/presenter]}}}}]
    when: [{{key: request.auth.presenter, values: [app]}}]
  - to: [{{operation: {{paths: [/first/text]}}}}]
    when: [{{key: "request.auth.claims[role]", values: ["adm*"]}}]
  - to: [{{operation: {{paths: [/first/list]}}}}]
    when: [{{key: "request.auth.claims[groups]", values: [two], notValues: [three]}}]
  - to: [{{operation: {{paths: [/first/deep]}}}}]
    when: [{{key: "request.auth.claims[realm][roles]", values: [op]}}]
  - to: [{{operation: {{paths: [/first/scope]}}}}]
    when: [{{key: "request.auth.claims[scope]", values: [write]}}]
"#
    )
}

fn claims() -> anyhow::Result<Value> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    Ok(json!({
        "iss": ISSUER, "sub": "ann", "aud": ["else", "shop"], "azp": "app", "iat": now, "nbf": now - 60, "exp": now + 3600,
        "role": "admin", "groups": ["one", "two"], "realm": { "name": "r", "roles": ["op", "dev"] }, "scope": "read write",
    }))
}

/// The claims with some of them others.
fn with(changes: Value) -> anyhow::Result<Value> {
    let mut claims = claims()?;
    if let (Some(all), Value::Object(changes)) = (claims.as_object_mut(), changes) {
        all.extend(changes);
    }
    Ok(claims)
}

async fn tokens(suite: &Suite) -> anyhow::Result<()> {
    let (issuer, other) = (Signer::create()?, Signer::create()?);
    let client = suite.client(CLIENT, ECHO, 80)?;
    suite.apply("90-tokens.yaml", &policies(&issuer, &other))?;
    for (path, value, status) in [("/first/open", "Bearer a.b.c", 401), ("/first/elsewhere", "", 403)] {
        let ask = async || match client.send(get(path).header("authorization", value)).await {
            Ok(answer) if answer.status == status => Ok(()),
            answer => Err(format!("{answer:?}")),
        };
        wait::until(&format!("{status} at {path}"), EFFECT, ask).await?;
    }
    rules(&client, &issuer, &other).await?;
    refusals(&client, &issuer, &other).await?;
    places(&client, &issuer, &other).await?;
    told(&client, &issuer).await?;
    suite.mesh.remove_manifest("90-tokens.yaml")?;
    let ask = async || match client.send(get("/first/elsewhere").header("authorization", "Bearer a.b.c")).await {
        Ok(answer) if answer.status == 200 => Ok(()),
        answer => Err(format!("{answer:?}")),
    };
    wait::until("an answer to any token again", EFFECT, ask).await.map(drop)
}

async fn ask(client: &Client, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    client.send(headers.iter().fold(get(path), |request, (name, value)| request.header(*name, *value))).await
}

/// What rules know of a token that is believed.
async fn rules(client: &Client, issuer: &Signer, other: &Signer) -> anyhow::Result<()> {
    let ann = format!("Bearer {}", issuer.token(&claims()?)?);
    let less = json!({
        "sub": "bob", "aud": "shop", "azp": "other", "role": "user", "groups": ["two", "three"], "realm": { "roles": "opera" },
        "scope": "writes",
    });
    let bob = format!("Bearer {}", issuer.token(&with(less)?)?);
    let eve = format!("JWT {}", other.token(&with(json!({ "iss": OTHER }))?)?);
    let (ann, bob, eve) = (("authorization", ann.as_str()), ("authorization", bob.as_str()), ("x-token", eve.as_str()));
    for (path, of_nobody, of_ann, of_bob, of_eve) in [
        ("/first/open", 200, 200, 200, 200),
        ("/first/ann", 403, 200, 403, 403),
        ("/first/issuer", 403, 200, 200, 403),
        ("/first/any", 403, 200, 200, 200),
        ("/first/nobody", 200, 403, 403, 403),
        ("/first/audience", 403, 200, 200, 200),
        ("/first/presenter", 403, 200, 403, 200),
        ("/first/text", 403, 200, 403, 200),
        ("/first/list", 403, 200, 403, 200),
        ("/first/deep", 403, 200, 403, 200),
        ("/first/scope", 403, 200, 403, 200),
        ("/first/elsewhere", 403, 403, 403, 403),
    ] {
        for (headers, status) in [(&[][..], of_nobody), (&[ann], of_ann), (&[bob], of_bob), (&[eve], of_eve)] {
            let answer = ask(client, path, headers).await?;
            ensure!(answer.status == status, "{path} {headers:?}: {}", answer.status);
        }
    }
    Ok(())
}

/// Tokens that are not believed, at a path that needs none.
async fn refusals(client: &Client, issuer: &Signer, other: &Signer) -> anyhow::Result<()> {
    let now = claims()?["iat"].as_u64().unwrap_or_default();
    let good = issuer.token(&claims()?)?;
    let parts: Vec<&str> = good.split('.').collect();
    let forged = encoded(with(json!({ "sub": "root" }))?.to_string());
    for (token, status, body) in [
        (good.clone(), 200, ""),
        // Clocks may differ by a minute.
        (issuer.token(&with(json!({ "exp": now - 30 }))?)?, 200, ""),
        (issuer.token(&with(json!({ "exp": now - 90 }))?)?, 401, "Jwt is expired"),
        (issuer.token(&with(json!({ "nbf": now + 90 }))?)?, 401, "Jwt not yet valid"),
        (issuer.token(&with(json!({ "iss": "https://evil.example" }))?)?, 401, "Jwt issuer is not configured"),
        (issuer.token(&with(json!({ "iss": OTHER }))?)?, 401, "Jwt issuer is not configured"),
        (issuer.token(&with(json!({ "aud": "bank" }))?)?, 403, "Audiences in Jwt are not allowed"),
        (other.token(&claims()?)?, 401, "Jwt verification fails"),
        (format!("{}.{forged}.{}", parts[0], parts[2]), 401, "Jwt verification fails"),
        (format!("{}.{}.{}", encoded(r#"{"alg":"none"}"#), parts[1], parts[2]), 401, "Jwt header [alg] is not supported"),
        (format!("{}.{}.", encoded(r#"{"alg":"none"}"#), parts[1]), 401, "Jwt is not in the form"),
        (issuer.by_secret(&claims()?), 401, ""),
        (format!("{}.{}.{}", encoded(r#"{"alg":"ES256","kid":"x"}"#), parts[1], parts[2]), 401, "match kid or alg"),
        (format!("{}.{}", parts[0], parts[1]), 401, "Jwt is not in the form"),
    ] {
        let bearer = format!("Bearer {token}");
        let answer = ask(client, "/first/open", &[("authorization", bearer.as_str())]).await?;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(answer.status == status, "{body:?}, {token}: {} {said:?}", answer.status);
        ensure!(status == 200 || said.contains(body), "{body:?}, {token}: {said:?}");
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        let challenged =
            challenge.starts_with("Bearer realm=\"http://echo/first/open") && challenge.contains("error=\"invalid_token\"");
        ensure!(challenged == (status != 200), "{body:?}: {challenge:?}");
    }
    Ok(())
}

/// Where tokens are looked for, and by whom.
async fn places(client: &Client, issuer: &Signer, other: &Signer) -> anyhow::Result<()> {
    let (own, of_other) = (issuer.token(&claims()?)?, other.token(&with(json!({ "iss": OTHER }))?)?);
    let (bearer, prefixed) = (format!("Bearer {own}"), format!("JWT {of_other}"));
    let [cookie, in_parameter, in_usual] = [
        format!("a=b; session={of_other}"),
        format!("/first/any?x=1&token={of_other}"),
        format!("/first/any?access_token={own}"),
    ];
    let (misplaced, elsewhere) = (format!("JWT {own}"), format!("Bearer {of_other}"));
    let of_later = issuer.token(&with(json!({ "iss": "https://later.example" }))?)?;
    for (path, headers, status) in [
        (in_parameter.as_str(), vec![], 200),
        (in_usual.as_str(), vec![], 200),
        ("/first/any", vec![("x-token", prefixed.as_str())], 200),
        ("/first/any", vec![("cookie", cookie.as_str())], 200),
        ("/first/any", vec![("authorization", prefixed.as_str())], 403),
        ("/first/any", vec![("cookie", "session=x")], 401),
        ("/first/any?token=x", vec![], 401),
        // Where another issuer has its tokens.
        ("/first/any", vec![("x-token", misplaced.as_str())], 401),
        ("/first/any", vec![("authorization", elsewhere.as_str())], 401),
        // Of one whose keys are not known.
        ("/first/open", vec![("x-later", own.as_str())], 401),
        ("/first/open", vec![("x-later", of_later.as_str())], 401),
        ("/first/any", vec![("authorization", bearer.as_str()), ("x-token", prefixed.as_str())], 200),
        // One that is good does not stand for one that is not.
        ("/first/any", vec![("authorization", bearer.as_str()), ("x-token", "JWT x")], 401),
        ("/first/any", vec![("authorization", "Bearer x"), ("x-token", prefixed.as_str())], 401),
        ("/first/any", vec![("authorization", bearer.as_str()), ("x-later", "x")], 401),
    ] {
        let answer = ask(client, path, &headers).await?;
        ensure!(answer.status == status, "{path} {headers:?}: {}", answer.status);
    }
    Ok(())
}

/// What the service sees of a request.
async fn told(client: &Client, issuer: &Signer) -> anyhow::Result<()> {
    let token = issuer.token(&claims()?)?;
    let bearer = format!("Bearer {token}");
    let lies = [("x-sub", "root"), ("x-payload", "e30"), ("x-deep", "root")];
    let believed: Vec<_> = lies.into_iter().chain([("authorization", bearer.as_str())]).collect();
    let seen = ask(client, "/first/any", &believed).await?.echo()?.headers;
    let header = |name: &str| seen.get(name).map(String::as_str);
    ensure!((header("x-sub"), header("x-deep")) == (Some("ann"), Some("r")), "{seen:?}");
    ensure!(header("x-payload") == token.split('.').nth(1) && header("authorization").is_none(), "{seen:?}");
    let seen = ask(client, "/first/open", &lies).await?.echo()?.headers;
    ensure!(lies.iter().all(|(name, _)| !seen.contains_key(*name)), "{seen:?}");
    let path = format!("/first/any?x=1&access_token={token}&y=2");
    let path = ask(client, &path, &[]).await?.echo()?.path;
    ensure!(path == "/first/any?x=1&y=2", "{path}");
    // A browser asks without a token whether it may send one.
    let asking = [("origin", "https://a.example"), ("access-control-request-method", "GET"), ("authorization", "Bearer x")];
    let request =
        asking.iter().fold(get("/first/open").method("OPTIONS"), |request, (name, value)| request.header(*name, *value));
    let status = client.send(request).await?.status;
    ensure!(status == 200, "a preflight is answered {status}");
    Ok(())
}
