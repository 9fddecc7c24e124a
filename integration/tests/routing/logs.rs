//! Access logs in Envoy's format language, as a Telemetry asks for them: the same lines, whoever writes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ambit_integration::{
    SharedMesh,
    client::{Client, get},
    shared,
    suite::Suite,
    wait,
};
use anyhow::ensure;
use bytes::Bytes;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::{CLIENT, ECHO};

/// As for other policies.
const EFFECT: Duration = Duration::from_secs(15);
/// The files in the directory of the mesh that the providers of the manifest write to.
const TEXT: &str = "lines.text";
const JSON: &str = "lines.json";

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![shared(mesh, "logs requests in the format that a Telemetry asks for", logs)]
}

const OBJECTS: &str = r#"apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: logged, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: echo}]
  accessLogging:
  - {providers: [{name: lines}]}
  - {providers: [{name: lines-json}], filter: {expression: response.code >= 300}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: logged, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: echo}]
  action: DENY
  rules: [{to: [{operation: {paths: [/logged/denied]}}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: logged, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /logged/gone}}]
    backendRefs: [{name: nobody-there, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /logged/away}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: elsewhere.example}}]
  - matches: [{path: {type: PathPrefix, value: /logged}}]
    backendRefs: [{name: echo-v2, port: 80}]
"#;

/// The newest line of a file that has this text.
fn line(suite: &Suite, file: &str, text: &str) -> Option<String> {
    let lines = std::fs::read_to_string(suite.directory().join(file)).unwrap_or_default();
    lines.lines().rev().find(|line| line.contains(text)).map(str::to_owned)
}

async fn asked(client: &Client, path: &str, id: &str) -> anyhow::Result<u16> {
    Ok(client.send(get(path).header("x-id", id)).await?.status.as_u16())
}

/// Waits for the line of a request, which is to be this one.
async fn written(suite: &Suite, id: &str, said: &str) -> anyhow::Result<()> {
    let written = async || line(suite, TEXT, id).ok_or_else(|| "none".to_owned());
    let (line, _) = wait::until(&format!("the line of {said}"), EFFECT, written).await?;
    let expected = format!("{id} {said} spiffe://cluster.local/ns/callers/sa/client -");
    ensure!(line == expected, "{line}\nand not\n{expected}");
    Ok(())
}

/// Streams of HTTP/2 that the backend, or the client, resets on a connection that goes on.
async fn resets(suite: &Suite, client: &Client, run: &str) -> anyhow::Result<()> {
    let mut session = client.session_h2().await?;
    for (path, ending, status, rest) in [
        ("/logged/reset", "reset", 503, "UR upstream_reset_before_response_started{remote_reset}"),
        ("/logged/slow", "slow", 0, "DR http2.remote_reset"),
    ] {
        let id = format!("{run}{}", path.replace('/', "-"));
        let request = get(path).header("x-id", &id).header("x-key", &id);
        let request = request.header("x-fail-first", "1000000").header("x-fail-with", ending);
        // Who waits for longer takes the request back.
        let answer = tokio::time::timeout(Duration::from_secs(3), session.send(request, Bytes::new())).await;
        let answered = answer.ok().transpose()?.map_or(0, |answer| answer.status.as_u16());
        ensure!(answered == status, "{path}: {answered}");
        written(suite, &id, &format!("GET {path} HTTP/2 {status} 0 {rest} shop/logged/rule[2]/match[0]")).await?;
    }
    Ok(())
}

async fn logs(suite: &Suite) -> anyhow::Result<()> {
    let client = suite.client(CLIENT, ECHO, 80)?;
    suite.apply("90-logs.yaml", OBJECTS)?;
    let run = format!("{}-{:x}", std::process::id(), SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos());
    let probe = async || {
        let status = asked(&client, "/logged/denied", &format!("{run}-probe")).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        match line(suite, TEXT, &format!("{run}-probe")) {
            Some(line) if line.contains(" 403 ") => Ok(()),
            line => Err(format!("{status:?}, {line:?}")),
        }
    };
    wait::until("lines in the format", EFFECT, probe).await?;
    for (path, status, rest) in [
        ("/logged/well?a=1", 200, "- via_upstream shop/logged/rule[2]/match[0]"),
        (
            "/logged/denied",
            403,
            "- rbac_access_denied_matched_policy[ns[shop]-policy[logged]-rule[0]] shop/logged/rule[2]/match[0]",
        ),
        ("/logged/gone", 500, "NC cluster_not_found shop/logged/rule[0]/match[0]"),
        ("/logged/away", 302, "- direct_response shop/logged/rule[1]/match[0]"),
    ] {
        let id = format!("{run}{}", path.replace(['/', '?', '='], "-"));
        let answered = asked(&client, path, &id).await?;
        ensure!(answered == status, "{path}: {answered}");
        written(suite, &id, &format!("GET {path} HTTP/1.1 {status} 0 {rest}")).await?;
    }
    resets(suite, &client, &run).await?;
    let id = format!("{run}-logged-denied");
    let (text, _) =
        wait::until("a line in JSON", EFFECT, async || line(suite, JSON, &id).ok_or_else(|| "none".to_owned())).await?;
    let expected = json!({
        "id": id, "code": 403, "missing": null, "both": "403 -", "nested": {"path": "/logged/denied", "flags": ["-"]},
    });
    ensure!(serde_json::from_str::<Value>(&text)? == expected, "{text}");
    ensure!(line(suite, JSON, &format!("{run}-logged-well")).is_none(), "what went well is logged against the filter");
    suite.mesh.remove_manifest("90-logs.yaml")?;
    let gone = async || match asked(&client, "/logged/away", &format!("{run}-after")).await {
        Ok(404) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    wait::until("the route to be gone", EFFECT, gone).await.map(drop)
}
