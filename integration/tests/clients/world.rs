//! An API server, a control plane in this process that reads it with the rights of an installation, and what a kubelet does about pods.
//! All of it is on loopback, where each pod has an address of its own.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ambit_cluster::ApiServer;
use ambit_integration::wait;
use anyhow::Context as _;
use clap::Parser as _;
use istiod_lite::ControlPlane;
use nlink::{Connection, Ipv4Address, Route};
use serde_json::json;
use tokio::task::JoinHandle;

/// How long anything may take; builds and other tests share the machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

#[derive(clap::Parser)]
struct Program {
    #[command(flatten)]
    config: istiod_lite::Config,
}

pub struct World {
    pub api: ApiServer,
    /// Where discovery and certificates are served.
    pub discovery: SocketAddr,
    /// The file with the roots of the mesh, as pods of the namespace `shop` find it.
    pub roots: PathBuf,
    control_plane: JoinHandle<Result<(), istiod_lite::Error>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.control_plane.abort();
    }
}

impl World {
    /// Starts with these objects, and waits until the mesh has roots.
    pub async fn start(definitions: &[PathBuf], objects: &str) -> anyhow::Result<Self> {
        // The bed leaves it down.
        Connection::<Route>::new()?.set_link_up("lo").await?;
        let api = ApiServer::start().await?;
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/crds").read_dir()?;
        let ours = ours.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        api.install_definitions(&[definitions, &ours].concat()).await?;
        api.apply(objects).await?;
        let account = api.account("istiod-lite").await?;
        let state = api.directory().join("state");
        let arguments = ["istiod-lite", "--kubernetes", "--listen=127.0.0.1:0", "--monitoring=127.0.0.1:0", "--kubeconfig"];
        let places = [account.kubeconfig().into(), OsString::from("--state-dir"), state.into()];
        let arguments = arguments.iter().map(OsString::from).chain(places);
        let control_plane = ControlPlane::start(Program::try_parse_from(arguments)?.config).await?;
        let discovery = control_plane.discovery_address()?;
        let control_plane = tokio::spawn(control_plane.run(std::future::pending()));
        let roots = api.directory().join("root-cert.pem");
        let world = Self { api, discovery, roots, control_plane };
        let map = ["get", "configmap", "istio-ca-root-cert", "-n", "shop", "-o", r"jsonpath={.data.root-cert\.pem}"];
        let read = async || world.api.kubectl(&map).await.map_err(|error| error.to_string());
        let (roots, _) = wait::until("the roots of the mesh", PATIENCE, read).await?;
        std::fs::write(&world.roots, roots)?;
        Ok(world)
    }

    /// A file with the token of a pod, as a kubelet writes it; the service account has the name of the pod.
    pub async fn token(&self, pod: &str, audience: &str) -> anyhow::Result<PathBuf> {
        let audience_flag = format!("--audience={audience}");
        let bound = ["--bound-object-kind=Pod", "--bound-object-name", pod, "-n", "shop", &audience_flag];
        let token = self.api.kubectl(&[&["create", "token", pod], &bound[..]].concat()).await?;
        let path = self.api.directory().join(format!("token-{pod}-{audience}"));
        std::fs::write(&path, token.trim())?;
        Ok(path)
    }

    /// Says of a pod where it is, and whether it is ready.
    pub async fn pod_is(&self, pod: &str, address: &str, ready: bool) -> anyhow::Result<()> {
        let ready = if ready { "True" } else { "False" };
        let status = json!({"status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": ready}],
        }});
        let status = status.to_string();
        self.api.kubectl(&["patch", "pod", pod, "-n", "shop", "--type=merge", "--subresource=status", "-p", &status]).await?;
        Ok(())
    }

    /// Gives the machine an address besides those of loopback.
    pub async fn add_address(&self, address: &str) -> anyhow::Result<()> {
        let address = address.parse().context("an address")?;
        Ok(Connection::<Route>::new()?.add_address(Ipv4Address::new("lo", address, 32)).await?)
    }
}

/// A pod that runs under a service account of its own name.
pub fn pod(name: &str, labels: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}, namespace: shop}}}}\n---\n\
         {{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, labels: {labels}}}, \
         spec: {{serviceAccountName: {name}, containers: [{{name: c, image: i}}]}}}}\n"
    )
}
