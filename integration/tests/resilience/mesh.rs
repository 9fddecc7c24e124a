//! A node with a waypoint, whose clients and backends have this process as their node proxy, and the control plane on a node of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ambit_identity::SpiffeId;
use ambit_integration::wait::until;
use ambit_testbed::{Bed, BedConfig, Command, Output, Pod, PodSpec};
use ambit_tls::authority::{Authority, LocalSource};
use ambit_tls::token::{Bound, Claims, ObjectReference, Signer};
use anyhow::Context as _;

use crate::backend::{self, Failing, Handler};
use crate::client::{Caller, Channel};
use crate::objects::{self, B, BUSY, C, D, EJECTING, RETURNING, WRITTEN};
use crate::overload::Busy;
use crate::writes::Seen;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pods with the service that each belongs to.
const PODS: [(&str, &str); 8] = [
    ("b-0", "b"),
    ("c-0", "c"),
    ("d-0", "d"),
    ("ejecting-0", "ejecting"),
    ("ejecting-1", "ejecting"),
    ("ejecting-2", "ejecting"),
    ("written-0", "written"),
    ("busy-0", "busy"),
];

pub struct Mesh {
    pub bed: Bed,
    pub caller: Arc<Caller>,
    /// The last of three services.
    pub last: Arc<Failing>,
    /// The endpoints of one.
    pub ejecting: [Arc<Failing>; 3],
    /// What one was sent.
    pub written: Arc<Seen>,
}

/// An account of the namespace `shop`.
pub fn identity(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().expect("an identity")
}

impl Mesh {
    /// Starts everything, and waits until each service answers.
    pub async fn start() -> anyhow::Result<Self> {
        let bed = Bed::new(BedConfig::default()).await?;
        let node = bed.add_node("node-1").await?;
        let control_plane = bed.control_plane().await?.clone();
        let (state, source) = (bed.dir().join("state"), bed.dir().join("source"));
        std::fs::create_dir_all(&source)?;
        let authority = Arc::new(Authority::load_or_create(&state, &"cluster.local".parse()?)?);
        let certificates = LocalSource::new(authority, Duration::from_secs(3600));
        let waypoint = node.add_pod(PodSpec::new("shop", "waypoint-0")).await?;
        let client = node.add_pod(PodSpec::new("shop", "client")).await?;
        let mut pods = Vec::new();
        let mut written = vec![objects::pod("waypoint-0", "waypoint", "waypoint", &waypoint.ips())];
        for (name, app) in PODS {
            let pod = node.add_pod(PodSpec::new("shop", name)).await?;
            written.push(objects::pod(name, app, "app", &pod.ips()));
            pods.push(pod);
        }
        std::fs::write(source.join("mesh.yaml"), objects::all(&written))?;

        let at = SocketAddr::new(waypoint.ip(), 15008);
        let caller = Arc::new(Caller::new(client.clone(), at, certificates.svid(&identity("client"))?));
        let mesh = Self {
            bed,
            caller,
            last: Arc::default(),
            ejecting: std::array::from_fn(|_| Arc::default()),
            written: Arc::default(),
        };
        let svid = certificates.svid(&identity("app"))?;
        for (pod, handler) in pods.iter().zip(mesh.handlers()) {
            backend::serve(pod, &svid, handler)?;
        }

        let istiod = Command::this_program().name("istiod").arg("istiod").arg("--source-dir").arg(&source);
        let log = Output::File(mesh.bed.dir().join("istiod.log"));
        control_plane.spawn(istiod.arg("--state-dir").arg(&state).output(log))?;
        let root = state.join("root-cert.pem");
        until("the root certificate", PATIENCE, async || root.exists().then_some(()).ok_or_else(|| "not yet".to_owned())).await?;
        let discovery = SocketAddr::new(control_plane.ip(), 15012);
        until("the control plane", PATIENCE, async || client.connect(discovery).await.map_err(|error| error.to_string())).await?;
        mesh.start_waypoint(&waypoint, discovery, &state)?;
        mesh.answers().await.with_context(|| mesh.logs())?;
        Ok(mesh)
    }

    /// What each of the pods does.
    fn handlers(&self) -> [Handler; 8] {
        let to = |next| {
            let (caller, channel) = (Arc::clone(&self.caller), Arc::new(Channel::new(next)));
            backend::http(move |request| {
                let (caller, channel) = (Arc::clone(&caller), Arc::clone(&channel));
                let path = request.uri().path().to_owned();
                async move {
                    match channel.get(&caller, &path, "").await {
                        Ok((200, _)) => 200,
                        _ => 503,
                    }
                }
            })
        };
        let failing = |of: &Arc<Failing>| {
            let of = Arc::clone(of);
            backend::http_or_not(move |_| {
                let of = Arc::clone(&of);
                async move { of.answer().await }
            })
        };
        let [one, two, three] = &self.ejecting;
        [
            to(C),
            to(D),
            failing(&self.last),
            failing(one),
            failing(two),
            failing(three),
            Seen::handler(&self.written),
            Busy::handler(),
        ]
    }

    fn start_waypoint(&self, pod: &Pod, discovery: SocketAddr, state: &Path) -> anyhow::Result<()> {
        let directory = self.bed.dir();
        let token = directory.join("waypoint.token");
        std::fs::write(&token, mint(state)?)?;
        let discovery = discovery.to_string();
        let command = Command::this_program()
            .name("waypoint-0")
            .args(["waypoint", "--name", "waypoint", "--namespace", "shop", "--service-account", "waypoint"])
            .args(["--pod-name", "waypoint-0", "--pod-ip", &pod.ip().to_string()])
            .args(["--xds-address", &discovery, "--ca-address", &discovery])
            .arg("--ca-root")
            .arg(state.join("root-cert.pem"))
            .arg("--token")
            .arg(&token)
            .arg("--access-log")
            .arg(directory.join("access.log"))
            .output(Output::File(directory.join("waypoint.log")));
        pod.spawn(command)?;
        Ok(())
    }

    /// Waits until each service answers.
    async fn answers(&self) -> anyhow::Result<()> {
        for service in [B, C, D, EJECTING, RETURNING, WRITTEN, BUSY] {
            let ask = async || {
                let request = http::Request::get("/healthz").header("host", "any").body(http_body_util::Full::default());
                let request = request.map_err(|error| error.to_string())?;
                let answer = tokio::time::timeout(Duration::from_secs(5), self.caller.once(service, request)).await;
                match answer.map_err(|error| error.to_string())? {
                    Ok(200) => Ok(()),
                    Ok(status) => Err(format!("it answers {status}")),
                    Err(error) => Err(format!("{error:#}")),
                }
            };
            until(&format!("the service at {service}"), PATIENCE, ask).await?;
        }
        Ok(())
    }

    /// What the programs said last, for a failure.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for name in ["istiod.log", "waypoint.log", "access.log"] {
            let log = std::fs::read_to_string(self.bed.dir().join(name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text += &format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
        text
    }
}

/// The token a kubelet would give to the waypoint's pod.
fn mint(state: &Path) -> anyhow::Result<String> {
    let bound = Bound {
        namespace: "shop".parse()?,
        pod: Some(ObjectReference::new("waypoint-0", "uid-waypoint-0")),
        serviceaccount: ObjectReference::new("waypoint", ""),
        node: Some(ObjectReference::new("node-1", "")),
    };
    Ok(Signer::load_or_create(state)?.sign(&Claims::new(&["istio-ca"], bound, Duration::from_secs(3600)))?)
}
