//! One control plane, two pods of one waypoint, the first ours and the second Envoy, and a client and backends whose node proxy is this process.
//! Both waypoints have the same name and the same identity, so that they are sent the same resources.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{ConnectRequest, Pool, PoolConfig, PoolKey, TunnelStream};
use ambit_identity::SpiffeId;
use ambit_integration::wait::until;
use ambit_testbed::{Bed, BedConfig, Command, Node, Output, Pod, PodSpec};
use ambit_tls::Svid;
use ambit_tls::authority::{Authority, LocalSource};
use ambit_tls::token::{Bound, Claims, ObjectReference, Signer};
use anyhow::Context as _;
use http::HeaderMap;
use serde_json::{Value, json};

use crate::backend::{self, Arrivals, TWIN};
use crate::known::Side;
use crate::logs::BEGINNING;
use crate::wire::{Answer, Channel, NO_ANSWER, NO_CONNECTION};
use crate::world::{ACCOUNTS, Request, labels};

/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an answer may take.
const LONGEST: Duration = Duration::from_secs(10);

pub struct Mesh {
    pub bed: Bed,
    pub arrivals: Arrivals,
    /// The endpoints of services that have two.
    pub pair: [IpAddr; 2],
    waypoints: [Pod; 2],
    client: Pod,
    pool: Pool,
    svids: Vec<(&'static str, Svid)>,
}

/// The identity of an account, `namespace/name`.
pub fn identity(account: &str) -> SpiffeId {
    let (namespace, name) = account.split_once('/').expect("a namespace and a name");
    format!("spiffe://cluster.local/ns/{namespace}/sa/{name}").parse().expect("an identity")
}

fn waypoint_identity() -> SpiffeId {
    identity("shop/waypoint")
}

impl Mesh {
    /// Starts everything on these objects, and waits until both waypoints serve `sentinel`.
    pub async fn start(objects: &[Value], sentinel: Ipv4Addr) -> anyhow::Result<Self> {
        let bed = Bed::new(BedConfig::default()).await?;
        let node = bed.add_node("node-1").await?;
        let control_plane = bed.control_plane().await?.clone();
        let (state, source) = (bed.dir().join("state"), bed.dir().join("source"));
        std::fs::create_dir_all(&source)?;
        let authority = Arc::new(Authority::load_or_create(&state, &"cluster.local".parse()?)?);
        let certificates = LocalSource::new(authority, Duration::from_secs(3600));
        let mut pods = Vec::new();
        for name in ["app", "waypoint-0", "waypoint-1", "client", "twin"] {
            pods.push(node.add_pod(PodSpec::new("shop", name)).await?);
        }
        let [app, ours, envoys, client, twin] = pods.try_into().expect("five pods");
        let proxies = [pod("waypoint-0", "waypoint", &ours), pod("waypoint-1", "waypoint", &envoys)];
        let pods = [pod("app", "app", &app), pod("twin", "twin", &twin)].into_iter().chain(proxies).collect::<Vec<_>>();
        let documents: Vec<String> = pods.iter().chain(objects).map(Value::to_string).collect();
        std::fs::write(source.join("world.yaml"), documents.join("\n---\n"))?;
        let arrivals = Arrivals::default();
        for (pod, account, more) in [(&app, "shop/app", 0), (&twin, "shop/twin", TWIN)] {
            backend::serve(pod, &certificates.svid(&identity(account))?, waypoint_identity(), more, &arrivals)?;
        }

        let istiod = Command::this_program().name("istiod").arg("istiod").arg("--source-dir").arg(&source);
        let log = Output::File(bed.dir().join("istiod.log"));
        control_plane.spawn(istiod.arg("--state-dir").arg(&state).output(log))?;
        let root = state.join("root-cert.pem");
        until("the root certificate", PATIENCE, async || root.exists().then_some(()).ok_or_else(|| "not yet".to_owned())).await?;
        let discovery = SocketAddr::new(control_plane.ip(), 15012);
        until("the control plane", PATIENCE, async || client.connect(discovery).await.map_err(|error| error.to_string())).await?;
        for (side, pod) in [(Side::Ours, &ours), (Side::Envoys, &envoys)] {
            start_waypoint(&bed, &control_plane, side, pod, &state)?;
        }
        let svid = |account: &&'static str| anyhow::Ok((*account, certificates.svid(&identity(account))?));
        let svids = ACCOUNTS.iter().map(svid).collect::<anyhow::Result<Vec<_>>>()?;
        let pool = Pool::new(PoolConfig::default());
        let pair = [app.ip(), twin.ip()];
        let mesh = Self { bed, arrivals, pair, waypoints: [ours, envoys], client, pool, svids };
        for side in [Side::Ours, Side::Envoys] {
            let ready = async || mesh.serves(side, sentinel).await.map_err(|error| format!("{error:#}"));
            until("a waypoint", PATIENCE, ready).await.with_context(|| mesh.logs())?;
        }
        Ok(mesh)
    }

    async fn serves(&self, side: Side, address: Ipv4Addr) -> anyhow::Result<()> {
        let tunnel = tokio::time::timeout(LONGEST, self.tunnel(side, ACCOUNTS[0], address)).await??;
        let request = Request::new("GET", "/", "sentinel");
        let mut channel = Channel::new(tunnel, request.version).await?;
        let answer = tokio::time::timeout(LONGEST, channel.ask(&request, "sentinel")).await??;
        anyhow::ensure!(answer.as_ref().is_some_and(|answer| answer.status == "200"), "{side:?} answers {answer:?}");
        Ok(())
    }

    /// A tunnel to port 80 of a service.
    async fn tunnel(&self, side: Side, account: &str, service: Ipv4Addr) -> anyhow::Result<TunnelStream> {
        let waypoint = &self.waypoints[side as usize];
        let (_, svid) = self.svids.iter().find(|(name, _)| *name == account).context("an account without a certificate")?;
        let tls = ambit_tls::client_config(svid, &[waypoint_identity()])?;
        let address = SocketAddr::new(waypoint.ip(), 15008);
        let key =
            PoolKey { source: identity(account), destinations: vec![waypoint_identity()], address, source_ip: None, netns: None };
        let authority = format!("{service}:80").parse()?;
        let dial = || async {
            let tcp = self.client.connect(address).await?;
            ambit_tls::handshake::connect(tcp, tls, Duration::from_secs(10)).await
        };
        let (tunnel, _) = self.pool.connect(&key, dial, ConnectRequest { authority, headers: HeaderMap::new() }).await?;
        Ok(tunnel)
    }

    /// What the admin page of our waypoint answers.
    pub async fn page(&self, path_and_query: &str) -> anyhow::Result<Value> {
        let stream = self.waypoints[Side::Ours as usize].connect(([127, 0, 0, 1], 15000).into()).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = http::Request::get(path_and_query).header("host", "localhost");
        let answer = sender.send_request(request.body(http_body_util::Empty::<hyper::body::Bytes>::new())?).await?;
        let body = http_body_util::BodyExt::collect(answer.into_body()).await?.to_bytes();
        connection.abort();
        serde_json::from_slice(&body).with_context(|| format!("{path_and_query} is answered {}", String::from_utf8_lossy(&body)))
    }

    /// The address that calls.
    pub fn client(&self) -> IpAddr {
        self.client.ip()
    }

    /// All that a waypoint has written to where its access log is.
    pub fn access_log(&self, side: Side) -> String {
        let file = match side {
            Side::Ours => "waypoint-0.log",
            // What it says of itself it says elsewhere.
            Side::Envoys => "access-1.log",
        };
        let log = std::fs::read(self.bed.dir().join(file)).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// What the programs said last, for a failure.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for name in ["istiod.log", "waypoint-0.log", "waypoint-1.log"] {
            let log = std::fs::read_to_string(self.bed.dir().join(name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().filter(|line| is_of_program(line)).collect();
            text += &format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
        text
    }
}

/// Whether a line is of what a program has to say of itself, and not of a request.
fn is_of_program(line: &str) -> bool {
    !line.contains("work-in-progress") && !line.starts_with(BEGINNING)
}

/// The connections to one service through one waypoint, for each account and version one, kept while they may be.
pub struct Client<'a> {
    mesh: &'a Mesh,
    side: Side,
    service: Ipv4Addr,
    open: Vec<((&'static str, &'static str), Channel)>,
}

impl<'a> Client<'a> {
    pub fn new(mesh: &'a Mesh, side: Side, service: Ipv4Addr) -> Self {
        Self { mesh, side, service, open: Vec::new() }
    }

    /// What a request is answered. A connection at hand may have ended meanwhile; then it is sent again on a new one.
    pub async fn ask(&mut self, request: &Request, id: &str) -> Answer {
        let of = (request.account, request.version);
        let at = self.open.iter().position(|(kept, _)| *kept == of);
        let mut kept = at.map(|at| self.open.swap_remove(at).1);
        loop {
            let fresh = kept.is_none();
            let mut channel = match kept.take() {
                Some(channel) => channel,
                None => match self.channel(request).await {
                    Ok(channel) => channel,
                    Err(error) => return Answer::none(&format!("{NO_CONNECTION}: {error:#}")),
                },
            };
            match tokio::time::timeout(LONGEST, channel.ask(request, id)).await {
                Ok(Ok(Some(answer))) => {
                    if !answer.closes {
                        self.open.push((of, channel));
                    }
                    return answer;
                }
                Ok(Ok(None)) if fresh => return Answer::none("the connection ends"),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => return Answer::none(&format!("no HTTP: {error:#}")),
                Err(_) => return Answer::none(NO_ANSWER),
            }
        }
    }

    async fn channel(&self, request: &Request) -> anyhow::Result<Channel> {
        let tunnel = tokio::time::timeout(LONGEST, self.mesh.tunnel(self.side, request.account, self.service)).await??;
        Channel::new(tunnel, request.version).await
    }
}

fn start_waypoint(bed: &Bed, control_plane: &Node, side: Side, pod: &Pod, state: &Path) -> anyhow::Result<()> {
    let name = format!("waypoint-{}", side as usize);
    let discovery = SocketAddr::new(control_plane.ip(), 15012).to_string();
    let token = bed.dir().join(format!("token-{}", side as usize));
    std::fs::write(&token, mint(state, &name)?)?;
    let program: &[&str] = match side {
        Side::Ours => &["waypoint"],
        Side::Envoys => &["envoy", "--concurrency", "1"],
    };
    let command = Command::this_program()
        .name(&name)
        .args(program)
        .args(["--name", "waypoint", "--namespace", "shop", "--service-account", "waypoint", "--pod-name", &name])
        .args(["--pod-ip", &pod.ip().to_string()])
        .args(["--xds-address", &discovery, "--ca-address", &discovery])
        .arg("--ca-root")
        .arg(state.join("root-cert.pem"))
        .arg("--token")
        .arg(&token)
        .arg("--access-log")
        .arg(bed.dir().join(format!("access-{}.log", side as usize)))
        .output(Output::File(bed.dir().join(format!("{name}.log"))));
    pod.spawn(command)?;
    Ok(())
}

/// The token a kubelet would give to a waypoint's pod.
fn mint(state: &Path, pod: &str) -> anyhow::Result<String> {
    let bound = Bound {
        namespace: "shop".parse()?,
        pod: Some(ObjectReference::new(pod, format!("uid-{pod}"))),
        serviceaccount: ObjectReference::new("waypoint", ""),
        node: Some(ObjectReference::new("node-1", "")),
    };
    Ok(Signer::load_or_create(state)?.sign(&Claims::new(&["istio-ca"], bound, Duration::from_secs(3600)))?)
}

/// A pod as an API server would show it.
fn pod(name: &str, app: &str, pod: &Pod) -> Value {
    let addresses: Vec<Value> = pod.ips().iter().map(|ip| json!({"ip": ip.to_string()})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "labels": labels(app),
            "annotations": {"ambient.istio.io/redirection": "enabled"},
        },
        "spec": {"serviceAccountName": app, "nodeName": "node-1", "containers": [{"name": "c", "image": "i"}]},
        "status": {"podIPs": addresses, "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}
