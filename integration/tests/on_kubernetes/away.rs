//! The API server and etcd go away and come back, and replicas of the control plane are killed, under load.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ambit_integration::wait;
use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::parts::CONTROL_PLANE;
use crate::user::{PATIENCE, PAUSE, User, uptime};

/// How long the API server is away unless `AMBIT_API_AWAY_SECONDS` says otherwise.
const AWAY: u64 = 20;

/// How long etcd is away.
const STORE_AWAY: Duration = Duration::from_secs(5);

/// Policies that are written before, and after, replicas are killed: the one that leads writes the status of each.
const POLICIES: usize = 20;

/// The Lease of the replica that leads.
const LEASE: &str = "istiod-lite-leader";

impl User<'_> {
    /// The API server is away, and does not know the past any more when it is back; then etcd is.
    pub async fn api_server_away(&self) -> anyhow::Result<()> {
        let load = self.under_load().await?;
        let away = std::env::var("AMBIT_API_AWAY_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(AWAY);

        let since = Instant::now();
        self.cluster.kill_api_server().await;
        tokio::time::sleep(Duration::from_secs(away)).await;
        let asked = self.cluster.kubectl(&["get", "--raw", "/readyz", "--request-timeout=2s"]).await;
        ensure!(asked.is_err(), "the API server was killed, and answers");
        load.judge(self, &format!("the API server was away for {away} s"), since, |_| None).await?;

        // Watches go on from where they were, which nobody knows any more: they are answered with 410.
        self.cluster.compact().await?;
        let since = Instant::now();
        self.cluster.start_api_server().await?;
        (self.tell)(&format!(
            "the API server is ready after {:.1} s, and has forgotten its history",
            since.elapsed().as_secs_f64()
        ));
        self.takes_effect("v1").await?;
        load.judge(self, "the API server came back", since, |_| None).await?;

        let since = Instant::now();
        self.cluster.kill_etcd().await;
        tokio::time::sleep(STORE_AWAY).await;
        self.cluster.start_etcd().await?;
        (self.tell)("etcd was killed and started again");
        self.takes_effect("v2").await?;
        load.judge(self, "etcd was restarted", since, |_| None).await
    }

    /// The replica that leads is killed while it writes; then both are. At last new pods are in the mesh as they start.
    pub async fn control_plane_killed(&self) -> anyhow::Result<()> {
        let load = self.under_load().await?;
        let replicas = self.pods(CONTROL_PLANE, "{.metadata.name}").await?;
        ensure!(replicas.len() == 2, "{replicas:?}");

        let since = Instant::now();
        let leader = self.leader().await?;
        let name = leader.rsplit_once('_').map(|(name, _)| name.to_owned()).context("a Lease names its holder NAME_NUMBER")?;
        let killed = self.kill_while_writing(&BTreeSet::from([name]), "first").await?;
        let look = async || {
            tokio::time::sleep(PAUSE).await;
            let now = self.leader().await.map_err(|error| error.to_string())?;
            if now != leader && !now.is_empty() { Ok(now) } else { Err(format!("{now:?} leads")) }
        };
        let (now, _) = wait::until("another replica that leads", PATIENCE, look).await?;
        (self.tell)(&format!("{leader} led, and {:.1} s after it was killed {now} does", killed.elapsed().as_secs_f64()));
        self.takes_effect("v1").await?;
        self.all_replicas().await?;
        load.judge(self, "the replica that led was killed", since, |_| None).await?;

        let since = Instant::now();
        self.kill_while_writing(&replicas, "second").await?;
        self.all_replicas().await?;
        self.takes_effect("v2").await?;
        // So late, because a kubelet waits longer for the API server that was away, and for etcd, than anybody else: up to a minute.
        self.first_requests("back", 2).await?;
        load.judge(self, "all replicas of the control plane were killed", since, |_| None).await
    }

    /// Who leads.
    async fn leader(&self) -> anyhow::Result<String> {
        let path = "jsonpath={.spec.holderIdentity}";
        Ok(self.cluster.kubectl(&["get", "lease", "-n", CONTROL_PLANE.namespace, LEASE, "-o", path]).await?)
    }

    /// Writes policies, kills these pods' programs as soon as the first status of one is there, and writes more. Gives when they were killed.
    async fn kill_while_writing(&self, pods: &BTreeSet<String>, round: &str) -> anyhow::Result<Instant> {
        let mut processes = Vec::new();
        for pod in pods {
            processes.push(self.process("POD_NAME", pod).await?);
        }
        self.apply("policies-1.json", &policies(0..POLICIES, round)).await?;
        let look = async || match self.behind().await {
            Ok(behind) if behind.len() < POLICIES => Ok(()),
            Ok(behind) => Err(format!("{} are behind", behind.len())),
            Err(error) => Err(error.to_string()),
        };
        wait::until("the first statuses", PATIENCE, look).await?;
        for process in processes {
            kill(process, Signal::SIGKILL).with_context(|| format!("killing process {process} of {pods:?}"))?;
        }
        let killed = Instant::now();
        self.apply("policies-2.json", &policies(POLICIES..2 * POLICIES, round)).await?;
        let behind = self.behind().await?.len();
        (self.tell)(&format!("killed {pods:?}; {behind} statuses are still to be written"));
        ensure!(behind > 0, "{:.1} s after they were killed no status is behind", killed.elapsed().as_secs_f64());
        Ok(killed)
    }

    /// Waits until all replicas of the control plane are ready.
    async fn all_replicas(&self) -> anyhow::Result<()> {
        let (namespace, owner) = (CONTROL_PLANE.namespace, CONTROL_PLANE.owner);
        self.cluster.kubectl(&["rollout", "status", "-n", namespace, owner, "--timeout=120s"]).await?;
        Ok(())
    }

    /// Changes the route as soon as somebody takes the change.
    async fn changes(&self, version: &str) -> anyhow::Result<()> {
        let write = async || {
            let written = self.lead_to(version).await;
            if written.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
            written.map_err(|error| error.to_string())
        };
        wait::until("a change that the API server takes", PATIENCE, write).await?;
        Ok(())
    }

    /// Changes the route, and waits until requests go by it and all statuses tell of what was written last.
    pub async fn takes_effect(&self, version: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        self.changes(version).await?;
        let is: fn(&str) -> bool = match version {
            "v1" => |said| said.contains("x-version: v1"),
            _ => |said| said.contains("x-version: v2"),
        };
        let took = self.settled(&format!("a route leads all requests to {version}"), uptime()?, is).await?;
        let look = async || {
            let behind = self.behind().await.map_err(|error| error.to_string())?;
            if behind.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
            Err(format!("{behind:?}"))
        };
        wait::until("statuses of what was written last", PATIENCE, look).await?;
        (self.tell)(&format!(
            "a route leads all requests to {version} {:.1} s after it was written; all statuses are up to date, {:.1} s after it was tried",
            took.max(0.0),
            begun.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// Objects whose status tells of something older than what was written last.
    async fn behind(&self) -> anyhow::Result<Vec<String>> {
        let kinds =
            "gateways.gateway.networking.k8s.io,httproutes.gateway.networking.k8s.io,authorizationpolicies.security.istio.io";
        let said = self.cluster.kubectl(&["get", kinds, "--all-namespaces", "-o", "json"]).await?;
        let objects: Value = serde_json::from_str(&said)?;
        let objects = objects["items"].as_array().context("no list of objects")?;
        ensure!(objects.len() > 2, "{} objects", objects.len());
        let mut behind = Vec::new();
        for object in objects {
            let wanted = &object["metadata"]["generation"];
            let of_parents = object["status"]["parents"].as_array().into_iter().flatten();
            let all = of_parents.chain([&object["status"]]).filter_map(|part| part["conditions"].as_array()).flatten();
            let seen: Vec<_> = all.map(|condition| &condition["observedGeneration"]).collect();
            if seen.is_empty() || seen.iter().any(|seen| *seen != wanted) {
                let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
                behind.push(format!("{kind} {name}: written {wanted}, told {seen:?}"));
            }
        }
        Ok(behind)
    }
}

/// Policies for nobody: all that they do is that each has a status.
fn policies(numbers: std::ops::Range<usize>, round: &str) -> String {
    let policies = numbers.map(|number| {
        serde_json::json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": { "name": format!("status-{number}"), "namespace": "data" },
            "spec": {
                "selector": { "matchLabels": { "app": "nobody" } }, "action": "DENY",
                "rules": [{ "from": [{ "source": { "namespaces": [round] } }] }],
            },
        })
    });
    serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": policies.collect::<Vec<_>>() }).to_string()
}
