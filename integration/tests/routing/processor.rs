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
use libtest_mimic::Trial;
use serde_json::Value;

use super::{CLIENT, ECHO};

/// As for other policies.
const EFFECT: Duration = Duration::from_secs(15);

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![shared(mesh, "has requests and responses processed outside, and lets nothing pass without an answer", processors)]
}

/// A route with a rule for each provider, on a path of its name, and a policy for each rule.
fn policies() -> String {
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
  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: processed, sectionName: {provider}}}]
  externalProcessing: {{provider: {provider}}}
"#
        )
    };
    let providers = ["scrub", "hasty", "absent", "unlisted"];
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: processed, namespace: shop}\nspec:\n  \
                 parentRefs: [{group: \"\", kind: Service, name: echo, port: 80}]\n  rules:\n";
    format!("{route}{}{}", providers.map(rule).concat(), providers.map(policy).concat())
}

async fn ask(client: &Client, provider: &str, verdict: &str, body: &'static str) -> anyhow::Result<Answer> {
    let request = get(&format!("/processed/{provider}?a=1")).header("x-verdict", verdict).header("x-secret", "s");
    let request = request.header("x-user", "me");
    let request = if body.is_empty() { request } else { request.method("POST") };
    client.send_with_body(request, Bytes::from(body)).await
}

async fn processors(suite: &Suite) -> anyhow::Result<()> {
    let client = suite.client(CLIENT, ECHO, 80)?;
    suite.apply("90-processors.yaml", &policies())?;
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
