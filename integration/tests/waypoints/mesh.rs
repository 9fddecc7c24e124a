//! A node with a waypoint, its backends and a client, and the control plane on a node of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_hbone::{Pool, PoolConfig};
use ambit_identity::SpiffeId;
use ambit_testbed::{Bed, BedConfig, Command, Families, Output, Pod, PodSpec, Process};
use ambit_tls::authority::{Authority, LocalSource};
use ambit_tls::token::{Bound, Claims, ObjectReference, Signer};
use anyhow::{Context as _, ensure};

use crate::child::POD;
use crate::objects::{self, PodObject};

/// How long anything may take to come up.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// A waypoint to be tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Ours.
    Ambit,
    /// Envoy, by delta discovery.
    EnvoyDelta,
    /// Envoy, by state-of-the-world discovery.
    EnvoySotw,
}

impl Driver {
    pub const ALL: [Self; 3] = [Self::Ambit, Self::EnvoyDelta, Self::EnvoySotw];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ambit => "ambit",
            Self::EnvoyDelta => "envoy",
            Self::EnvoySotw => "envoy by sotw",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Ambit => &["waypoint"],
            Self::EnvoyDelta => &["envoy", "--xds-mode", "delta", "--concurrency", "2"],
            Self::EnvoySotw => &["envoy", "--xds-mode", "sotw", "--concurrency", "2"],
        }
    }
}

pub struct Mesh {
    pub bed: Bed,
    pub waypoint: Pod,
    /// Where the proxy of a Gateway at the edge of the mesh runs, once it is started.
    pub edge: Pod,
    pub client: Pod,
    pub v1: Pod,
    pub liar: Pod,
    /// The waypoint's access log.
    pub access_log: PathBuf,
    /// The client's tunnels.
    pub pool: Pool,
    /// The authority of the mesh.
    pub authority: Arc<Authority>,
    /// The waypoint's process.
    pub process: Process,
    certificates: LocalSource,
    driver: Driver,
    discovery: SocketAddr,
    source: PathBuf,
}

pub fn identity(account: &str) -> SpiffeId {
    let (namespace, account) = account.split_once('/').unwrap_or(("shop", account));
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}").parse().expect("an identity")
}

impl Mesh {
    /// Starts everything, and waits until the waypoint is ready.
    pub async fn start(driver: Driver, families: Families) -> anyhow::Result<Self> {
        let bed = Bed::new(BedConfig { families, ..BedConfig::default() }).await?;
        let node = bed.add_node("node-1").await?;
        let control_plane = bed.control_plane().await?.clone();
        let discovery = SocketAddr::new(control_plane.ip(), 15012);
        let (state, source) = (bed.dir().join("state"), bed.dir().join("source"));
        std::fs::create_dir_all(&source)?;
        let authority = Arc::new(Authority::load_or_create(&state, &"cluster.local".parse()?)?);
        let certificates = LocalSource::new(Arc::clone(&authority), Duration::from_secs(3600));

        let mut pods = Vec::new();
        for name in ["v1", "v2", "liar", "outside", "waypoint", "edge", "client"] {
            pods.push(node.add_pod(PodSpec::new("shop", name)).await?);
        }
        let [v1, v2, liar, outside, waypoint, edge, client] = pods.try_into().expect("seven pods");
        let object = |name, app, account, pod: &Pod| PodObject { name, app, account, addresses: pod.ips() };
        let objects = objects::fixed(
            families,
            &[
                object("v1", "billing", "billing", &v1),
                object("v2", "billing", "billing", &v2),
                object("liar", "liar", "honest", &liar),
                object("waypoint-0", "waypoint", "waypoint", &waypoint),
                object("edge-0", "edge", "edge", &edge),
            ],
        );
        std::fs::write(source.join("mesh.yaml"), objects)?;
        std::fs::write(source.join("routes.yaml"), objects::routes(90, 10))?;
        std::fs::write(source.join("outside.yaml"), objects::outside(families, outside.ip()))?;

        let istiod = Command::this_program().name("istiod").arg("istiod").arg("--source-dir").arg(&source).arg("--state-dir");
        let log = |name: &str| Output::File(bed.dir().join(format!("{name}.log")));
        control_plane.spawn(istiod.arg(&state).output(log("istiod")))?;
        let known = format!("{},{}", identity("waypoint"), identity("edge"));
        let fixtures =
            [(&v1, "v1", "billing"), (&v2, "v2", "billing"), (&liar, "liar", "somebody-else"), (&outside, "outside", "outside")];
        for (pod, name, account) in fixtures {
            let fixture = Command::this_program().name(name).args([POD, name, &identity(account).to_string()]).arg(&state);
            pod.spawn(fixture.arg(known.as_str()).output(log(name)))?;
        }
        let access_log = bed.dir().join("access.log");
        let command = proxy(driver, "waypoint", &waypoint, discovery, bed.dir())?.arg("--access-log").arg(&access_log);
        wait_for("the root certificate", || async { ensure_exists(&state.join("root-cert.pem")) }).await?;
        wait_for("the control plane", || async { Ok(client.connect(discovery).await?) }).await?;
        let process = waypoint.spawn(command)?;
        let pool = Pool::new(PoolConfig::default());
        let mesh = Self {
            bed,
            waypoint,
            edge,
            client,
            v1,
            liar,
            access_log,
            pool,
            authority,
            process,
            certificates,
            driver,
            discovery,
            source,
        };
        wait_for("the waypoint", || mesh.ready()).await.with_context(|| mesh.logs())?;
        Ok(mesh)
    }

    /// A certificate of the mesh, for an account of the namespace `shop` or another (`namespace/account`).
    pub fn svid(&self, account: &str) -> anyhow::Result<ambit_tls::Svid> {
        Ok(self.certificates.svid(&identity(account))?)
    }

    /// Changes the routes while everything runs.
    pub fn set_weights(&self, v1: u32, v2: u32) -> anyhow::Result<()> {
        Ok(std::fs::write(self.source.join("routes.yaml"), objects::routes(v1, v2))?)
    }

    /// Adds a service with the backends of `billing-v1`.
    pub fn add_service(&self, name: &str, address: &str) -> anyhow::Result<()> {
        let spec = format!(
            "{{clusterIP: {address}, selector: {{app: billing, version: v1}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}"
        );
        let object = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n");
        Ok(std::fs::write(self.source.join(format!("{name}.yaml")), objects::over(self.bed.families(), &object))?)
    }

    /// Adds a Gateway called `edge`, and starts its proxy, of the same kind as the waypoint; which goes on until the mesh ends.
    pub async fn start_edge(&self, objects: &str) -> anyhow::Result<()> {
        self.write_edge(objects)?;
        let command = proxy(self.driver, "edge", &self.edge, self.discovery, self.bed.dir())?;
        self.edge.spawn(command.arg("--access-log").arg(self.bed.dir().join("edge-access.log")))?;
        Ok(())
    }

    /// Says what the objects about the Gateway at the edge are from now on.
    pub fn write_edge(&self, objects: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.source.join("edge.yaml"), objects)?)
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let stream = self.client.connect((self.waypoint.ip(), 15021).into()).await?;
        let (status, ..) = crate::client::over(stream, crate::client::get("/healthz/ready")).await?;
        ensure!(status == 200, "readiness answers {status}");
        let answer = self.request("web", objects::BILLING, 80, crate::client::get("/v1")).await?;
        ensure!(answer.status == 200, "the first request is answered {}", answer.status);
        Ok(())
    }

    /// What the programs said, for a failure.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for name in ["istiod.log", "waypoint.log", "access.log", "edge.log", "edge-access.log"] {
            let log = std::fs::read_to_string(self.bed.dir().join(name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains("work-in-progress")).collect();
            text += &format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
        text
    }
}

fn ensure_exists(path: &Path) -> anyhow::Result<()> {
    ensure!(path.exists(), "{} does not exist", path.display());
    Ok(())
}

/// The program that runs in a pod `NAME-0` for the Gateway and the account of the name.
fn proxy(driver: Driver, name: &str, pod: &Pod, discovery: SocketAddr, directory: &Path) -> anyhow::Result<Command> {
    let (state, token) = (directory.join("state"), directory.join(format!("{name}.token")));
    std::fs::write(&token, mint(&state, name)?)?;
    let command = Command::this_program()
        .name(name)
        .args(driver.arguments())
        .args(["--name", name, "--namespace", "shop", "--service-account", name, "--pod-name", &format!("{name}-0")])
        .args(["--pod-ip", &pod.ip().to_string()])
        .args(["--xds-address", &discovery.to_string()])
        .args(["--ca-address", &discovery.to_string()])
        .arg("--ca-root")
        .arg(state.join("root-cert.pem"))
        .arg("--token")
        .arg(&token);
    Ok(command.output(Output::File(directory.join(format!("{name}.log")))))
}

/// The token a kubelet would give to the pod of a proxy.
fn mint(state: &Path, name: &str) -> anyhow::Result<String> {
    let pod = format!("{name}-0");
    let bound = Bound {
        namespace: "shop".parse()?,
        pod: Some(ObjectReference::new(pod.as_str(), format!("uid-{pod}").as_str())),
        serviceaccount: ObjectReference::new(name, ""),
        node: Some(ObjectReference::new("node-1", "")),
    };
    Ok(Signer::load_or_create(state)?.sign(&Claims::new(&["istio-ca"], bound, Duration::from_secs(3600)))?)
}

/// Tries again until it succeeds.
pub async fn wait_for<T, F: Future<Output = anyhow::Result<T>>>(what: &str, attempt: impl Fn() -> F) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        match tokio::time::timeout(Duration::from_secs(3), attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) if start.elapsed() > PATIENCE => return Err(error.context(format!("{what} does not come up"))),
            Err(_) if start.elapsed() > PATIENCE => anyhow::bail!("{what} does not answer"),
            Ok(Err(_)) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
