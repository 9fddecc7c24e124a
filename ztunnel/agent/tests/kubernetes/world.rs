//! An API server, a node agent that follows it in this process, and what a kubelet does about pods.

use std::{
    os::fd::AsRawFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use ambit_cluster::{Account, ApiServer, ApiServerOptions};
use ambit_node_agent::{
    Agent,
    discover::Before,
    kubernetes::{Kubernetes, Settings},
    node::{Event, Node},
    records::Records,
    rules::{Choice, Rules, table::Capture},
};
use ambit_runtime::netns::NetNs;
use anyhow::{Context, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::{AbortHandle, JoinSet};

/// For what has to come about on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks of somebody who waits.
pub const SOON: Duration = Duration::from_millis(50);

/// The account of the agent in an installation.
const ACCOUNT: &str = "ambit-node";
/// The user that it is to the API server.
const USER: &str = "system:serviceaccount:istio-system:ambit-node";

pub struct World {
    pub api: ApiServer,
    pub source: Arc<Kubernetes>,
    pub node: Arc<Node>,
    directory: TempDir,
    /// What hears the API server.
    hearing: AbortHandle,
    tasks: JoinSet<()>,
}

impl World {
    /// An API server with the namespace `shop`, and the agent of node-1.
    pub async fn start() -> anyhow::Result<Self> {
        let world = Self::without_role().await?;
        world.allow().await?;
        Ok(world)
    }

    /// The same, where the API server writes down what the agent asks for; and who it is.
    pub async fn audited() -> anyhow::Result<(Self, Account)> {
        let api = api_server(ApiServerOptions { audit: true, ..ApiServerOptions::default() }).await?;
        let account = api.account(ACCOUNT).await?;
        Ok((Self::on(api).await?, account))
    }

    /// As [`World::start`], but the agent may do nothing yet.
    pub async fn without_role() -> anyhow::Result<Self> {
        Self::on(api_server(ApiServerOptions::default()).await?).await
    }

    async fn on(api: ApiServer) -> anyhow::Result<Self> {
        for kind in ["Namespace, metadata: { name: shop }", "ServiceAccount, metadata: { name: web, namespace: shop }"] {
            api.apply(&format!("{{ apiVersion: v1, kind: {kind} }}")).await?;
        }
        let settings = Settings {
            kubernetes: true,
            kubeconfig: Some(api.kubeconfig_of(USER, None)?),
            context: None,
            node: Some("node-1".to_owned()),
        };
        let source = Kubernetes::connect(&settings).await?;
        let directory = tempfile::tempdir()?;
        let rules = Rules::new(Choice::Nftables, Capture::default());
        let agent = Agent::bind(&directory.path().join("zds.sock"), rules)?;
        let records = Records::open(&directory.path().join("sandboxes"))?;
        let before = Before { proc: directory.path().join("proc"), host: NetNs::current()? };
        let told = Arc::<Kubernetes>::clone(&source);
        let node = Arc::new(Node::start(agent, told, records, Vec::new(), before).await);
        let mut tasks = JoinSet::new();
        let (following, telling) = (Arc::clone(&source), Arc::clone(&source));
        let (labels, pods, held) = (Arc::clone(&node), Arc::clone(&node), Arc::clone(&node));
        let hearing = tasks.spawn(async move { following.follow(&held).await });
        tasks.spawn(async move { telling.tell(&pods).await });
        tasks.spawn(async move { labels.follow().await });
        Ok(Self { api, source, node, directory, hearing, tasks })
    }

    /// As if its watches' connections had died without a word.
    pub fn go_deaf(&self) {
        self.hearing.abort();
    }

    /// The agent hears again.
    pub fn hear(&mut self) {
        let (following, held) = (Arc::clone(&self.source), Arc::clone(&self.node));
        self.hearing = self.tasks.spawn(async move { following.follow(&held).await });
    }

    /// Gives the agent its role.
    pub async fn allow(&self) -> anyhow::Result<()> {
        self.api.account(ACCOUNT).await?;
        Ok(())
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("zds.sock")
    }

    /// A pod that was scheduled; its UID.
    pub async fn pod(&self, name: &str, node: &str) -> anyhow::Result<String> {
        let pod = format!(
            "{{ apiVersion: v1, kind: Pod, metadata: {{ name: {name}, namespace: shop }}, spec: {{ nodeName: {node}, serviceAccountName: web, \
             automountServiceAccountToken: false, containers: [{{ name: app, image: app }}] }} }}"
        );
        self.api.apply(&pod).await?;
        let object = self.object(name).await?;
        Ok(object["metadata"]["uid"].as_str().context("no UID")?.to_owned())
    }

    pub async fn object(&self, name: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.api.kubectl(&["get", "pod", name, "-n", "shop", "-o", "json"]).await?)?)
    }

    /// Labels the namespace.
    pub async fn mode(&self, mode: &str) -> anyhow::Result<()> {
        let label = format!("istio.io/dataplane-mode={mode}");
        self.api.kubectl(&["label", "--overwrite", "namespace", "shop", &label]).await.map(drop).map_err(Into::into)
    }

    /// What the plugin tells of a pod that starts in a namespace.
    pub fn event(&self, name: &str, uid: &str, netns: &NetNs) -> anyhow::Result<Event> {
        let path = self.directory.path().join(name);
        std::os::unix::fs::symlink(format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd()), &path)?;
        Ok(Event {
            netns: path,
            pod_name: name.to_owned(),
            pod_namespace: "shop".to_owned(),
            container: format!("sandbox-{name}"),
            uid: uid.to_owned(),
        })
    }

    /// Waits until the API server has this annotation of a pod.
    pub async fn until_annotation(&self, name: &str, wanted: Option<&str>) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let object = self.object(name).await?;
            let found = object["metadata"]["annotations"]["ambient.istio.io/redirection"].as_str();
            if found == wanted {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{name} has {found:?}, not {wanted:?}");
            tokio::time::sleep(SOON).await;
        }
    }

    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        while !holds().await? {
            ensure!(Instant::now() < until, "{what} did not come about");
            tokio::time::sleep(SOON).await;
        }
        Ok(())
    }
}

async fn api_server(options: ApiServerOptions) -> anyhow::Result<ApiServer> {
    // It is on loopback, which the bed leaves down.
    nlink::Connection::<nlink::Route>::new()?.set_link_up("lo").await?;
    Ok(ApiServer::start_with(options).await?)
}
