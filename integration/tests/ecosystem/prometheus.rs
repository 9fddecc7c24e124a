//! A real Prometheus that scrapes the mesh as the documentation says, and questions to it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use ambit_integration::wait;
use ambit_testbed::Command;
use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::user::{PATIENCE, User};
use crate::{documented, http};

/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(500);

/// The window of rates in the tests.
pub const WINDOW: &str = "15s";

/// By label, as far as one was asked for.
pub type Values = BTreeMap<String, f64>;

impl User<'_> {
    /// Starts Prometheus, unless it runs, and waits until it scrapes every part of the mesh.
    pub async fn scraped(&self) -> anyhow::Result<()> {
        if self.scraped.get() {
            return Ok(());
        }
        let (targets, parts) = self.targets().await?;
        std::fs::write(self.directory.join("targets.json"), targets.to_string())?;
        let found = format!("file_sd_configs:\n      - files: [{}]", self.directory.join("targets.json").display());
        // Debian's Prometheus cannot ask the API server itself; all that follows from what it says is done by Prometheus.
        let words =
            [("scrape_interval: 15s", "scrape_interval: 1s"), ("kubernetes_sd_configs:\n      - role: pod", found.as_str())];
        let config = self.directory.join("prometheus.yaml");
        std::fs::write(&config, documented::changed("prometheus.yaml", &words)?)?;
        let command = Command::new(&self.outside.prometheus)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", self.directory.join("tsdb").display()))
            .arg("--web.listen-address=0.0.0.0:9090");
        self.start("prometheus", command)?;
        let look = async || {
            tokio::time::sleep(PAUSE).await;
            let up = self.ask("sum by (pod) (up)", "pod").await.map_err(|error| format!("{error:#}"))?;
            let all = up.len() == parts && up.values().all(|up| *up == 1.0);
            if all { Ok(up.into_keys().collect::<Vec<_>>()) } else { Err(format!("{up:?} instead of {parts} pods")) }
        };
        let (pods, _) = wait::until("Prometheus scrapes all parts", PATIENCE, look).await?;
        for part in ["ztunnel-", "istiod-lite-", "waypoint-"] {
            ensure!(pods.iter().any(|pod| pod.starts_with(part)), "no {part} among what is scraped: {pods:?}");
        }
        (self.tell)(&format!("Prometheus scrapes {}", pods.join(", ")));
        self.scraped.set(true);
        Ok(())
    }

    /// All pods with the labels that the discovery of Kubernetes gives them, and how many of them are to be scraped.
    async fn targets(&self) -> anyhow::Result<(Value, usize)> {
        let said = self.cluster.kubectl(&["get", "pods", "--all-namespaces", "-o", "json"]).await?;
        let pods: Value = serde_json::from_str(&said)?;
        let pods = pods["items"].as_array().context("a list of pods")?;
        let (mut targets, mut annotated) = (Vec::new(), 0);
        for pod in pods.iter().filter(|pod| pod["status"]["podIP"].is_string()) {
            let meta = &pod["metadata"];
            let mut labels = json!({
                "__meta_kubernetes_namespace": meta["namespace"],
                "__meta_kubernetes_pod_name": meta["name"],
                "__meta_kubernetes_pod_ip": pod["status"]["podIP"],
            });
            for (name, value) in meta["annotations"].as_object().into_iter().flatten() {
                let name = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
                labels[format!("__meta_kubernetes_pod_annotation_{name}")] = value.clone();
            }
            annotated += usize::from(meta["annotations"]["prometheus.io/scrape"] == "true");
            targets.push(json!({ "targets": [pod["status"]["podIP"]], "labels": labels }));
        }
        Ok((Value::Array(targets), annotated))
    }

    /// Asks for the present values of an expression, by a label of what comes.
    pub async fn ask(&self, expression: &str, label: &str) -> anyhow::Result<Values> {
        let mut path = "/api/v1/query?query=".to_owned();
        for byte in expression.bytes() {
            write!(path, "%{byte:02X}")?;
        }
        let place = self.cluster.control_plane();
        let stream = place.connect(SocketAddr::new(place.ip(), 9090)).await.context("connecting to Prometheus")?;
        let answer = http::get(stream, "prometheus", &path).await?;
        let said: Value = serde_json::from_slice(&answer.body).context("an answer of Prometheus")?;
        ensure!(said["status"] == "success", "{expression}: {said}");
        let vector = said["data"]["result"].as_array().with_context(|| format!("no vector: {said}"))?;
        let value = |sample: &Value| {
            let text = sample["value"][1].as_str().context("a value")?;
            let name = sample["metric"][label].as_str().unwrap_or_default().to_owned();
            anyhow::Ok((name, text.parse().with_context(|| format!("{text:?} is no number"))?))
        };
        vector.iter().map(value).collect()
    }

    /// Waits until a golden signal of the documentation is as wanted.
    pub async fn signal(
        &self,
        name: &str,
        label: &str,
        wanted: impl Fn(&Values) -> Result<String, String>,
    ) -> anyhow::Result<()> {
        let expression = documented::folded("golden-signals.yaml", name)?.replace("[1m]", &format!("[{WINDOW}]"));
        let look = async || {
            tokio::time::sleep(PAUSE).await;
            let values = self.ask(&expression, label).await.map_err(|error| format!("{error:#}"))?;
            wanted(&values).map_err(|error| format!("{error}; {values:?}"))
        };
        let (said, _) = wait::until(&format!("the golden signal {name}"), PATIENCE, look).await?;
        (self.tell)(&format!("{name}: {said}"));
        Ok(())
    }
}
