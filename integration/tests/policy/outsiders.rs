//! A caller that is not enrolled has no identity: STRICT refuses it, PERMISSIVE lets it in and says that it came in clear.

use std::net::SocketAddr;

use ambit_integration::{SharedMesh, client::Client, suite::Suite};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;

use super::{
    CLIENT, DIRECT, OUTSIDER, SERVERS_PROXY, fresh,
    seen::{Fate, Series, counted, fate, soon},
};

/// The policy that STRICT becomes.
const STRICT: &str = "istio-system/istio_converted_static_strict";

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        fresh(mesh, "STRICT refuses a pod that is not enrolled with its reason, and PERMISSIVE takes it in clear", strict),
        fresh(mesh, "an ALLOW policy by principal refuses a pod that is not enrolled", allow),
    ]
}

/// The pod that is not enrolled, as it calls the server by its addresses and by its service.
fn outsiders(suite: &Suite) -> anyhow::Result<Vec<(Client, SocketAddr)>> {
    let (caller, server) = (suite.pod(OUTSIDER)?, suite.pod("shop/server")?);
    let ips = server.ips();
    let [v4, v6] = [ips[0], ips[ips.len() - 1]].map(|address| SocketAddr::new(address, 9090));
    Ok(vec![
        (Client::new(caller.clone(), v4), v4),
        (Client::new(caller, v6), v6),
        (suite.client(OUTSIDER, DIRECT, 9090)?, v4),
        (suite.client_v6(OUTSIDER, DIRECT, 9090)?, v6),
    ])
}

async fn strict(suite: &Suite) -> anyhow::Result<()> {
    let outsiders = outsiders(suite)?;
    let clients: Vec<&Client> = outsiders.iter().map(|(client, _)| client).collect();
    soon(&clients, Fate::Passed).await?;
    for (_, server) in &outsiders {
        let line = suite
            .logged(SERVERS_PROXY, |line| {
                line.get("dst.addr") == Some(&server.to_string()) && line.get("src.workload") == Some("old")
            })
            .await?;
        ensure!(line.reason() == "ok" && line.get("security") == Some("none"), "{line:?}");
        ensure!(line.get("src.identity").is_none(), "plain text proves no identity: {line:?}");
    }
    suite.apply("90-strict.yaml", "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n")?;
    soon(&clients, Fate::Reset).await?;
    let labels: &[(&str, &str)] = &[
        ("reporter", "destination"),
        ("reason", "strict_mtls_required"),
        ("source_workload", "old"),
        ("connection_security_policy", "none"),
    ];
    let refused = Series { proxy: SERVERS_PROXY, metric: "istio_tcp_connections_failed_total", labels };
    counted(suite, &[refused], clients.len() as u64, async || {
        for client in &clients {
            ensure!(fate(client).await? == Fate::Reset, "{client:?} passed again");
        }
        Ok(())
    })
    .await?;
    for (_, server) in &outsiders {
        let line = suite
            .logged(SERVERS_PROXY, |line| {
                line.get("dst.addr") == Some(&server.to_string()) && line.reason() == "strict_mtls_required"
            })
            .await
            .with_context(|| format!("refusals of {server}"))?;
        ensure!(line.get("policy") == Some(STRICT) && line.get("security") == Some("none"), "{line:?}");
    }
    for member in [suite.client(CLIENT, DIRECT, 9090)?, suite.client_v6(CLIENT, DIRECT, 9090)?] {
        ensure!(fate(&member).await? == Fate::Passed, "STRICT refuses {member:?}, which is enrolled");
    }
    suite.mesh.remove_manifest("90-strict.yaml")?;
    soon(&clients, Fate::Passed).await.map(drop)
}

async fn allow(suite: &Suite) -> anyhow::Result<()> {
    let outsiders = outsiders(suite)?;
    let clients: Vec<&Client> = outsiders.iter().map(|(client, _)| client).collect();
    let spec = ["action: ALLOW", "rules:", "- from: [{source: {principals: [cluster.local/ns/callers/sa/client]}}]"];
    suite.apply("90-policy.yaml", &super::policy("members", &spec))?;
    soon(&clients, Fate::Reset).await?;
    let refused = |line: &ambit::local::access::AccessLine| {
        line.get("policy") == Some("shop/members") && line.get("src.workload") == Some("old")
    };
    let line = suite.logged(SERVERS_PROXY, refused).await?;
    ensure!(line.reason() == "policy_denied_no_allow_match", "{line:?}");
    ensure!(line.get("error").is_some_and(|error| error.contains("a peer without identity")), "{line:?}");
    suite.mesh.remove_manifest("90-policy.yaml")?;
    soon(&clients, Fate::Passed).await.map(drop)
}
