//! Policies of action CUSTOM: who is asked, what is told, and what becomes of a request by each answer.

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
    vec![shared(mesh, "has external authorizers asked by gRPC and by HTTP, and lets nothing pass without an answer", authorizers)]
}

/// For each provider a policy on a path of its name.
fn policies() -> String {
    let policy = |provider: &str| {
        format!(
            r#"---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: ask-{provider}, namespace: shop}}
spec:
  targetRefs: [{{group: "", kind: Service, name: echo}}]
  action: CUSTOM
  provider: {{name: {provider}}}
  rules: [{{to: [{{operation: {{paths: [/first/{provider}]}}}}]}}]
"#
        )
    };
    ["guard", "portal", "whole", "partial", "down", "open", "nobody"].map(policy).concat()
}

pub async fn ask(client: &Client, path: &str, headers: &[(&str, &str)], body: &'static str) -> anyhow::Result<Answer> {
    let request = headers.iter().fold(get(path), |request, (name, value)| request.header(*name, *value));
    let request = if body.is_empty() { request } else { request.method("POST") };
    client.send_with_body(request, Bytes::from(body)).await
}

async fn authorizers(suite: &Suite) -> anyhow::Result<()> {
    let client = suite.client(CLIENT, ECHO, 80)?;
    suite.apply("90-authorizers.yaml", &policies())?;
    for provider in ["guard", "portal", "whole", "partial"] {
        let path = format!("/first/{provider}");
        let ask = async || match ask(&client, &path, &[("x-verdict", "allow")], "").await {
            Ok(answer) if answer.echo().is_ok_and(|echo| echo.headers.contains_key("x-seen")) => Ok(()),
            answer => Err(format!("{answer:?}")),
        };
        wait::until(&format!("{provider} to be asked"), EFFECT, ask).await?;
    }
    by_grpc(suite, &client).await?;
    by_http(&client).await?;
    bodies(&client).await?;
    refusals(&client).await?;
    suite.mesh.remove_manifest("90-authorizers.yaml")?;
    let ask = async || match ask(&client, "/first/guard", &[("x-verdict", "deny")], "").await {
        Ok(answer) if answer.status == 200 => Ok(()),
        answer => Err(format!("{answer:?}")),
    };
    wait::until("nobody to be asked any more", EFFECT, ask).await.map(drop)
}

/// What an authorizer says that it was told.
fn seen(answer: &Answer) -> anyhow::Result<Value> {
    let headers = answer.echo()?.headers;
    Ok(serde_json::from_str(headers.get("x-seen").context("x-seen")?)?)
}

async fn by_grpc(suite: &Suite, client: &Client) -> anyhow::Result<()> {
    let lies = [
        ("x-verdict", "allow"),
        ("x-user", "me"),
        ("x-several", "me"),
        ("x-absent", "me"),
        ("x-secret", "s"),
        // What is set is not for the client to take out.
        ("connection", "x-seen"),
    ];
    let answer = ask(client, "/first/guard?a=1&by=me", &lies, "").await?;
    let echo = answer.echo()?;
    let header = |name: &str| echo.headers.get(name).map(String::as_str);
    // What a client says does not stay beside what the authorizer says, whatever action that one asks for.
    for name in ["x-user", "x-several", "x-absent", "x-present"] {
        ensure!(header(name) == Some("guard"), "{name}: {echo:?}");
    }
    ensure!(header("x-secret").is_none(), "{echo:?}");
    ensure!(echo.path == "/first/guard?a=1&by=guard", "{echo:?}");
    ensure!(answer.header("x-checked") == Some("guard"), "{:?}", answer.headers);
    let seen = seen(&answer)?;
    let text = |name: &str| seen[name].as_str().unwrap_or_default().to_owned();
    let told = ["method", "path", "host", "scheme", "protocol"].map(text);
    ensure!(told == ["GET", "/first/guard?a=1&by=me", "echo", "http", "HTTP/1.1"], "{seen}");
    ensure!(seen["headers"]["x-user"] == "me" && seen["headers"][":path"] == "/first/guard?a=1&by=me", "{seen}");
    let own: Vec<String> = suite.pod(CLIENT)?.ips().iter().map(ToString::to_string).collect();
    ensure!(own.contains(&text("source")) && seen["port"] == 80, "{seen}, {own:?}");
    Ok(())
}

async fn by_http(client: &Client) -> anyhow::Result<()> {
    let told =
        [("x-verdict", "allow"), ("x-user", "me"), ("x-team-a", "a"), ("x-else", "e"), ("x-secret", "s"), ("authorization", "b")];
    let answer = ask(client, "/first/portal?a=1", &told, "").await?;
    let echo = answer.echo()?;
    let header = |name: &str| echo.headers.get(name).map(String::as_str);
    ensure!(header("x-user") == Some("portal") && header("x-secret").is_none() && header("x-hidden").is_none(), "{echo:?}");
    ensure!(header("x-else") == Some("e") && header("x-checked").is_none(), "{echo:?}");
    ensure!(answer.header("x-checked") == Some("portal") && answer.header("x-hidden").is_none(), "{:?}", answer.headers);
    let seen = seen(&answer)?;
    ensure!(seen["method"] == "GET" && seen["path"] == "/check/first/portal?a=1", "{seen}");
    let names = seen["headers"].as_array().cloned().unwrap_or_default();
    for (name, wanted) in
        [("x-verdict", true), ("x-team-a", true), ("x-mesh", true), ("authorization", true), ("x-user", false), ("x-else", false)]
    {
        ensure!(names.contains(&name.into()) == wanted, "{name}: {seen}");
    }
    Ok(())
}

async fn bodies(client: &Client) -> anyhow::Result<()> {
    let allow = [("x-verdict", "allow")];
    for (path, body, told) in [
        ("/first/whole", "short", "short"),
        ("/first/whole", "ten bytes.", "ten bytes."),
        ("/first/partial", "short", "short"),
        ("/first/partial", "more than ten bytes", "more than "),
    ] {
        let answer = ask(client, path, &allow, body).await?;
        ensure!(seen(&answer)?["body"] == told && answer.echo()?.body == body.len(), "{path} {body:?}: {answer:?}");
    }
    // Whoever offers HTTP/2 has a body all the same.
    let offers = [("x-verdict", "allow"), ("connection", "upgrade"), ("upgrade", "h2c")];
    let answer = ask(client, "/first/whole", &offers, "short").await?;
    ensure!(seen(&answer)?["body"] == "short" && answer.echo()?.body == 5, "{answer:?}");
    for headers in [&allow[..], &offers[..]] {
        let answer = ask(client, "/first/whole", headers, "more than ten bytes").await?;
        ensure!(answer.status == 413, "{answer:?}");
    }
    Ok(())
}

async fn refusals(client: &Client) -> anyhow::Result<()> {
    for (path, verdict, status, body) in [
        ("/first/guard", "deny", 401, Some("go away")),
        ("/first/guard", "refuse", 403, Some("")),
        ("/first/guard", "fail", 403, Some("")),
        ("/first/guard", "slow", 403, Some("")),
        ("/first/portal", "deny", 401, Some("go away")),
        ("/first/portal", "fail", 403, Some("")),
        ("/first/portal", "slow", 403, Some("")),
        ("/first/down", "allow", 503, Some("")),
        ("/first/open", "deny", 200, None),
        ("/first/nobody", "allow", 403, Some("RBAC: access denied")),
        // Of what no rule names nobody is told.
        ("/first/guarded", "deny", 200, None),
    ] {
        let answer = ask(client, path, &[("x-verdict", verdict)], "").await?;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(answer.status == status && body.is_none_or(|body| said == body), "{path} {verdict}: {} {said:?}", answer.status);
        ensure!(
            (answer.header("x-why") == Some("because")) == (verdict == "deny" && status == 401),
            "{path} {verdict}: {answer:?}"
        );
        ensure!(answer.header("x-hidden").is_none(), "{path} {verdict}: {answer:?}");
    }
    let answer = ask(client, "/first/portal", &[("x-verdict", "bytes")], "").await?;
    ensure!(answer.status == 401 && answer.body == b"no text: \xff"[..], "{answer:?}");
    let grpc = [("x-verdict", "deny"), ("content-type", "application/grpc")];
    let answer = ask(client, "/first/guard", &grpc, "").await?;
    ensure!(answer.status == 200 && answer.header("grpc-status") == Some("16"), "{answer:?}");
    Ok(())
}
