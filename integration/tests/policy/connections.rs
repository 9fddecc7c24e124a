//! Connections that the node proxies refuse, and what both ends say.

use std::time::Duration;

use ambit_integration::{SharedMesh, client::Client, suite::Suite, wait};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use tokio::io::AsyncReadExt;

use super::{
    CALLERS_PROXY, CLIENT, DIRECT, NEIGHBOUR, OTHER, SERVERS_PROXY, fresh, policy,
    seen::{Fate, Series, counted, echoed, fate, soon},
};

/// How many refusals are counted.
const SEVERAL: u64 = 5;

const FAILED: &str = "istio_tcp_connections_failed_total";

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        fresh(mesh, "a DENY policy with a selector resets the caller it names, and both ends say which policy", selector),
        fresh(mesh, "a DENY policy of the namespace holds for every server in it", namespace),
        fresh(mesh, "an ALLOW policy without this caller resets it, and both ends say what came closest", allow),
        fresh(mesh, "a policy cuts the open connections that it denies, and no others", cut),
    ]
}

/// The clients of one pod for one service over IPv4 and IPv6.
fn both(suite: &Suite, pod: &str, service: &str) -> anyhow::Result<[Client; 2]> {
    Ok([suite.client(pod, service, 9090)?, suite.client_v6(pod, service, 9090)?])
}

/// That calls of `refused` are reset, are counted by both ends, and are logged by both with reason and policy.
async fn refusal(suite: &Suite, refused: &[Client; 2], service: &str, reason: &str, by: &str) -> anyhow::Result<()> {
    let [v4, v6] = refused;
    soon(&[v4, v6], Fate::Reset).await?;
    let labels = |reporter| [("reporter", reporter), ("reason", reason)];
    let (source, destination) = (labels("source"), labels("destination"));
    let metrics = [
        Series { proxy: CALLERS_PROXY, metric: FAILED, labels: &source },
        Series { proxy: SERVERS_PROXY, metric: FAILED, labels: &destination },
    ];
    counted(suite, &metrics, 2 * SEVERAL, async || {
        for client in [v4, v6].into_iter().cycle().take(2 * SEVERAL as usize) {
            ensure!(fate(client).await? == Fate::Reset, "it passed again");
        }
        Ok(())
    })
    .await?;
    for address in [suite.service(service)?, suite.pod("shop/server")?.ips()].concat() {
        let is_dialled = suite.service(service)?.contains(&address);
        let (proxy, direction) = if is_dialled { (CALLERS_PROXY, "outbound") } else { (SERVERS_PROXY, "inbound") };
        let line = suite
            .logged(proxy, |line| {
                line.get("direction") == Some(direction)
                    && line.reason() == reason
                    && line.get("policy") == Some(by)
                    && line.get("dst.addr").is_some_and(|at| at == std::net::SocketAddr::new(address, 9090).to_string())
            })
            .await
            .with_context(|| format!("refusals of {address}"))?;
        ensure!(line.get("src.identity") == Some("spiffe://cluster.local/ns/callers/sa/client"), "{line:?}");
        ensure!(line.get("error").is_some_and(|error| error.contains(by)), "{line:?}");
        ensure!(line.get("bytes_sent") == Some("0") && line.get("bytes_recv") == Some("0"), "{line:?}");
    }
    Ok(())
}

async fn selector(suite: &Suite) -> anyhow::Result<()> {
    let (client, other) = (both(suite, CLIENT, DIRECT)?, both(suite, OTHER, DIRECT)?);
    let elsewhere = both(suite, CLIENT, NEIGHBOUR)?;
    soon(&[&client[0], &client[1]], Fate::Passed).await?;
    let spec = [
        "selector: {matchLabels: {app: server}}",
        "action: DENY",
        "rules:",
        "- from: [{source: {principals: [cluster.local/ns/callers/sa/client]}}]",
    ];
    suite.apply("90-policy.yaml", &policy("no-client", &spec))?;
    refusal(suite, &client, DIRECT, "policy_denied_explicit", "shop/no-client").await?;
    for client in other.iter().chain(&elsewhere) {
        ensure!(fate(client).await? == Fate::Passed, "{client:?} suffers too");
    }
    suite.mesh.remove_manifest("90-policy.yaml")?;
    soon(&[&client[0], &client[1]], Fate::Passed).await.map(drop)
}

async fn namespace(suite: &Suite) -> anyhow::Result<()> {
    let (client, other) = (both(suite, CLIENT, DIRECT)?, both(suite, OTHER, DIRECT)?);
    let elsewhere = both(suite, CLIENT, NEIGHBOUR)?;
    let spec = ["action: DENY", "rules:", "- from: [{source: {principals: [cluster.local/ns/callers/sa/client]}}]"];
    suite.apply("90-policy.yaml", &policy("no-client-anywhere", &spec))?;
    refusal(suite, &client, DIRECT, "policy_denied_explicit", "shop/no-client-anywhere").await?;
    soon(&[&elsewhere[0], &elsewhere[1]], Fate::Reset).await?;
    for client in &other {
        ensure!(fate(client).await? == Fate::Passed, "{client:?} suffers too");
    }
    suite.mesh.remove_manifest("90-policy.yaml")?;
    soon(&[&client[0], &client[1], &elsewhere[0], &elsewhere[1]], Fate::Passed).await.map(drop)
}

async fn allow(suite: &Suite) -> anyhow::Result<()> {
    let (client, other) = (both(suite, CLIENT, DIRECT)?, both(suite, OTHER, DIRECT)?);
    let spec = [
        "selector: {matchLabels: {app: server}}",
        "action: ALLOW",
        "rules:",
        "- from: [{source: {principals: [cluster.local/ns/callers/sa/other]}}]",
    ];
    suite.apply("90-policy.yaml", &policy("only-other", &spec))?;
    refusal(suite, &client, DIRECT, "policy_denied_no_allow_match", "shop/only-other").await?;
    let line = suite.logged(SERVERS_PROXY, |line| line.reason() == "policy_denied_no_allow_match").await?;
    let why = "(closest was shop/only-other, rules[0]): principals did not match cluster.local/ns/callers/sa/client";
    ensure!(line.get("error").is_some_and(|error| error.contains(why)), "{line:?}");
    for client in &other {
        ensure!(fate(client).await? == Fate::Passed, "{client:?} suffers too");
    }
    suite.mesh.remove_manifest("90-policy.yaml")?;
    soon(&[&client[0], &client[1]], Fate::Passed).await.map(drop)
}

async fn cut(suite: &Suite) -> anyhow::Result<()> {
    let clients = both(suite, CLIENT, DIRECT)?;
    let (mut v4, mut v6) = (clients[0].connect().await?, clients[1].connect().await?);
    let mut other = suite.client(OTHER, DIRECT, 9090)?.connect().await?;
    for stream in [&mut v4, &mut v6, &mut other] {
        echoed(stream, b"before").await?;
    }
    let spec = ["action: DENY", "rules:", "- from: [{source: {principals: [cluster.local/ns/callers/sa/client]}}]"];
    suite.apply("90-policy.yaml", &policy("cut", &spec))?;
    for (family, stream) in [("IPv4", &mut v4), ("IPv6", &mut v6)] {
        let mut rest = [0; 1];
        let end = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut rest)).await;
        let end = end.with_context(|| format!("the connection over {family} is still open"))?;
        ensure!(end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset), "{family}: {end:?}");
    }
    let cut = async || {
        let lines = suite.mesh.access_log(SERVERS_PROXY);
        let by_policy = lines.iter().filter(|line| line.get("policy") == Some("shop/cut"));
        let lines = by_policy.filter(|line| line.reason() == "policy_denied_explicit" && line.get("bytes_sent") == Some("6"));
        if lines.count() == 2 { Ok(()) } else { Err("the two that were cut are not logged with the policy".to_owned()) }
    };
    wait::until("lines of both", Duration::from_secs(3), cut).await?;
    echoed(&mut other, b"after").await.context("the policy cut somebody else's connection")?;
    suite.mesh.remove_manifest("90-policy.yaml")?;
    soon(&[&clients[0], &clients[1]], Fate::Passed).await.map(drop)
}
