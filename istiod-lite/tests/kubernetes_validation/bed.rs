//! A real API server with what an installation tells it to validate, and a control plane in this process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ambit_cluster::{ApiServer, manifests::Channel};
use istiod_lite::{ClusterConfig, Config, ControlPlane, validation};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How long anything may take; builds and other tests share the machine.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// What `kubectl apply -f` installs.
const INSTALLED: &str = include_str!("../../../manifests/ambit.yaml");

/// An API server with the mesh's kinds and a namespace `shop`.
pub struct Bed {
    pub api: ApiServer,
    /// Of the control plane.
    kubeconfig: PathBuf,
    /// Where the control plane answers, when it runs.
    address: SocketAddr,
}

/// What somebody was told: whether it was done, and all that was printed.
#[derive(Debug)]
pub struct Told {
    pub done: bool,
    pub text: String,
}

impl Told {
    /// Done without a word of warning.
    #[track_caller]
    pub fn good(&self) {
        assert!(self.done && !self.text.contains("Warning:"), "{}", self.text);
    }

    /// Not done, and told all of this.
    #[track_caller]
    pub fn refused(&self, parts: &[&str]) {
        assert!(!self.done && parts.iter().all(|part| self.text.contains(part)), "{parts:?}: {}", self.text);
    }

    /// Done, and warned of all of this.
    #[track_caller]
    pub fn warned(&self, parts: &[&str]) {
        let warning = self.text.contains("Warning:") && parts.iter().all(|part| self.text.contains(part));
        assert!(self.done && warning, "{parts:?}: {}", self.text);
    }
}

impl Bed {
    /// Without anything that validates yet.
    pub async fn new() -> Self {
        let api = ApiServer::start().await.unwrap();
        let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/crds");
        let crds: Vec<PathBuf> = std::fs::read_dir(crds).unwrap().map(|entry| entry.unwrap().path()).collect();
        api.install_definitions(&crds).await.unwrap();
        api.install_gateway_api(Channel::Experimental).await.unwrap();
        api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}").await.unwrap();
        let kubeconfig = api.account("istiod-lite").await.unwrap().kubeconfig().to_owned();
        // Of a port that was just free; nobody else is told of it.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        Self { api, kubeconfig, address }
    }

    /// Installs what validates, of these kinds.
    pub async fn install(&self, kinds: &[&str]) {
        let is_one = |part: &&str| kinds.iter().any(|kind| part.lines().any(|line| line == format!("kind: {kind}")));
        let mut found = 0;
        for part in INSTALLED.split("\n---\n").filter(is_one) {
            let mut object: Value = serde_saphyr::from_str(part).unwrap();
            // Services have no addresses here that a packet could be sent to; all else is as it is installed.
            for webhook in object.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
                let service = webhook["clientConfig"]["service"].take();
                let path = service["path"].as_str().unwrap();
                webhook["clientConfig"] = json!({"url": format!("https://localhost:{}{path}", self.address.port())});
            }
            self.api.apply(&object.to_string()).await.unwrap();
            found += 1;
        }
        assert!(found >= kinds.len(), "objects are looked for as they are written");
    }

    /// Runs kubectl with this input, as somebody who may do everything.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> Told {
        let mut command = tokio::process::Command::new(self.api.kubectl_program());
        command.args(arguments).env("KUBECONFIG", self.api.kubeconfig()).env("HOME", self.api.directory()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Told { done: output.status.success(), text }
    }

    /// Applies YAML as most people do.
    pub async fn apply(&self, yaml: &str) -> Told {
        self.kubectl(&["apply", "-f", "-"], yaml).await
    }

    /// The same, and nothing is stored.
    pub async fn try_out(&self, yaml: &str) -> Told {
        self.kubectl(&["apply", "--dry-run=server", "-f", "-"], yaml).await
    }

    /// A control plane, at the address that the API server is told.
    pub async fn control_plane(&self, certificate_seconds: u64, root_margin_seconds: u64) -> Program {
        let config = Config {
            source_dirs: Vec::new(),
            cluster: ClusterConfig {
                kubernetes: true,
                kubeconfig: Some(self.kubeconfig.clone()),
                replica_name: "replica".to_owned(),
                validation: Some(self.address),
                ..ClusterConfig::default()
            },
            state_dir: self.api.directory().join("state"),
            listen: "127.0.0.1:0".parse().unwrap(),
            monitoring: "127.0.0.1:0".parse().unwrap(),
            trust_domain: "cluster.local".parse().unwrap(),
            cluster_id: "Kubernetes".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            node_accounts: Vec::new(),
            certificate_seconds,
            root_margin_seconds,
            serving_names: Vec::new(),
            jwks: istiod_lite::jwks::Options::default(),
        };
        let control_plane = ControlPlane::start(config).await.unwrap();
        assert_eq!(control_plane.validation_address().unwrap(), Some(self.address));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(control_plane.run(async move {
            let _ = stopped.await;
        }));
        Program { stop, task }
    }

    /// The roots by which the API server knows the webhooks; `None` while one of them has none.
    pub async fn bundles(&self) -> Option<Vec<String>> {
        let arguments = ["get", "validatingwebhookconfiguration", validation::CONFIGURATION, "-o", "json"];
        let object: Value = serde_json::from_str(&self.api.kubectl(&arguments).await.unwrap()).unwrap();
        let webhooks = object["webhooks"].as_array().unwrap();
        webhooks.iter().map(|webhook| webhook["clientConfig"]["caBundle"].as_str().map(str::to_owned)).collect()
    }
}

/// A control plane that runs.
pub struct Program {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), istiod_lite::Error>>,
}

impl Program {
    /// Stops in order.
    pub async fn stop(self) {
        drop(self.stop);
        self.task.await.unwrap().unwrap();
    }
}

/// An AuthorizationPolicy in namespace `shop`.
pub fn policy(name: &str, rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{rules: {rules}}}\n"
    )
}

/// Rules that no CRD's schema can tell to be broken.
pub const BROKEN: &str = "[{from: [{source: {ipBlocks: [10.0.0]}}]}]";

/// Asks until it is so.
pub async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so().await {
        assert!(Instant::now() < end, "{what} did not come about");
        sleep(Duration::from_millis(100)).await;
    }
}
