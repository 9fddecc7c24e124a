//! Requests and responses that are processed outside: what is told, what is made of it, and what becomes of a request without an answer.

use std::time::Duration;

use ambit_integration::{
    SharedMesh,
    client::{Answer, Client, get},
    shared,
    suite::Suite,
    wait,
};
use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{CLIENT, ECHO};

/// As for other policies.
const EFFECT: Duration = Duration::from_secs(15);

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        shared(mesh, "has requests and responses processed outside, and lets nothing pass without an answer", processors),
        shared(mesh, "has bodies processed outside piece by piece, and trailers, and what is told said by the processor", pieces),
    ]
}

/// A route with a rule for each provider, on a path of its name, and a policy for each rule.
fn policies(route: &str, providers: &[&str]) -> String {
    let rule = |provider: &str| {
        format!(
            "  - name: {provider}\n    matches: [{{path: {{type: PathPrefix, value: /processed/{provider}}}}}]\n    \
             backendRefs: [{{name: echo-v2, port: 80}}]\n"
        )
    };
    let policy = |provider: &str| {
        format!(
            r#"---
apiVersion: ambit.dev/v1alpha1
kind: RequestPolicy
metadata: {{name: process-{provider}, namespace: shop}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: {route}, sectionName: {provider}}}]
  externalProcessing: {{provider: {provider}}}
"#
        )
    };
    let head = format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {route}, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: echo, port: 80}}]\n  rules:\n"
    );
    let (rules, policies): (Vec<_>, Vec<_>) = providers.iter().map(|provider: &&str| (rule(provider), policy(provider))).unzip();
    format!("{head}{}{}", rules.concat(), policies.concat())
}

async fn ask(client: &Client, provider: &str, verdict: &str, body: &'static str) -> anyhow::Result<Answer> {
    let request = get(&format!("/processed/{provider}?a=1")).header("x-verdict", verdict).header("x-secret", "s");
    let request = request.header("x-user", "me");
    let request = if body.is_empty() { request } else { request.method("POST") };
    client.send_with_body(request, Bytes::from(body)).await
}

async fn processors(suite: &Suite) -> anyhow::Result<()> {
    let client = suite.client(CLIENT, ECHO, 80)?;
    suite.apply("90-processors.yaml", &policies("processed", &["scrub", "hasty", "absent", "unlisted"]))?;
    for provider in ["scrub", "hasty"] {
        let ask = async || match ask(&client, provider, "change", "").await {
            Ok(answer) if answer.echo().is_ok_and(|echo| echo.headers.contains_key("x-seen")) => Ok(()),
            answer => Err(format!("{answer:?}")),
        };
        wait::until(&format!("{provider} to be told"), EFFECT, ask).await?;
    }
    changes(&client).await?;
    bodies(&client).await?;
    failures(&client).await?;
    suite.mesh.remove_manifest("90-processors.yaml")?;
    let gone = async || match ask(&client, "scrub", "answer", "").await {
        Ok(answer) if answer.status == 404 => Ok(()),
        answer => Err(format!("{answer:?}")),
    };
    wait::until("nobody to be told any more", EFFECT, gone).await.map(drop)
}

/// A request whose body and trailers the service gives back.
fn given_back(verdict: &str) -> http::request::Builder {
    get("/processed/pieces").method("POST").header("x-verdict", verdict).header("x-give-back", "yes")
}

async fn pieces(suite: &Suite) -> anyhow::Result<()> {
    let client = suite.client(CLIENT, ECHO, 80)?;
    suite.apply("91-pieces.yaml", &policies("pieces", &["pieces"]))?;
    let told = async || match ask(&client, "pieces", "change", "").await {
        Ok(answer) if answer.echo().is_ok_and(|echo| echo.headers.contains_key("x-seen")) => Ok(()),
        answer => Err(format!("{answer:?}")),
    };
    wait::until("the processor to be told", EFFECT, told).await?;
    // More than is ever kept of a body.
    let body: Bytes = (0..2_u32 << 20).map(|at| b'a' + (at % 26) as u8).collect();
    let expected: Bytes = body.iter().map(|byte| if *byte == b'a' { b'.' } else { byte.to_ascii_uppercase() }).collect();
    let trailers: HeaderMap = [("x-end", "own"), ("x-secret", "s")]
        .map(|(key, value)| (HeaderName::from_static(key), HeaderValue::from_static(value)))
        .into_iter()
        .collect();
    let mut session = client.session_h2().await?;
    let answer = session.send_with_trailers(given_back("pieces"), body.clone(), trailers.clone()).await?;
    ensure!(answer.status == 200 && answer.body == expected, "{} with {} bytes", answer.status, answer.body.len());
    let pieces = answer.header("x-pieces").and_then(|pieces| pieces.parse::<u32>().ok());
    ensure!(pieces.is_some_and(|pieces| pieces > 0) && answer.header("content-length").is_none(), "{:?}", answer.headers);
    let said = |name: &str| answer.trailers.get(name).and_then(|value| value.to_str().ok());
    let ends = ["x-end", "x-request-end", "x-response-end", "x-secret"].map(said);
    ensure!(ends == [Some("own"), Some("seen"), Some("seen"), None], "{:?}", answer.trailers);
    // Over HTTP/1.1 it need not say how long the body is, either.
    let answer = client.send_with_body(given_back("pieces"), body.clone()).await?;
    ensure!(answer.status == 200 && answer.body == expected, "{} with {} bytes", answer.status, answer.body.len());
    let answer = session.send_with_trailers(given_back("skip"), body.clone(), trailers.clone()).await?;
    ensure!(answer.status == 200 && answer.body == body, "{} with {} bytes", answer.status, answer.body.len());
    ensure!(answer.header("x-pieces") == Some("0") && answer.trailers == trailers, "{:?} {:?}", answer.headers, answer.trailers);
    // No response has begun.
    let answer = session.send(given_back("cut"), body).await?;
    let said = answer.body == "go away" && answer.header("x-why") == Some("because");
    ensure!(answer.status == 429 && said, "{} {:?}", answer.status, answer.headers);
    suite.mesh.remove_manifest("91-pieces.yaml")?;
    Ok(())
}

async fn changes(client: &Client) -> anyhow::Result<()> {
    let answer = ask(client, "scrub", "change", "").await?;
    let echo = answer.echo()?;
    let header = |name: &str| echo.headers.get(name).map(String::as_str);
    ensure!(header("x-user") == Some("processor") && header("x-secret").is_none(), "{echo:?}");
    // What a request was judged by stays, but for its path, and so does its route.
    ensure!(header("x-envoy-some").is_none() && echo.method == "GET" && echo.version == "v2", "{echo:?}");
    ensure!(header("host").is_none_or(|host| host == "echo") && echo.path == "/first/changed", "{echo:?}");
    ensure!(answer.header("x-checked") == Some("200"), "{:?}", answer.headers);
    let seen: Value = serde_json::from_str(header("x-seen").context("x-seen")?)?;
    let told = ["method", "path", "host", "scheme"].map(|name| seen[name].as_str().unwrap_or_default().to_owned());
    ensure!(told == ["GET", "/processed/scrub?a=1", "echo", "http"] && seen["end"] == true, "{seen}");
    Ok(())
}

async fn bodies(client: &Client) -> anyhow::Result<()> {
    let answer = ask(client, "scrub", "body", "a body").await?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let echo: Value = serde_json::from_str(text.strip_prefix("whole ").with_context(|| format!("{answer:?}"))?)?;
    ensure!(echo["body"] == 12 && echo["method"] == "POST" && echo["headers"]["x-user"] == "body", "{echo}");
    // Without one there is nothing to be told.
    let answer = ask(client, "hasty", "body", "a body").await?;
    ensure!(answer.echo()?.body == 6, "{answer:?}");
    Ok(())
}

async fn failures(client: &Client) -> anyhow::Result<()> {
    for (provider, verdict, status, body) in [
        ("scrub", "answer", 429, Some("go away")),
        ("scrub", "late-answer", 429, Some("go away")),
        ("scrub", "slow", 504, None),
        ("scrub", "fail", 500, None),
        ("scrub", "wrong", 500, None),
        ("scrub", "end", 200, None),
        ("hasty", "answer", 429, Some("go away")),
        ("hasty", "slow", 200, None),
        ("hasty", "fail", 200, None),
        ("hasty", "wrong", 200, None),
        ("absent", "change", 500, None),
        ("unlisted", "change", 500, None),
    ] {
        let answer = ask(client, provider, verdict, "").await?;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        // Where nobody listens it is for those in between to say so in time.
        let late = provider == "absent" && answer.status == 504;
        ensure!(
            (answer.status == status || late) && body.is_none_or(|body| said == body),
            "{provider} {verdict}: {} {said:?}",
            answer.status
        );
        ensure!((answer.header("x-why") == Some("because")) == (status == 429), "{provider} {verdict}: {answer:?}");
        ensure!((status == 200) == answer.echo().is_ok(), "{provider} {verdict}: {answer:?}");
    }
    Ok(())
}
