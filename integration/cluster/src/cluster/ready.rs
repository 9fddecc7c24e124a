//! Bringing a cluster up: what waits for what, and for how long.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node as KubeNode, ServiceAccount};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::status::is_ready;
use super::{ASK, Cluster, PATIENCE, dns};
use crate::error::{Error, Result};

impl Cluster {
    /// Starts the control plane, then what is to run on the nodes, and waits for all of it.
    pub(super) async fn bring_up(&self, images: &[PathBuf], progress: &(dyn Fn(&str) + Sync)) -> Result<()> {
        let plane = async {
            self.plane.start().await?;
            progress("API server, controllers, scheduler");
            dns::install(&self.plane).await
        };
        let images = async {
            for image in images {
                self.load(image).await?;
            }
            Ok(())
        };
        // Kubelets start when both are there: without the API server they would wait longer each time, without images fail.
        tokio::try_join!(plane, images)?;
        for (node, _) in &self.nodes {
            let path = node.dir().join("run/cluster/start");
            fs::write(&path, "").map_err(Error::path("writing", &path))?;
        }
        for (node, _) in &self.nodes {
            self.await_node(node).await?;
            progress(node.name());
        }
        self.await_account().await?;
        self.await_dns().await?;
        progress("DNS");
        Ok(())
    }

    async fn await_node(&self, node: &ambit_testbed::Node) -> Result<()> {
        let name = node.name().to_owned();
        let wait = async || {
            let name = name.clone();
            let found = self.plane.ask(async move |client| Api::<KubeNode>::all(client).get(&name).await).await?;
            Ok(if is_ready(&found) { Ok(()) } else { Err(format!("{:?}", found.status.and_then(|status| status.conditions))) })
        };
        self.until(&format!("{name} was not ready"), wait).await?;
        // Programs that ask for the ranges of pods find them here.
        let ranges = [node.pod_range_v4().to_string(), node.pod_range_v6().to_string()];
        let patch = json!({ "spec": { "podCIDR": ranges[0], "podCIDRs": ranges } });
        let patched = self.plane.ask(async move |client| {
            Api::<KubeNode>::all(client).patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await
        });
        patched.await.map(drop)
    }

    /// Until there is one, pods of the namespace `default` are refused.
    async fn await_account(&self) -> Result<()> {
        let wait = async || {
            let asked =
                self.plane.ask(async |client| Api::<ServiceAccount>::namespaced(client, "default").get_opt("default").await);
            Ok(asked.await?.map(drop).ok_or_else(|| "it does not exist".to_owned()))
        };
        self.until("the service account `default` was not made", wait).await
    }

    async fn await_dns(&self) -> Result<()> {
        let wait = async || Ok(if self.dns_is_ready().await? { Ok(()) } else { Err("no pod of it is ready".to_owned()) });
        self.until("cluster DNS was not ready", wait).await
    }

    /// Whether a pod of cluster DNS is ready.
    pub(super) async fn dns_is_ready(&self) -> Result<bool> {
        let asked = self.plane.ask(async |client| Api::<Deployment>::namespaced(client, "kube-system").get_opt("coredns").await);
        let ready = asked.await?.and_then(|found| found.status).and_then(|status| status.ready_replicas);
        Ok(ready.is_some_and(|ready| ready > 0))
    }

    /// Asks until the answer is good. The API server may be busy or not know yet, so that its errors are reasons to ask again.
    async fn until(&self, what: &str, mut ask: impl AsyncFnMut() -> Result<Result<(), String>>) -> Result<()> {
        let began = Instant::now();
        loop {
            let reason = match ask().await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(reason)) => reason,
                Err(error) => error.to_string(),
            };
            if let Some((_, dead)) = self.nodes.iter().find(|(_, node)| !node.is_running()) {
                let log = self.options.directory.join(&dead.name).join("init.log");
                return Err(Error::failed(format!("{} ended", dead.name), fs::read_to_string(log).unwrap_or_default()));
            }
            if let Some(error) = self.plane.dead() {
                return Err(error);
            }
            if began.elapsed() > PATIENCE {
                let reason: String = reason.chars().take(500).collect();
                return Err(Error::failed(
                    format!("{what} within {PATIENCE:?}"),
                    format!("{reason}\n  logs: {}", self.options.directory.display()),
                ));
            }
            tokio::time::sleep(ASK).await;
        }
    }
}
