//! Workloads that the proxies know of and that do not run: pods with an address on a node that is not there, and services of them.
//!
//! They are put where the local mesh keeps what an API server would hold, which only the control plane reads: nothing is started.

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::Context;

use crate::{probe, rig::Rig};

/// Pods of each service.
const REPLICAS: usize = 10;

/// A number of workloads that are there until they are removed.
#[derive(Debug)]
pub struct Synthetic {
    file: PathBuf,
    before: usize,
}

impl Synthetic {
    /// Adds `count` workloads and waits until both node proxies know them.
    ///
    /// # Errors
    /// When the proxies do not hear of them.
    pub async fn add(rig: &Rig, count: usize) -> anyhow::Result<Self> {
        let objects = rig.mesh().bed().dir().join("objects");
        let file = objects.join("perf-synthetic.yaml");
        let before = probe::count(rig, "node-1", "workloads").await?;
        let beside = objects.join("perf-synthetic.new");
        fs::write(&beside, yaml(count)).with_context(|| format!("writing {}", beside.display()))?;
        fs::rename(&beside, &file)?;
        probe::wait_count(rig, "workloads", |now| now >= before + count).await?;
        Ok(Self { file, before })
    }

    /// Removes them and waits until both node proxies have forgotten them.
    ///
    /// # Errors
    /// When the proxies do not hear of it.
    pub async fn remove(self, rig: &Rig) -> anyhow::Result<()> {
        fs::remove_file(&self.file).with_context(|| format!("removing {}", self.file.display()))?;
        probe::wait_count(rig, "workloads", |now| now <= self.before).await
    }
}

fn yaml(count: usize) -> String {
    let mut out = String::from("apiVersion: v1\nkind: Namespace\nmetadata: {name: synthetic}\n---\n");
    for number in 0..count {
        let (high, low) = (number / 250, number % 250 + 1);
        let app = number / REPLICAS;
        let _ = write!(
            out,
            "apiVersion: v1
kind: Pod
metadata:
  name: pod-{number}
  namespace: synthetic
  labels: {{app: app-{app}}}
  annotations: {{ambient.istio.io/redirection: enabled}}
spec: {{nodeName: elsewhere, containers: [{{name: main, image: ambit.dev/none}}]}}
status:
  phase: Running
  podIP: 10.200.{high}.{low}
  podIPs: [{{ip: 10.200.{high}.{low}}}]
  conditions: [{{type: Ready, status: \"True\"}}]
---
"
        );
        if number % REPLICAS == 0 {
            let _ = write!(
                out,
                "apiVersion: v1
kind: Service
metadata: {{name: app-{app}, namespace: synthetic}}
spec:
  clusterIP: 10.97.{}.{}
  clusterIPs: [10.97.{}.{}]
  ipFamilies: [IPv4]
  selector: {{app: app-{app}}}
  ports: [{{name: tcp, port: 80, targetPort: 8080}}]
---
",
                app / 250,
                app % 250 + 1,
                app / 250,
                app % 250 + 1,
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_workload_has_an_address_of_its_own() {
        let text = yaml(10_000);
        let addresses: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("  podIP: ")).collect();
        assert_eq!(addresses.len(), 10_000);
        assert!(addresses.iter().all(|address| address.parse::<std::net::Ipv4Addr>().is_ok()));
        assert_eq!(text.matches("kind: Service\n").count(), 1000);
    }
}
