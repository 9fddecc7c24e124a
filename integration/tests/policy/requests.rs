//! Requests and connections that the waypoint refuses, and what it says.

use std::time::Duration;

use ambit_integration::{
    SharedMesh,
    client::{Answer, Client, get},
    suite::Suite,
    wait,
};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;

use super::{
    CALLERS_PROXY, CLIENT, OTHER, ROUTED, WAYPOINT, fresh, policy,
    seen::{Fate, Series, counted, fate, soon},
};

const REQUESTS: &str = "istio_requests_total";
const TARGET: &str = "targetRefs: [{group: \"\", kind: Service, name: routed}]";

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        fresh(mesh, "a DENY policy on the service answers 403 with reason and policy, logged and counted", deny),
        fresh(mesh, "without a matching ALLOW the 403 names the policy that came closest, and why it did not match", allow),
        fresh(mesh, "an ALLOW policy without rules answers 403 to everybody and is named", allow_nothing),
        fresh(mesh, "a TCP connection that the waypoint refuses is reset, and the caller's proxy says which policy", tcp),
    ]
}

async fn answers(client: &Client, method: &str, path: &str, status: u16) -> anyhow::Result<Answer> {
    let ask = async || match client.send(get(path).method(method)).await {
        Ok(answer) if answer.status == status => Ok(answer),
        other => Err(format!("{method} {path} gave {other:?}")),
    };
    let (answer, took) = wait::until(&format!("status {status}"), Duration::from_secs(5), ask).await?;
    ensure!(took < Duration::from_secs(1), "{method} {path} gave {status} only after {took:?}");
    Ok(answer)
}

/// A 403 that says why: in its headers, in the waypoint's log (with this in its sentence), and in the metric.
async fn refused(suite: &Suite, client: &Client, path: &str, reason: &str, by: &str, because: &str) -> anyhow::Result<()> {
    let answer = answers(client, "POST", path, 403).await?;
    let said = (answer.header("x-ambit-reason"), answer.header("x-ambit-policy"));
    ensure!(said == (Some(reason), Some(by)), "{answer:?}");
    ensure!(answer.body == "RBAC: access denied", "{answer:?}");
    let line = suite.logged(WAYPOINT, |line| line.reason() == reason && line.get("path") == Some(path)).await?;
    ensure!(line.get("policy") == Some(by) && line.get("status") == Some("403"), "{line:?}");
    ensure!(line.get("error").is_some_and(|error| error.contains(because)), "{line:?} does not say: {because}");
    let labels: &[(&str, &str)] = &[
        ("response_code", "403"),
        ("reason", reason),
        ("source_principal", "spiffe://cluster.local/ns/callers/sa/client"),
        ("destination_service", "routed.shop.svc.cluster.local"),
    ];
    counted(suite, &[Series { proxy: WAYPOINT, metric: REQUESTS, labels }], 3, async || {
        for _ in 0..3 {
            ensure!(client.send(get(path).method("POST")).await?.status == 403, "it passed again");
        }
        Ok(())
    })
    .await
}

async fn deny(suite: &Suite) -> anyhow::Result<()> {
    let (client, v6) = (suite.client(CLIENT, ROUTED, 80)?, suite.client_v6(CLIENT, ROUTED, 80)?);
    answers(&client, "POST", "/deny", 200).await?;
    let spec = [TARGET, "action: DENY", "rules:", "- to: [{operation: {methods: [POST], paths: [/deny]}}]"];
    suite.apply("90-policy.yaml", &policy("no-posts", &spec))?;
    let because = "A DENY policy matched (shop/no-posts, rules[0])";
    refused(suite, &client, "/deny", "policy_denied_explicit", "shop/no-posts", because).await?;
    answers(&v6, "POST", "/deny", 403).await?;
    for (client, method, path) in [(&client, "GET", "/deny"), (&v6, "GET", "/deny"), (&client, "POST", "/other")] {
        answers(client, method, path, 200).await?;
    }
    suite.mesh.remove_manifest("90-policy.yaml")?;
    answers(&client, "POST", "/deny", 200).await?;
    answers(&v6, "POST", "/deny", 200).await.map(drop)
}

async fn allow(suite: &Suite) -> anyhow::Result<()> {
    let (client, other) = (suite.client(CLIENT, ROUTED, 80)?, suite.client(OTHER, ROUTED, 80)?);
    let of_other = "- from: [{source: {principals: [cluster.local/ns/callers/sa/other]}}]";
    suite.apply("90-policy.yaml", &policy("only-other", &[TARGET, "action: ALLOW", "rules:", of_other]))?;
    let because = "(closest was shop/only-other, rules[0]): it does not allow spiffe://cluster.local/ns/callers/sa/client";
    refused(suite, &client, "/allow", "policy_denied_no_allow_match", "shop/only-other", because).await?;
    answers(&other, "POST", "/allow", 200).await?;
    let gets = [
        TARGET,
        "action: ALLOW",
        "rules:",
        "- {from: [{source: {principals: [cluster.local/ns/callers/sa/client]}}], to: [{operation: {methods: [GET]}}]}",
    ];
    suite.apply("91-policy.yaml", &policy("client-reads", &gets))?;
    answers(&client, "GET", "/allow", 200).await?;
    let because = "(closest was shop/client-reads, rules[0]): it does not allow POST /allow-less; asked as well: shop/only-other";
    refused(suite, &client, "/allow-less", "policy_denied_no_allow_match", "shop/client-reads", because).await?;
    suite.mesh.remove_manifest("91-policy.yaml")?;
    suite.mesh.remove_manifest("90-policy.yaml")?;
    answers(&client, "POST", "/allow", 200).await.map(drop)
}

async fn allow_nothing(suite: &Suite) -> anyhow::Result<()> {
    let (client, other) = (suite.client(CLIENT, ROUTED, 80)?, suite.client(OTHER, ROUTED, 80)?);
    suite.apply("90-policy.yaml", &policy("nobody", &[TARGET, "action: ALLOW"]))?;
    let because = "(closest was shop/nobody): none of its rules can match here, so it allows nothing";
    refused(suite, &client, "/nobody", "policy_denied_no_allow_match", "shop/nobody", because).await?;
    answers(&other, "GET", "/nobody", 403).await?;
    suite.mesh.remove_manifest("90-policy.yaml")?;
    answers(&client, "POST", "/nobody", 200).await.map(drop)
}

async fn tcp(suite: &Suite) -> anyhow::Result<()> {
    let clients = [suite.client(CLIENT, ROUTED, 9090)?, suite.client_v6(CLIENT, ROUTED, 9090)?];
    let other = suite.client(OTHER, ROUTED, 9090)?;
    soon(&[&clients[0], &clients[1]], Fate::Passed).await?;
    let spec = [TARGET, "action: DENY", "rules:", "- from: [{source: {principals: [cluster.local/ns/callers/sa/client]}}]"];
    suite.apply("90-policy.yaml", &policy("no-tcp", &spec))?;
    soon(&[&clients[0], &clients[1]], Fate::Reset).await?;
    for proxy in [CALLERS_PROXY, WAYPOINT] {
        for address in suite.service(ROUTED)? {
            let at = std::net::SocketAddr::new(address, 9090).to_string();
            let of = |line: &ambit::local::access::AccessLine| {
                line.get("dst.addr") == Some(&at) && line.reason() == "policy_denied_explicit"
            };
            let line = suite.logged(proxy, of).await.with_context(|| format!("refusals of {at}"))?;
            ensure!(line.get("policy") == Some("shop/no-tcp"), "{line:?}");
        }
    }
    ensure!(fate(&other).await? == Fate::Passed, "the policy refused somebody else");
    suite.mesh.remove_manifest("90-policy.yaml")?;
    soon(&[&clients[0], &clients[1]], Fate::Passed).await.map(drop)
}
