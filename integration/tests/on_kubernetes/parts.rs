//! Pods as the cluster and as the machine see them: what runs in them, where their network is, and that they are replaced.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use ambit_integration::wait;
use ambit_runtime::netns::NetNs;
use anyhow::{Context, ensure};
use nix::unistd::Pid;

use crate::user::{PATIENCE, PAUSE, User};

/// Pods that are found by their labels.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub namespace: &'static str,
    /// What owns them, as kubectl calls it.
    pub owner: &'static str,
    pub selector: &'static str,
}

pub const CONTROL_PLANE: Part =
    Part { namespace: "istio-system", owner: "deployment/istiod-lite", selector: "app.kubernetes.io/name=istiod-lite" };
pub const AGENTS: Part =
    Part { namespace: "istio-system", owner: "daemonset/ambit-node", selector: "app.kubernetes.io/name=ambit-node" };
pub const PROXIES: Part =
    Part { namespace: "istio-system", owner: "daemonset/ztunnel", selector: "app.kubernetes.io/name=ztunnel" };
pub const WAYPOINT: Part =
    Part { namespace: "billing", owner: "deployment/waypoint", selector: "gateway.networking.k8s.io/gateway-name=waypoint" };

impl User<'_> {
    /// What a jsonpath gives for each of these pods, a line each.
    pub async fn pods(&self, part: Part, path: &str) -> anyhow::Result<BTreeSet<String>> {
        let template = format!("jsonpath={{range .items[*]}}{path}{{\"\\n\"}}{{end}}");
        let said = self.cluster.kubectl(&["get", "pods", "-n", part.namespace, "-l", part.selector, "-o", &template]).await?;
        Ok(said.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// Has all pods of a part replaced as `kubectl rollout restart` does, and waits until the new ones are ready.
    pub async fn restart(&self, part: Part) -> anyhow::Result<()> {
        let before = self.pods(part, "{.metadata.uid}").await?;
        ensure!(!before.is_empty(), "there are no pods of {}", part.owner);
        self.cluster.kubectl(&["rollout", "restart", "-n", part.namespace, part.owner]).await?;
        self.cluster.kubectl(&["rollout", "status", "-n", part.namespace, part.owner, "--timeout=180s"]).await?;
        let look = async || {
            tokio::time::sleep(PAUSE).await;
            let pods =
                self.pods(part, "{.metadata.uid} {.metadata.deletionTimestamp}").await.map_err(|error| error.to_string())?;
            let staying: Vec<_> = pods.iter().filter_map(|line| line.strip_suffix(' ')).collect();
            let new = staying.len() == before.len() && staying.iter().all(|pod| !before.contains(*pod));
            if new { Ok(()) } else { Err(format!("{before:?} before, {pods:?} now")) }
        };
        wait::until(&format!("new pods of {}", part.owner), PATIENCE, look).await?;
        Ok(())
    }

    /// Waits until none of these pods is left.
    pub async fn gone(&self, part: Part, before: &BTreeSet<String>) -> anyhow::Result<()> {
        let look = async || {
            tokio::time::sleep(PAUSE).await;
            let now = self.pods(part, "{.metadata.uid}").await.map_err(|error| error.to_string())?;
            let left = now.intersection(before).count();
            if left == 0 && now.len() == before.len() {
                Ok(())
            } else {
                Err(format!("{left} old ones are left of {}", now.len()))
            }
        };
        wait::until(&format!("new pods of {} instead of the old ones", part.owner), PATIENCE, look).await?;
        Ok(())
    }

    /// The addresses of a service.
    pub async fn addresses(&self, namespace: &str, service: &str) -> anyhow::Result<Vec<IpAddr>> {
        let path = "jsonpath={.spec.clusterIPs[*]}";
        let said = self.cluster.kubectl(&["get", "service", "-n", namespace, service, "-o", path]).await?;
        let addresses: Result<Vec<IpAddr>, _> = said.split_whitespace().map(str::parse).collect();
        addresses.with_context(|| format!("the addresses of {namespace}/{service}: {said}"))
    }

    /// The number, for this process, of the one process that has this in its environment: in a container that is what its pod gave it.
    pub async fn process(&self, variable: &str, value: &str) -> anyhow::Result<Pid> {
        let wanted = format!("{variable}={value}");
        let look = async || {
            tokio::time::sleep(PAUSE).await;
            let found = with_variable(&wanted).map_err(|error| error.to_string())?;
            match found.as_slice() {
                [one] => Ok(*one),
                several => Err(format!("{} processes have it", several.len())),
            }
        };
        Ok(wait::until(&format!("a process with {wanted}"), PATIENCE, look).await?.0)
    }

    /// The network namespace of the pod that has this in its environment.
    pub async fn network(&self, variable: &str, value: &str) -> anyhow::Result<NetNs> {
        let process = self.process(variable, value).await?;
        Ok(NetNs::open(format!("/proc/{process}/ns/net"))?)
    }
}

fn with_variable(wanted: &str) -> std::io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path: PathBuf = entry?.path();
        let Some(number) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()) else { continue };
        // It may have ended since, or belong to nobody, like those of the kernel.
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
            found.push(Pid::from_raw(number));
        }
    }
    Ok(found)
}
