//! From nothing to a mesh on a real Kubernetes, the way a user goes: a cluster of two nodes, `ambit install --wait`, the demonstration's YAML, a
//! label on its namespaces, and out again by `ambit uninstall`. What crosses the wire between the nodes is watched all the while.

mod user;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use ambit::demo::MARKER;
use ambit_cluster::manifests::{Channel, gateway_api};
use ambit_cluster::programs::{Programs, cache_directory};
use ambit_cluster::{Cluster, ClusterOptions, ProxyMode};
use ambit_integration::{test, wait};
use anyhow::{Context, ensure};
use user::{PATIENCE, PAUSE, Seen, User, uptime};

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

/// What is made before the bed is entered, from which nothing can be downloaded.
struct Prepared {
    name: String,
    programs: Programs,
    definitions: Vec<PathBuf>,
    front: TcpListener,
}

fn main() -> ExitCode {
    let prepared = prepare();
    let name = "a cluster, ambit install, a label: what was in clear between the nodes is encrypted, and rules apply at once";
    ambit_integration::run(vec![test(name, async move || from_nothing(prepared?).await)])
}

fn prepare() -> anyhow::Result<Prepared> {
    Ok(Prepared {
        name: format!("mesh-{}", std::process::id()),
        programs: Programs::get(&mut |_| {})?,
        definitions: gateway_api(Channel::Standard)?,
        front: TcpListener::bind("127.0.0.1:0")?,
    })
}

async fn from_nothing(prepared: Prepared) -> anyhow::Result<()> {
    let began = Instant::now();
    let directory = cache_directory()?.join("cluster").join(&prepared.name);
    let options = ClusterOptions { name: prepared.name, nodes: 2, directory: directory.clone(), proxy: ProxyMode::default() };
    let tell = |what: &str| eprintln!("{:>6.1} s  {what}", began.elapsed().as_secs_f64());
    let cluster = Cluster::start(options, prepared.programs, prepared.front, &tell).await?;
    let user = User { cluster: &cluster, directory: &directory, tell: &tell };
    let outcome = user.whole_way(&prepared.definitions).await;
    let state = if outcome.is_err() { user.state().await } else { String::new() };
    cluster.stop().await?;
    outcome.context(state)
}

impl User<'_> {
    async fn whole_way(&self, definitions: &[PathBuf]) -> anyhow::Result<()> {
        let wire = self.cluster.bed().capture([MARKER])?;
        self.install(definitions).await?;

        self.demonstrate().await?;
        let seen = self.crossed(&wire, wire.report()).await?;
        ensure!(seen.marker_v4 > 0 && seen.marker_v6 > 0, "without the label nothing was in clear: {seen:?}");
        (self.tell)(&format!("the demonstration runs without the mesh, in clear: {seen:?}"));

        self.enrol().await?;
        let since = self.encrypted(&wire).await?;
        (self.tell)("nothing crosses the wire in clear any more");

        self.first_requests().await?;
        self.rules().await?;
        let seen = Seen::between(&since, &wire.report())?;
        ensure!(seen.marker_v4 + seen.marker_v6 == 0, "in clear though labelled: {seen:?}");
        (self.tell)(&format!("all encrypted since the labels: {seen:?}"));

        self.ambit(&["uninstall", "--unlabel"]).await?;
        (self.tell)("ambit uninstall --unlabel");
        let seen = self.crossed(&wire, wire.report()).await?;
        ensure!(seen.marker_v4 > 0 && seen.marker_v6 > 0, "the demonstration ended with the mesh: {seen:?}");
        (self.tell)(&format!("the demonstration goes on without the mesh: {seen:?}"));
        Ok(())
    }

    async fn install(&self, definitions: &[PathBuf]) -> anyhow::Result<()> {
        for file in definitions {
            self.cluster.kubectl(&["apply", "--server-side", "-f", &file.display().to_string()]).await?;
        }
        let archive = self.directory.join("ambit.tar").display().to_string();
        self.ambit(&["image", "--output", &archive]).await?;
        self.cluster.load(Path::new(&archive)).await?;
        std::fs::remove_file(&archive)?;
        (self.tell)("an image of Ambit is on the nodes");
        self.ambit(&["check", "--pre"]).await?;
        self.ambit(&["install", "--wait"]).await?;
        (self.tell)("ambit install --wait");
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
    async fn first_requests(&self) -> anyhow::Result<()> {
        let names: Vec<_> = (0..6).map(|number| format!("first-{number}")).collect();
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
        self.apply("first.json", &pods.to_string()).await?;
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
        (self.tell)(&format!("{} pods were answered at their first request", names.len()));
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

        let weight = |backend, weight| serde_json::json!({ "op": "replace", "path": format!("/spec/rules/0/backendRefs/{backend}/weight"), "value": weight });
        let patch = serde_json::json!([weight(0, 0), weight(1, 100)]).to_string();
        let asked = uptime()?;
        self.cluster.kubectl(&["patch", "httproute", "-n", "billing", "billing", "--type=json", "-p", &patch]).await?;
        self.soon("a route leads all requests to v2", asked, |said| said.contains("x-version: v2")).await?;
        Ok(())
    }
}
