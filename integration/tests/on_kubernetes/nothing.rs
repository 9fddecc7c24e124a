//! From nothing to a mesh, the way a user goes: `ambit install --wait`, the demonstration's YAML, a label on its namespaces, and out again by
//! `ambit uninstall`. What crosses the wire between the nodes is watched all the while.

use std::path::Path;
use std::time::Duration;

use ambit::demo::MARKER;
use ambit_integration::wait;
use anyhow::{Context, ensure};

use crate::user::{PATIENCE, PAUSE, Seen, Stage, User, uptime};

/// How long open connections may go on when their node proxy is replaced. Shorter than by default, so that the test need not wait for it.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Namespaces of the demonstration, and what puts one into the mesh.
const NAMESPACES: [&str; 3] = ["data", "shop", "billing"];
const LABEL: &str = "istio.io/dataplane-mode";

/// The demonstration without the programs that would need images of others.
const DEMO: [&str; 5] = ["10-data.yaml", "20-shop.yaml", "30-billing.yaml", "40-billing-route.yaml", "50-client.yaml"];

/// Asks for an invoice again and again, as the shop's API does, and writes when (seconds since the machine started) and what came back.
const OBSERVER: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "observer", "namespace": "shop"}, "spec": {
    "nodeName": "node-1", "serviceAccountName": "api", "terminationGracePeriodSeconds": 0,
    "containers": [{"name": "observer", "image": "ambit.local/busybox:1", "imagePullPolicy": "Never", "command": ["/bin/sh", "-c",
        "while :; do said=$(timeout 10 wget -S -q -O - --post-data=x http://billing.billing:8080/invoices/1 2>&1 | tr '\\r\\n' '  '); echo \"$(cut -d' ' -f1 /proc/uptime) $said\"; sleep 0.05; done"
    ]}]}}"#;

impl User<'_> {
    /// The whole way into the mesh.
    pub async fn whole_way(&self) -> anyhow::Result<()> {
        let wire = self.cluster.bed().capture([MARKER])?;
        self.install().await?;

        self.demonstrate().await?;
        let seen = self.crossed(&wire, wire.report()).await?;
        ensure!(seen.marker_v4 > 0 && seen.marker_v6 > 0, "without the label nothing was in clear: {seen:?}");
        (self.tell)(&format!("the demonstration runs without the mesh, in clear: {seen:?}"));

        self.enrol().await?;
        let since = self.encrypted(&wire).await?;
        (self.tell)("nothing crosses the wire in clear any more");

        self.first_requests("first", 6).await?;
        self.rules().await?;
        self.refusal().await?;
        let seen = Seen::between(&since, &wire.report())?;
        ensure!(seen.marker_v4 + seen.marker_v6 == 0, "in clear though labelled: {seen:?}");
        (self.tell)(&format!("all encrypted since the labels: {seen:?}"));

        self.stage.set(Stage::Meshed);
        Ok(())
    }

    /// The same way without a look at what it does, unless it was gone before.
    pub async fn in_the_mesh(&self) -> anyhow::Result<()> {
        if self.stage.get() == Stage::Meshed {
            return Ok(());
        }
        self.install().await?;
        self.demonstrate().await?;
        self.enrol().await?;
        self.apply("observer.json", OBSERVER).await?;
        self.settled("invoices are written", uptime()?, |said| said.contains("200 OK")).await?;
        self.stage.set(Stage::Meshed);
        Ok(())
    }

    /// A policy that could not be in force: the API server asks the control plane, by way of its Service.
    async fn refusal(&self) -> anyhow::Result<()> {
        let broken = serde_json::json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": { "name": "broken", "namespace": "shop" },
            "spec": { "rules": [{ "from": [{ "source": { "ipBlocks": ["10.0.0"] } }] }] },
        });
        let path = self.directory.join("broken.json");
        std::fs::write(&path, broken.to_string())?;
        let path = path.display().to_string();
        let asked = async || {
            tokio::time::sleep(PAUSE).await;
            match self.cluster.kubectl(&["apply", "--dry-run=server", "-f", &path]).await {
                Ok(_) => Err("it passes".to_owned()),
                Err(error) if error.to_string().contains("\"10.0.0\" is neither an IP address nor a CIDR block") => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        };
        wait::until("a refusal of a policy that is broken", PATIENCE, asked).await?;
        (self.tell)("a policy that is broken is refused, with the field and the reason");
        Ok(())
    }

    /// The way out.
    pub async fn uninstall(&self) -> anyhow::Result<()> {
        self.in_the_mesh().await?;
        self.load.take();
        let wire = self.cluster.bed().capture([MARKER])?;
        self.until_kept_on_every_node().await?;
        self.ambit(&["uninstall", "--unlabel"]).await?;
        (self.tell)("ambit uninstall --unlabel");
        self.nothing_kept_on_any_node()?;
        let seen = self.crossed(&wire, wire.report()).await?;
        ensure!(seen.marker_v4 > 0 && seen.marker_v6 > 0, "the demonstration ended with the mesh: {seen:?}");
        (self.tell)(&format!("the demonstration goes on without the mesh: {seen:?}"));
        Ok(())
    }

    async fn install(&self) -> anyhow::Result<()> {
        ensure!(self.stage.get() == Stage::Nothing, "an earlier phase has begun to install and not ended");
        self.stage.set(Stage::Begun);
        for file in self.definitions {
            self.cluster.kubectl(&["apply", "--server-side", "-f", &file.display().to_string()]).await?;
        }
        self.load_image(&[]).await?;
        (self.tell)("an image of Ambit is on the nodes");
        self.ambit(&["check", "--pre"]).await?;
        self.ambit(&["install", "--wait", "--set", &format!("ztunnel.drainSeconds={}", DRAIN.as_secs())]).await?;
        (self.tell)("ambit install --wait");
        Ok(())
    }

    /// Makes the image of Ambit known to all nodes.
    pub async fn load_image(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let archive = self.directory.join("ambit.tar").display().to_string();
        self.ambit(&[&["image", "--output", archive.as_str()][..], arguments].concat()).await?;
        self.cluster.load(Path::new(&archive)).await?;
        std::fs::remove_file(&archive)?;
        Ok(())
    }

    /// Applies the demonstration as it is but for the label, and waits until all of it runs.
    async fn demonstrate(&self) -> anyhow::Result<()> {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/demo");
        let to = self.directory.join("demo");
        std::fs::create_dir(&to)?;
        for file in DEMO {
            let text = std::fs::read_to_string(from.join(file)).context(file)?;
            let unlabelled: Vec<_> = text.lines().filter(|line| !line.contains(LABEL)).collect();
            std::fs::write(to.join(file), unlabelled.join("\n"))?;
        }
        self.cluster.kubectl(&["apply", "-f", &to.display().to_string()]).await?;
        for namespace in NAMESPACES {
            self.cluster.kubectl(&["wait", "-n", namespace, "--for=condition=Ready", "pod", "--all", "--timeout=90s"]).await?;
        }
        // The waypoint may have come after the others were waited for.
        let programmed = ["wait", "-n", "billing", "--for=condition=Programmed", "gateway/waypoint", "--timeout=90s"];
        self.cluster.kubectl(&programmed).await?;
        Ok(())
    }

    async fn enrol(&self) -> anyhow::Result<()> {
        for namespace in NAMESPACES {
            self.cluster.kubectl(&["label", "namespace", namespace, &format!("{LABEL}=ambient")]).await?;
        }
        let captured = r"--for=jsonpath={.metadata.annotations.ambient\.istio\.io/redirection}=enabled";
        for namespace in NAMESPACES {
            // Waypoints are not captured; they have no version.
            self.cluster.kubectl(&["wait", "-n", namespace, captured, "pod", "-l", "version", "--timeout=90s"]).await?;
        }
        (self.tell)("all pods of the demonstration are captured");
        Ok(())
    }

    /// Pods of a labelled namespace that ask once, as soon as they can, and end well if they are answered.
    pub async fn first_requests(&self, called: &str, count: usize) -> anyhow::Result<()> {
        let names: Vec<_> = (0..count).map(|number| format!("{called}-{number}")).collect();
        let pods = names.iter().enumerate().map(|(number, name)| {
            serde_json::json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "shop" },
                "spec": {
                    "nodeName": format!("node-{}", number % 2 + 1), "restartPolicy": "Never",
                    "containers": [{
                        "name": "first", "image": "ambit.local/busybox:1", "imagePullPolicy": "Never",
                        "command": ["/bin/sh", "-c", "exec timeout 10 wget -O - http://api:8080/"],
                    }],
                },
            })
        });
        let pods = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": pods.collect::<Vec<_>>() });
        self.apply(&format!("{called}.json"), &pods.to_string()).await?;
        for name in &names {
            let jsonpath = "jsonpath={.status.phase}";
            let ended = async || {
                tokio::time::sleep(PAUSE).await;
                let phase = self.cluster.kubectl(&["get", "pod", "-n", "shop", name, "-o", jsonpath]).await;
                match phase.unwrap_or_default().as_str() {
                    "Succeeded" => Ok(true),
                    "Failed" => Ok(false),
                    other => Err(other.to_owned()),
                }
            };
            let (answered, _) = wait::until(&format!("the end of pod {name}"), PATIENCE, ended).await?;
            let said = self.cluster.kubectl(&["logs", "-n", "shop", name]).await?;
            ensure!(answered && said.contains(MARKER), "the first request of pod {name} was not answered: {said}");
        }
        let times = "jsonpath={.metadata.creationTimestamp}, {.status.startTime}, {.status.containerStatuses[0].state.terminated.startedAt}";
        let last = names.last().map_or("", String::as_str);
        let times = self.cluster.kubectl(&["get", "pod", "-n", "shop", last, "-o", times]).await?;
        let said = format!("{} pods were answered at their first request; made, seen by the node, started: {times}", names.len());
        (self.tell)(&said);
        Ok(())
    }

    /// A policy, then a route: how long each takes from the start of kubectl until all requests show it.
    async fn rules(&self) -> anyhow::Result<()> {
        self.apply("observer.json", OBSERVER).await?;
        self.settled("invoices are written", uptime()?, |said| said.contains("200 OK")).await?;

        let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/demo/deny-billing.yaml.off").display().to_string();
        let asked = uptime()?;
        self.cluster.kubectl(&["apply", "-f", &policy]).await?;
        self.soon("a policy refuses all invoices", asked, |said| said.contains("403 Forbidden")).await?;
        self.cluster.kubectl(&["delete", "-f", &policy]).await?;
        self.settled("invoices are written again", uptime()?, |said| said.contains("200 OK")).await?;

        let asked = uptime()?;
        self.lead_to("v2").await?;
        self.soon("a route leads all requests to v2", asked, |said| said.contains("x-version: v2")).await?;
        Ok(())
    }

    /// Has the route of the demonstration lead all requests to this version.
    pub async fn lead_to(&self, version: &str) -> anyhow::Result<()> {
        let weight = |backend, weight| serde_json::json!({ "op": "replace", "path": format!("/spec/rules/0/backendRefs/{backend}/weight"), "value": weight });
        let (v1, v2) = if version == "v1" { (100, 0) } else { (0, 100) };
        let patch = serde_json::json!([weight(0, v1), weight(1, v2)]).to_string();
        self.cluster.kubectl(&["patch", "httproute", "-n", "billing", "billing", "--type=json", "-p", &patch]).await?;
        Ok(())
    }
}
