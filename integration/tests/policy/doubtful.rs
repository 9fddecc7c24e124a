//! Policies that refer to what does not exist: they open nothing, and their status says what is wrong.

use ambit_integration::{SharedMesh, client::get, suite::Suite};
use anyhow::ensure;
use libtest_mimic::Trial;

use super::{
    CLIENT, DIRECT, NEIGHBOUR, OTHER, ROUTED, SERVERS_PROXY, fresh, policy,
    seen::{Fate, explained, fate, soon},
};

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        fresh(mesh, "an ALLOW policy for a service account that does not exist admits nobody and says so", nobody),
        fresh(mesh, "a policy for a service that does not exist opens nothing, changes nothing and says so", no_target),
        fresh(mesh, "a policy for a service without a waypoint says that it has no effect", no_waypoint),
    ]
}

async fn nobody(suite: &Suite) -> anyhow::Result<()> {
    let (client, other) = (suite.client(CLIENT, DIRECT, 9090)?, suite.client_v6(OTHER, DIRECT, 9090)?);
    let spec = [
        "selector: {matchLabels: {app: server}}",
        "action: ALLOW",
        "rules:",
        "- from: [{source: {principals: [cluster.local/ns/callers/sa/gone]}}]",
    ];
    suite.apply("90-policy.yaml", &policy("only-gone", &spec))?;
    soon(&[&client, &other], Fate::Reset).await?;
    let line = suite.logged(SERVERS_PROXY, |line| line.get("policy") == Some("shop/only-gone")).await?;
    ensure!(line.reason() == "policy_denied_no_allow_match", "{line:?}");
    let names = "rules[0]: there is no service account cluster.local/ns/callers/sa/gone";
    explained(suite, "AuthorizationPolicy shop/only-gone", "ServiceAccountNotFound", names).await?;
    suite.mesh.remove_manifest("90-policy.yaml")?;
    soon(&[&client, &other], Fate::Passed).await.map(drop)
}

async fn no_target(suite: &Suite) -> anyhow::Result<()> {
    let (client, other) = (suite.client(CLIENT, DIRECT, 9090)?, suite.client(OTHER, DIRECT, 9090)?);
    let closed = ["selector: {matchLabels: {app: server}}", "action: DENY", "rules: [{}]"];
    suite.apply("90-policy.yaml", &policy("closed", &closed))?;
    soon(&[&client, &other], Fate::Reset).await?;
    let open = ["targetRefs: [{group: \"\", kind: Service, name: gone}]", "action: ALLOW", "rules: [{}]"];
    suite.apply("91-policy.yaml", &policy("open-gone", &open))?;
    explained(suite, "AuthorizationPolicy shop/open-gone", "TargetNotFound", "Service shop/gone does not exist").await?;
    let shut = ["targetRefs: [{group: \"\", kind: Service, name: gone}]", "action: DENY", "rules: [{}]"];
    suite.apply("92-policy.yaml", &policy("shut-gone", &shut))?;
    explained(suite, "AuthorizationPolicy shop/shut-gone", "TargetNotFound", "Service shop/gone does not exist").await?;
    ensure!(fate(&client).await? == Fate::Reset, "a policy for another service opened this one");
    ensure!(fate(&suite.client(CLIENT, NEIGHBOUR, 9090)?).await? == Fate::Passed, "a policy for nothing denied something");
    suite.mesh.remove_manifest("90-policy.yaml")?;
    soon(&[&client, &other], Fate::Passed).await?;
    ensure!(suite.client(CLIENT, ROUTED, 80)?.send(get("/")).await?.status == 200, "a policy for nothing denied something");
    suite.mesh.remove_manifest("91-policy.yaml")?;
    Ok(suite.mesh.remove_manifest("92-policy.yaml")?)
}

async fn no_waypoint(suite: &Suite) -> anyhow::Result<()> {
    let spec = ["targetRefs: [{group: \"\", kind: Service, name: direct}]", "action: DENY", "rules: [{}]"];
    suite.apply("90-policy.yaml", &policy("unserved", &spec))?;
    let message = "Service shop/direct has no waypoint, so the policy has no effect on it";
    explained(suite, "AuthorizationPolicy shop/unserved", "AncestorNotBound", message).await?;
    suite.mesh.remove_manifest("90-policy.yaml")?;
    Ok(())
}
