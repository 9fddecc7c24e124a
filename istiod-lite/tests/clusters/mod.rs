//! What the tests on a real API server share.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ambit_runtime::readiness::Readiness;
use istiod_lite::source::kubernetes::Timing;
use istiod_lite::source::{Event, Kubernetes, Problem, Source};
use istiod_lite::{ClusterConfig, Config, ControlPlane};
use kube::Client;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longest wait for anything, however slow the machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A source with the readiness that waits for it.
pub struct Watching {
    pub source: Kubernetes,
    pub ready: Readiness,
}

impl Watching {
    pub fn new(client: &Client, timing: Timing) -> Self {
        let ready = Readiness::new();
        Self { source: Kubernetes::new(client, timing, &ready), ready }
    }

    pub async fn batch(&mut self) -> Vec<Event> {
        timeout(PATIENCE, self.source.next()).await.expect("a batch in time").unwrap()
    }

    /// The next batch, without what the API server itself makes, some of it a while after it has become ready.
    pub async fn next(&mut self) -> Vec<String> {
        let text = |event| match event {
            Event::Upsert(object) => format!("+{}", object.key()),
            Event::Delete(key) => format!("-{key}"),
        };
        let events = self.batch().await.into_iter().map(text);
        let of_the_server = ["+Service default/kubernetes", "+EndpointSlice default/kubernetes"];
        events.filter(|event| !event.starts_with("+Namespace ") && !of_the_server.contains(&event.as_str())).collect()
    }

    /// The next batch that has events, problems aside.
    pub async fn events(&mut self) -> Vec<String> {
        loop {
            let events = self.next().await;
            if !events.is_empty() {
                return events;
            }
        }
    }

    pub fn problems(&self) -> Vec<String> {
        self.source.problems().iter().map(Problem::to_string).collect()
    }

    /// Waits until the problems are as wanted; nothing may happen to objects meanwhile.
    pub async fn until(&mut self, good: impl Fn(&[String]) -> bool) {
        loop {
            let problems = self.problems();
            if good(&problems) {
                return;
            }
            assert_eq!(self.next().await, [""; 0], "with {problems:?}");
        }
    }
}

pub async fn eventually(what: &str, good: impl Fn() -> bool) {
    let begin = Instant::now();
    while !good() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A way to a server that can be cut: connections through it are reset, and new ones refused.
pub struct Link {
    url: String,
    port: u16,
    open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Link {
    pub async fn new(url: String) -> Self {
        let server = url.trim_start_matches("https://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, opened) = watch::channel(true);
        let task = tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let (server, mut opened) = (server.clone(), opened.clone());
                if !*opened.borrow_and_update() {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(server).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = opened.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { url, port, open, task }
    }

    /// The kubeconfig with this way instead of the direct one.
    pub fn kubeconfig(&self, direct: &Path, directory: &Path) -> PathBuf {
        let text = std::fs::read_to_string(direct).unwrap();
        assert!(text.contains(&self.url), "{text}");
        let made = text.replace(&self.url, &format!("https://127.0.0.1:{}", self.port));
        let path = directory.join("link.kubeconfig");
        std::fs::write(&path, made).unwrap();
        path
    }

    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    pub fn mend(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Definitions of the policies, as far as a test of the source needs them.
pub fn policy_definitions(directory: &Path) -> Vec<PathBuf> {
    let definition = |kind: &str, plural: &str| {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let version = json!({
            "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}},
        });
        let text = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.security.istio.io")},
            "spec": {
                "group": "security.istio.io", "scope": "Namespaced", "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
                "versions": [version],
            },
        });
        let path = directory.join(format!("{plural}.yaml"));
        std::fs::write(&path, text.to_string()).unwrap();
        path
    };
    vec![definition("AuthorizationPolicy", "authorizationpolicies"), definition("PeerAuthentication", "peerauthentications")]
}

/// The demonstration, with what others would write in a cluster: addresses, and the status of pods and of the waypoint's Gateway.
pub fn demo() -> Vec<Value> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/demo");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let mut objects = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        objects.extend(text.split("\n---\n").map(|text| serde_saphyr::from_str::<Value>(text).unwrap()));
    }
    for (number, object) in objects.iter_mut().enumerate() {
        match object["kind"].as_str().unwrap() {
            "Service" => {
                let addresses = [format!("10.96.7.{}", number + 1), format!("fd96::7:{}", number + 1)];
                object["spec"]["clusterIP"] = json!(addresses[0]);
                object["spec"]["clusterIPs"] = json!(addresses);
                object["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
            }
            "Pod" => {
                let address = format!("10.244.7.{}", number + 1);
                let ready = number % 4 != 0;
                object["metadata"]["annotations"] = json!({"ambient.istio.io/redirection": "enabled"});
                object["status"] = json!({
                    "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
                    "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
                });
            }
            "Gateway" => object["status"] = json!({"addresses": [{"type": "IPAddress", "value": "10.244.7.250"}]}),
            _ => {}
        }
    }
    objects
}

/// The control plane as a program, in this process.
pub struct Program {
    monitoring: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), istiod_lite::Error>>,
}

/// Starts the control plane on the API server of a kubeconfig.
pub async fn program(kubeconfig: &Path, state: &Path) -> Program {
    let config = Config {
        source_dirs: Vec::new(),
        cluster: ClusterConfig {
            kubernetes: true,
            kubeconfig: Some(kubeconfig.to_owned()),
            replica_name: "istiod-lite-1".to_owned(),
            ..ClusterConfig::default()
        },
        state_dir: state.to_owned(),
        listen: "[::1]:0".parse().unwrap(),
        monitoring: "[::1]:0".parse().unwrap(),
        trust_domain: "cluster.local".parse().unwrap(),
        cluster_id: "Kubernetes".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        node_accounts: Vec::new(),
        certificate_seconds: 3600,
        root_margin_seconds: 300,
        serving_names: Vec::new(),
        jwks: istiod_lite::jwks::Options::default(),
    };
    let control_plane = ControlPlane::start(config).await.unwrap();
    let monitoring = control_plane.monitoring_address().unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(control_plane.run(async move {
        let _ = stopped.await;
    }));
    Program { monitoring, stop, task }
}

impl Program {
    pub async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.monitoring).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    pub async fn ready(&self) {
        let begin = Instant::now();
        while !self.page("/healthz/ready").await.starts_with("HTTP/1.1 200") {
            assert!(begin.elapsed() < PATIENCE, "{}", self.page("/healthz/ready").await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn stop(self) {
        drop(self.stop);
        self.task.await.unwrap().unwrap();
    }
}
