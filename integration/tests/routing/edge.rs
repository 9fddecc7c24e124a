//! A Gateway at the edge of the mesh, whose proxy runs for as long as it is there.

use std::time::Duration;

use ambit_integration::{SharedMesh, client::Client, shared, suite::Suite, wait};
use anyhow::ensure;
use libtest_mimic::Trial;

use super::CLIENT;

/// How long a proxy may take to run and to serve, or to end.
const PATIENCE: Duration = Duration::from_secs(30);
const FILE: &str = "40-edge.yaml";
const PORT: u16 = 9080;
const OBJECTS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: ambit
  listeners: [{name: http, port: 9080, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: from-outside, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  rules:
  - filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /inside}}}]
    backendRefs: [{name: echo, port: 80}]
";

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![shared(mesh, "a Gateway at the edge of the mesh is served at its ports until it is gone", served)]
}

async fn served(suite: &Suite) -> anyhow::Result<()> {
    suite.apply(FILE, OBJECTS)?;
    let asked = async || {
        let edge = suite.pod("shop/edge")?;
        Client::new(suite.pod(CLIENT)?, (edge.ip(), PORT).into()).get("/outside").await?.echo()
    };
    let answered = async || asked().await.map_err(|error: anyhow::Error| format!("{error:#}"));
    let (echo, _) = wait::until("an answer through the Gateway", PATIENCE, answered).await?;
    ensure!(echo.path == "/inside", "{echo:?}");
    suite.mesh.remove_manifest(FILE)?;
    let gone = async || if suite.pod("shop/edge").is_err() { Ok(()) } else { Err("its pod is there".to_owned()) };
    wait::until("the end of its proxy", PATIENCE, gone).await?;
    Ok(())
}
