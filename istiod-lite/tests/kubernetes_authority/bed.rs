//! A real API server, control planes in this process, and callers with real tokens.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ambit_cluster::{Account, ApiServer, ApiServerOptions};
use ambit_tls::{
    CaClient, CaConfig, TlsError,
    control_plane::{ControlPlane as Target, Credentials},
};
use istiod_lite::{ClusterConfig, Config, ControlPlane, deploy, roots::Report};
use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
        core::v1::{ConfigMap, Pod, Secret, ServiceAccount},
    },
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep},
};

/// The audience of tokens for the control plane.
pub const AUDIENCE: &str = "istio-ca";
/// How long anything may take; builds and other tests share the machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Two nodes with a node proxy each; `web` and `gone` on n1, `api` on n2.
const OBJECTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: ztunnel, namespace: istio-system}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: api, namespace: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: ztunnel, namespace: shop}}
---
{apiVersion: v1, kind: Pod, metadata: {name: ztunnel-1, namespace: istio-system}, spec: {serviceAccountName: ztunnel, nodeName: n1, containers: [{name: c, image: x}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: ztunnel-2, namespace: istio-system}, spec: {serviceAccountName: ztunnel, nodeName: n2, containers: [{name: c, image: x}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}, spec: {serviceAccountName: web, nodeName: n1, containers: [{name: c, image: x}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: gone, namespace: shop}, spec: {serviceAccountName: web, nodeName: n1, containers: [{name: c, image: x}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: api, namespace: shop}, spec: {serviceAccountName: api, nodeName: n2, containers: [{name: c, image: x}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: false-ztunnel, namespace: shop}, spec: {serviceAccountName: ztunnel, nodeName: n1, containers: [{name: c, image: x}]}}
";

/// An API server with the objects of the test.
pub struct Bed {
    pub api: ApiServer,
    /// May do everything.
    pub client: Client,
    /// Of the control plane.
    pub account: Account,
    pub directory: TempDir,
    files: AtomicUsize,
}

impl Bed {
    pub async fn new() -> Self {
        Self::with(ApiServerOptions::default()).await
    }

    pub async fn with(options: ApiServerOptions) -> Self {
        let api = ApiServer::start_with(options).await.unwrap();
        let client = api.client().await.unwrap();
        api.apply(OBJECTS).await.unwrap();
        let account = api.account("istiod-lite").await.unwrap();
        Self { api, client, account, directory: tempfile::tempdir().unwrap(), files: AtomicUsize::new(0) }
    }

    fn file(&self, content: &str) -> PathBuf {
        let path = self.directory.path().join(format!("file-{}", self.files.fetch_add(1, Ordering::SeqCst)));
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A token of "namespace/account" that is bound to this pod.
    pub async fn token(&self, account: &str, pod: Option<&str>, audience: &str) -> String {
        let (namespace, account) = account.split_once('/').unwrap();
        let bound = match pod {
            None => None,
            Some(pod) => {
                let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
                let (api_version, kind) = (Some("v1".to_owned()), Some("Pod".to_owned()));
                let uid = pods.get(pod).await.unwrap().metadata.uid;
                Some(BoundObjectReference { api_version, kind, name: Some(pod.to_owned()), uid })
            }
        };
        let spec =
            TokenRequestSpec { audiences: vec![audience.to_owned()], bound_object_ref: bound, expiration_seconds: Some(600) };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
        answer.status.unwrap().token
    }

    pub async fn delete_pod(&self, namespace: &str, name: &str) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        pods.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }

    /// Writes the Secret of a plug-in CA.
    pub async fn plug(&self, data: &[(&str, &str)]) {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), "istio-system");
        let _ = secrets.delete("cacerts", &DeleteParams::default()).await;
        let data = data.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec()))).collect();
        let mut secret = Secret { data: Some(data), ..Secret::default() };
        secret.metadata.name = Some("cacerts".to_owned());
        let params = PatchParams::apply("a-person").force();
        let mut object = serde_json::to_value(&secret).unwrap();
        object["apiVersion"] = "v1".into();
        object["kind"] = "Secret".into();
        secrets.patch("cacerts", &params, &Patch::Apply(&object)).await.unwrap();
    }

    pub async fn secret(&self, name: &str) -> Option<Secret> {
        Api::<Secret>::namespaced(self.client.clone(), "istio-system").get_opt(name).await.unwrap()
    }

    /// The roots as the pods of a namespace find them.
    pub async fn roots(&self, namespace: &str) -> Option<String> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        maps.get_opt("istio-ca-root-cert").await.unwrap()?.data?.remove("root-cert.pem")
    }

    /// A control plane that runs.
    pub async fn replica(&self, certificate_seconds: u64, root_margin_seconds: u64) -> Replica {
        log();
        let number = self.files.fetch_add(1, Ordering::SeqCst);
        let config = Config {
            source_dirs: Vec::new(),
            cluster: ClusterConfig {
                kubernetes: true,
                kubeconfig: Some(self.account.kubeconfig().to_owned()),
                replica_name: format!("replica-{number}"),
                validation: Some("127.0.0.1:0".parse().unwrap()),
                waypoints: deploy::Options { image: Some("ambit:1.2".into()), ..deploy::Options::default() },
                ..ClusterConfig::default()
            },
            state_dir: self.directory.path().join(format!("state-{number}")),
            listen: "127.0.0.1:0".parse().unwrap(),
            monitoring: "127.0.0.1:0".parse().unwrap(),
            trust_domain: "cluster.local".parse().unwrap(),
            cluster_id: "Kubernetes".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            node_accounts: vec!["istio-system/ztunnel".parse().unwrap()],
            certificate_seconds,
            root_margin_seconds,
            serving_names: Vec::new(),
            jwks: istiod_lite::jwks::Options::default(),
        };
        let control_plane = ControlPlane::start(config).await.unwrap();
        let (discovery, monitoring) = (control_plane.discovery_address().unwrap(), control_plane.monitoring_address().unwrap());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(control_plane.run(async move {
            let _ = stopped.await;
        }));
        Replica { discovery, monitoring, stop: Some(stop), task }
    }

    /// What the control plane answers to who shows this token and asks for this identity: certificates and roots, or the code of the refusal.
    pub async fn ask(&self, replica: &Replica, token: &str, asked: &str, impersonate: bool) -> Result<[String; 2], String> {
        let roots = eventually("roots in the namespace shop", async || self.roots("shop").await).await;
        self.ask_with(replica, &roots, token, asked, impersonate).await
    }

    /// The same, of somebody who believes these roots.
    pub async fn ask_with(
        &self,
        replica: &Replica,
        roots: &str,
        token: &str,
        asked: &str,
        impersonate: bool,
    ) -> Result<[String; 2], String> {
        let target = Target::new(replica.discovery.to_string(), self.file(roots));
        let credentials = Credentials::new(self.file(token), "Kubernetes");
        let client = CaClient::new(CaConfig::new(target, credentials, impersonate)).unwrap();
        match client.issue_pem(&asked.parse().unwrap()).await {
            Ok(svid) => Ok([svid.chain, svid.roots]),
            Err(TlsError::Authority { code, .. }) => Err(code),
            Err(other) => Err(other.to_string()),
        }
    }
}

/// A control plane.
pub struct Replica {
    pub discovery: SocketAddr,
    monitoring: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), istiod_lite::Error>>,
}

impl Replica {
    /// Stops in order.
    pub async fn stop(mut self) {
        self.stop.take();
        self.task.await.unwrap().unwrap();
    }

    /// Its page about the authority.
    pub async fn report(&self) -> Report {
        let mut stream = TcpStream::connect(self.monitoring).await.unwrap();
        stream.write_all(b"GET /debug/ca HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let json = text.split_once("\r\n\r\n").unwrap().1;
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The last refusal.
    pub async fn refusal(&self) -> String {
        self.report().await.refusals.first().map(|refusal| refusal.reason.clone()).unwrap_or_default()
    }
}

/// Asks until there is an answer.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(answer) = ask().await {
            return answer;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("{what} did not come about");
}

/// Everything that is logged in this process.
static LOG: LazyLock<Mutex<Vec<u8>>> = LazyLock::new(Mutex::default);

struct Writer;

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        std::io::stderr().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn log() {
    static ONCE: LazyLock<()> = LazyLock::new(|| {
        tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_ansi(false).with_writer(|| Writer).init();
    });
    LazyLock::force(&ONCE);
}

/// Whether one line of the log has all of these parts.
pub fn logged(parts: &[&str]) -> bool {
    let log = LOG.lock().unwrap();
    String::from_utf8_lossy(&log).lines().any(|line| parts.iter().all(|part| line.contains(part)))
}
