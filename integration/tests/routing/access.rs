//! Who may ask for what, decided by the waypoint, and how a refusal explains itself.

use std::time::Duration;

use ambit_integration::{
    SharedMesh,
    client::{Client, get},
    shared,
    suite::Suite,
    wait,
};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use tokio::io::AsyncReadExt;

use super::{CLIENT, ECHO, OTHER};

/// For a change to come into effect on a machine that does other things as well; how soon it does otherwise is measured in `change.rs`.
const EFFECT: Duration = Duration::from_secs(15);

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        shared(mesh, "an ALLOW policy refuses every other caller with 403", allow),
        shared(mesh, "a DENY policy refuses a method and a path, and nothing else", deny),
        shared(mesh, "a DENY policy on a TCP port closes before the server's first byte", deny_tcp),
        shared(mesh, "refuses what goes to an address that a policy names, and not to another of the same service", deny_address),
        shared(mesh, "a policy in dry run refuses nothing until it is enforced", dry_run),
        shared(mesh, "a policy for an unknown service account of the caller's namespace admits nobody", allow_nobody),
    ]
}

fn policy(name: &str, action: &str, rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: echo}}]
  action: {action}
  rules:
{rules}"
    )
}

async fn answers(client: &Client, request: impl Fn() -> http::request::Builder, status: u16) -> anyhow::Result<()> {
    let ask = async || match client.send(request()).await {
        Ok(answer) if answer.status == status => Ok(answer),
        other => Err(format!("{:?} gave {:?}", request(), other.map(|answer| answer.status))),
    };
    let (answer, _) = wait::until(&format!("status {status}"), EFFECT, ask).await?;
    ensure!(status != 403 || answer.body == "RBAC: access denied", "{:?}", answer.body);
    Ok(())
}

async fn allow(suite: &Suite) -> anyhow::Result<()> {
    let (client, other) = (suite.client(CLIENT, ECHO, 80)?, suite.client(OTHER, ECHO, 80)?);
    suite.apply(
        "90-allow.yaml",
        &policy("client-only", "ALLOW", "    - from: [{source: {principals: [cluster.local/ns/callers/sa/client]}}]\n"),
    )?;
    answers(&other, || get("/first"), 403).await?;
    answers(&client, || get("/first"), 200).await?;
    answers(&suite.client(OTHER, "shop/plain", 80)?, || get("/"), 200).await?;
    suite.mesh.remove_manifest("90-allow.yaml")?;
    answers(&other, || get("/first"), 200).await
}

async fn deny(suite: &Suite) -> anyhow::Result<()> {
    let client = suite.client(CLIENT, ECHO, 80)?;
    suite.apply(
        "90-deny.yaml",
        &policy(
            "no-writes",
            "DENY",
            "    - to: [{operation: {methods: [POST], paths: [/first/*]}}]\n    - to: [{operation: {paths: [/exact]}}]\n",
        ),
    )?;
    answers(&client, || get("/exact"), 403).await?;
    answers(&client, || get("/first/a").method("POST"), 403).await?;
    answers(&client, || get("/first/a"), 200).await?;
    answers(&client, || get("/first").method("POST"), 200).await?;
    suite.mesh.remove_manifest("90-deny.yaml")?;
    answers(&client, || get("/exact"), 200).await
}

async fn deny_address(suite: &Suite) -> anyhow::Result<()> {
    let client = suite.client(CLIENT, ECHO, 80)?;
    let deny = |values: &str| policy("address", "DENY", &format!("    - when: [{{key: destination.ip, {values}}}]\n"));
    let addresses = suite.service(ECHO)?;
    if let [only] = addresses[..] {
        suite.apply("90-address.yaml", &deny(&format!("values: ['{only}']")))?;
        answers(&client, || get("/first"), 403).await?;
        suite.apply("90-address.yaml", &deny("values: ['0.0.0.0/8', '::1']"))?;
        answers(&client, || get("/first"), 200).await?;
    } else {
        let other = suite.client_v6(CLIENT, ECHO, 80)?;
        let address = addresses.iter().find(|address| address.is_ipv4()).context("an address of IPv4")?;
        suite.apply("90-address.yaml", &deny(&format!("values: ['{address}']")))?;
        answers(&client, || get("/first"), 403).await?;
        answers(&other, || get("/first"), 200).await?;
        suite.apply("90-address.yaml", &deny("notValues: ['0.0.0.0/0']"))?;
        answers(&other, || get("/first"), 403).await?;
    }
    suite.mesh.remove_manifest("90-address.yaml")?;
    answers(&client, || get("/first"), 200).await
}

async fn deny_tcp(suite: &Suite) -> anyhow::Result<()> {
    suite.apply(
        "90-deny-tcp.yaml",
        &policy(
            "no-greeting",
            "DENY",
            "    - from: [{source: {principals: [cluster.local/ns/callers/sa/other]}}]\n      to: [{operation: {ports: ['7070']}}]\n",
        ),
    )?;
    let (client, other) = (suite.client(CLIENT, ECHO, 7070)?, suite.client(OTHER, ECHO, 7070)?);
    let closed = async || match first_byte(&other).await {
        Ok(Some(byte)) => Err(format!("the server's byte {byte} came through")),
        Ok(None) | Err(_) => Ok(()),
    };
    wait::until("a refused connection", EFFECT, closed).await?;
    ensure!(first_byte(&client).await? == Some(b'h'), "the policy refused somebody else");
    suite.mesh.remove_manifest("90-deny-tcp.yaml")?;
    let open = async || match first_byte(&other).await {
        Ok(Some(_)) => Ok(()),
        closed => Err(format!("{closed:?}")),
    };
    wait::until("the connection again", EFFECT, open).await.map(drop)
}

async fn dry_run(suite: &Suite) -> anyhow::Result<()> {
    let client = suite.client(CLIENT, ECHO, 80)?;
    let annotated = |policy: &str, value: &str| {
        policy.replace("namespace: shop}", &format!("namespace: shop, annotations: {{istio.io/dry-run: '{value}'}}}}"))
    };
    // On connections this would deny all of them.
    let deny = policy("dry-deny", "DENY", "    - to: [{operation: {paths: [/first/*]}}]\n");
    let allow = policy("dry-allow", "ALLOW", "    - from: [{source: {principals: [cluster.local/ns/callers/sa/gone]}}]\n");
    let enforced = policy("enforced", "DENY", "    - to: [{operation: {paths: [/exact], ports: ['80']}}]\n");
    let allow = annotated(&allow, "true");
    suite.apply("90-dry-run.yaml", &format!("{}---\n{allow}---\n{enforced}", annotated(&deny, "true")))?;
    // They are there as soon as the one is that is enforced.
    answers(&client, || get("/exact"), 403).await?;
    answers(&client, || get("/first/a"), 200).await?;
    let bytes = suite.client(CLIENT, ECHO, 7070)?;
    ensure!(first_byte(&bytes).await? == Some(b'h'), "a policy in dry run refused a connection");
    suite.apply("90-dry-run.yaml", &format!("{}---\n{allow}---\n{enforced}", annotated(&deny, "false")))?;
    answers(&client, || get("/first/a"), 403).await?;
    suite.mesh.remove_manifest("90-dry-run.yaml")?;
    answers(&client, || get("/first/a"), 200).await?;
    answers(&client, || get("/exact"), 200).await
}

async fn first_byte(client: &Client) -> anyhow::Result<Option<u8>> {
    let mut stream = client.connect().await?;
    let mut byte = [0; 1];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut byte)).await??;
    Ok((read == 1).then_some(byte[0]))
}

async fn allow_nobody(suite: &Suite) -> anyhow::Result<()> {
    suite.apply(
        "90-nobody.yaml",
        &policy("nobody", "ALLOW", "    - from: [{source: {principals: [cluster.local/ns/callers/sa/gone]}}]\n"),
    )?;
    answers(&suite.client(CLIENT, ECHO, 80)?, || get("/first"), 403).await?;
    answers(&suite.client(OTHER, ECHO, 80)?, || get("/first"), 403).await?;
    suite.mesh.remove_manifest("90-nobody.yaml")?;
    answers(&suite.client(CLIENT, ECHO, 80)?, || get("/first"), 200).await
}
