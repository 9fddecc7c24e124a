//! All paths, running: a local mesh with a namespace for each, and the Envoys beside it.

use std::{net::SocketAddr, path::Path as FilePath, time::Duration};

use ambit::local::{LocalMesh, LocalOptions, WaypointKind};
use ambit_testbed::Pod;
use anyhow::Context;
use istiod_lite::source::NamespacedName;
use tempfile::TempDir;

use crate::{
    envoy,
    manifests::{self, EDGE, EDGE_PORT, SERVER_PORTS, SERVICE_PORT, SMALL_PORTS, WAYPOINT},
    paths::Path,
    probe,
};

/// How long the mesh may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a change of hundreds of pods may take.
const CHANGE: Duration = Duration::from_secs(240);

/// A process between client and server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its name in reports.
    pub name: String,
    /// Its process id.
    pub pid: u32,
}

/// All paths, running.
pub struct Rig {
    mesh: LocalMesh,
    envoys: Option<envoy::Pair>,
    _directory: TempDir,
}

impl Rig {
    /// Starts a mesh with a namespace for each of `paths`, and the Envoys beside it.
    ///
    /// # Errors
    /// When a part does not start; the message says which and why.
    pub async fn start(envoy: Option<&FilePath>, paths: &[Path]) -> anyhow::Result<Self> {
        Self::start_with(envoy, paths, Vec::new()).await
    }

    /// As [`Rig::start`], with further flags for the node proxies.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub async fn start_with(envoy: Option<&FilePath>, paths: &[Path], flags: Vec<String>) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let program = std::env::current_exe()?;
        std::fs::write(directory.path().join("perf.yaml"), manifests::yaml(&program.to_string_lossy(), paths))?;
        let mut options = LocalOptions { markers: Vec::new(), node_proxy_flags: flags, ..LocalOptions::new(directory.path()) };
        options.envoy = envoy.map(FilePath::to_path_buf);
        for (path, gateway) in [(Path::EnvoyWaypoint, WAYPOINT), (Path::EnvoyHop, EDGE)] {
            options.other_waypoints.insert(NamespacedName::new(path.name(), gateway), WaypointKind::Envoy);
        }
        let mesh = LocalMesh::start(options).await?;
        let mut rig = Self { mesh, envoys: None, _directory: directory };
        rig.wait_ready().await?;
        if paths.contains(&Path::EnvoyTcp) {
            let envoy = envoy.context("the path envoy-tcp needs an Envoy")?;
            let (client, server) = (rig.pod(Path::EnvoyTcp, "client")?, rig.pod(Path::EnvoyTcp, "server")?);
            let dir = rig.mesh.bed().dir().join("envoy");
            rig.envoys = Some(envoy::start(envoy, &dir, &client, &server, [SERVER_PORTS[0], SERVER_PORTS[SMALL_PORTS]])?);
            for port in envoy::CLIENT_PORTS {
                listens(&client, SocketAddr::from(([127, 0, 0, 1], port))).await.context("Envoy does not listen")?;
            }
        }
        for path in paths.iter().filter(|path| path.is_hop()) {
            let client = rig.pod(*path, "client")?;
            for port in rig.all_targets(*path)? {
                listens(&client, port).await.with_context(|| format!("the proxy of {} does not listen", path.name()))?;
            }
        }
        Ok(rig)
    }

    /// The mesh itself.
    #[must_use]
    pub fn mesh(&self) -> &LocalMesh {
        &self.mesh
    }

    /// Waits until everything asked for runs.
    ///
    /// # Errors
    /// When that takes too long; the message says what is missing.
    pub async fn wait_ready(&self) -> anyhow::Result<()> {
        self.mesh.wait_ready(PATIENCE, |_| {}).await?;
        Ok(())
    }

    /// Writes or removes a file of the watched directory that makes the pods `more` (or fewer, when negative), and waits until they
    /// run, or have ended, and every proxy knows it.
    ///
    /// # Errors
    /// When that takes too long; the message says what is missing.
    pub async fn change(&self, file: &str, text: Option<&str>, more: isize) -> anyhow::Result<()> {
        let (pods, known) = (self.mesh.topology().borrow().pods.len(), probe::count(self, "node-1", "workloads").await?);
        match text {
            Some(text) => self.mesh.write_manifest(file, text)?,
            None => self.mesh.remove_manifest(file)?,
        }
        let mut topology = self.mesh.topology();
        let wanted = pods.saturating_add_signed(more);
        let reached = topology.wait_for(|now| now.pods.len() == wanted);
        tokio::time::timeout(CHANGE, reached).await.with_context(|| format!("there are not {wanted} pods"))??;
        self.mesh.wait_ready(CHANGE, |_| {}).await?;
        // Pods that have ended are known to the proxies for a moment more.
        let known = known.saturating_add_signed(more);
        probe::wait_count(self, "workloads", |now| if more < 0 { now <= known } else { now >= known }).await
    }

    /// A pod of a path.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pod(&self, path: Path, name: &str) -> anyhow::Result<Pod> {
        Ok(self.mesh.pod(path.name(), name)?)
    }

    /// What a client of the path connects to: the first server's ports, which new connections take in turns.
    ///
    /// # Errors
    /// When the server or its service is not there.
    pub fn targets(&self, path: Path) -> anyhow::Result<Vec<SocketAddr>> {
        let mut all = self.all_targets(path)?;
        all.pop();
        Ok(all)
    }

    /// What a stream connects to that small requests are to live beside: the second server, which keeps the first one free.
    ///
    /// # Errors
    /// When the server or its service is not there.
    pub fn bulk_targets(&self, path: Path) -> anyhow::Result<Vec<SocketAddr>> {
        Ok(self.all_targets(path)?.pop().into_iter().collect())
    }

    fn all_targets(&self, path: Path) -> anyhow::Result<Vec<SocketAddr>> {
        match path {
            Path::NoMesh | Path::NoMeshLocal => {
                let server = self.pod(path, "server")?.ip();
                Ok(SERVER_PORTS.iter().map(|port| SocketAddr::new(server, *port)).collect())
            }
            Path::Hop | Path::EnvoyHop => {
                let edge = self.pod(path, EDGE)?.ip();
                Ok((EDGE_PORT..).take(SERVER_PORTS.len()).map(|port| SocketAddr::new(edge, port)).collect())
            }
            Path::EnvoyTcp => Ok(envoy::CLIENT_PORTS.map(|port| SocketAddr::from(([127, 0, 0, 1], port))).to_vec()),
            Path::Ztunnel | Path::SameNode | Path::Waypoint | Path::EnvoyWaypoint => {
                let topology = self.mesh.topology().borrow().clone();
                let service = NamespacedName::new(path.name(), "server");
                let addresses = topology.services.get(&service).context("the service has no address")?;
                let v4 = addresses.iter().find(|address| address.is_ipv4()).context("the service has no IPv4 address")?;
                Ok((SERVICE_PORT..).take(SERVER_PORTS.len()).map(|port| SocketAddr::new(*v4, port)).collect())
            }
        }
    }

    /// The processes between client and server, the client's first.
    #[must_use]
    pub fn proxies(&self, path: Path) -> Vec<Proxy> {
        let gateway = if path.is_hop() { EDGE } else { WAYPOINT };
        let waypoint = format!("waypoint/{}/{gateway}", path.name());
        let (near, far) = ("ztunnel/node-1", "ztunnel/node-2");
        match path {
            Path::NoMesh | Path::NoMeshLocal => Vec::new(),
            Path::SameNode => self.of_mesh(&[near]),
            Path::Ztunnel => self.of_mesh(&[near, far]),
            Path::EnvoyTcp => {
                let envoys = self.envoys.iter().flat_map(|pair| &pair.processes);
                envoys.map(|process| Proxy { name: process.name().to_owned(), pid: process.pid() }).collect()
            }
            Path::Waypoint | Path::EnvoyWaypoint => self.of_mesh(&[near, &waypoint, far]),
            Path::Hop | Path::EnvoyHop => self.of_mesh(&[&waypoint]),
        }
    }

    fn of_mesh(&self, names: &[&str]) -> Vec<Proxy> {
        let processes = self.mesh.processes();
        let running = names.iter().filter_map(|name| Some((*name, processes.get(*name)?.state().pid?)));
        running.flat_map(|(name, pid)| with_children(name, pid)).collect()
    }

    /// Ends everything in order.
    pub async fn stop(self) {
        self.mesh.stop().await;
    }
}

/// An Envoy waypoint is a child of the program that gives it its certificates.
fn with_children(name: &str, pid: u32) -> Vec<Proxy> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_ascii_whitespace().filter_map(|child| child.parse().ok());
    let named = children.enumerate().map(|(at, pid)| Proxy { name: format!("{name}, child {}", at + 1), pid });
    std::iter::once(Proxy { name: name.to_owned(), pid }).chain(named).collect()
}

/// Waits until something there accepts connections of the pod.
async fn listens(pod: &Pod, to: SocketAddr) -> anyhow::Result<()> {
    let listens = async {
        while pod.connect(to).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, listens).await.with_context(|| to.to_string())
}
