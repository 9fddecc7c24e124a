//! The paths that are compared: the same client, server and nodes, with different things in between.

use std::{net::SocketAddr, path::Path as FilePath, time::Duration};

use ambit::local::{LocalMesh, LocalOptions, WaypointKind};
use ambit_testbed::Pod;
use anyhow::Context;
use istiod_lite::source::NamespacedName;
use tempfile::TempDir;

use crate::{
    envoy,
    manifests::{self, SERVER_PORTS, SERVICE_PORT},
    report::Comparison,
};

/// What lies between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Nothing.
    NoMesh,
    /// Two ztunnels.
    Ztunnel,
    /// Two Envoys, TCP over mutual TLS.
    EnvoyTcp,
    /// Ztunnel, our waypoint, ztunnel.
    Waypoint,
    /// Ztunnel, an Envoy waypoint, ztunnel.
    EnvoyWaypoint,
}

impl Path {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 5] = [Self::NoMesh, Self::Ztunnel, Self::EnvoyTcp, Self::Waypoint, Self::EnvoyWaypoint];

    /// The comparisons that are made, ours first.
    pub const COMPARISONS: [Comparison; 4] = [
        Comparison { ours: "ztunnel", peer: "envoy-tcp" },
        Comparison { ours: "waypoint", peer: "envoy-waypoint" },
        Comparison { ours: "ztunnel", peer: "no-mesh" },
        Comparison { ours: "waypoint", peer: "no-mesh" },
    ];

    /// Its name in reports and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoMesh => "no-mesh",
            Self::Ztunnel => "ztunnel",
            Self::EnvoyTcp => "envoy-tcp",
            Self::Waypoint => "waypoint",
            Self::EnvoyWaypoint => "envoy-waypoint",
        }
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(self) -> &'static str {
        self.name()
    }

    /// Whether the mesh captures its pods.
    #[must_use]
    pub fn enrolled(self) -> bool {
        matches!(self, Self::Ztunnel | Self::Waypoint | Self::EnvoyWaypoint)
    }

    /// Whether its service has a waypoint.
    #[must_use]
    pub fn has_waypoint(self) -> bool {
        matches!(self, Self::Waypoint | Self::EnvoyWaypoint)
    }
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
    pub async fn start(envoy: &FilePath, paths: &[Path]) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let program = std::env::current_exe()?;
        std::fs::write(directory.path().join("perf.yaml"), manifests::yaml(&program.to_string_lossy(), paths))?;
        let mut options = LocalOptions { markers: Vec::new(), ..LocalOptions::new(directory.path()) };
        let gateway = NamespacedName::new(Path::EnvoyWaypoint.namespace(), "waypoint");
        options.other_waypoints.insert(gateway, WaypointKind::Envoy);
        let mesh = LocalMesh::start(options).await?;
        mesh.wait_ready(Duration::from_secs(30), |_| {}).await?;
        let mut rig = Self { mesh, envoys: None, _directory: directory };
        if paths.contains(&Path::EnvoyTcp) {
            let (client, server) = (rig.pod(Path::EnvoyTcp, "client")?, rig.pod(Path::EnvoyTcp, "server")?);
            let dir = rig.mesh.bed().dir().join("envoy");
            rig.envoys = Some(envoy::start(envoy, &dir, &client, &server, SERVER_PORTS[0])?);
        }
        Ok(rig)
    }

    /// A pod of a path.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pod(&self, path: Path, name: &str) -> anyhow::Result<Pod> {
        Ok(self.mesh.pod(path.namespace(), name)?)
    }

    /// The place that load comes from.
    ///
    /// # Errors
    /// When it does not run.
    pub fn client(&self, path: Path) -> anyhow::Result<Pod> {
        self.pod(path, "client")
    }

    /// What the client connects to.
    ///
    /// # Errors
    /// When the server or its service is not there.
    pub fn targets(&self, path: Path) -> anyhow::Result<Vec<SocketAddr>> {
        match path {
            Path::NoMesh => {
                let server = self.pod(path, "server")?.ip();
                Ok(SERVER_PORTS.iter().map(|port| SocketAddr::new(server, *port)).collect())
            }
            Path::EnvoyTcp => Ok(vec![SocketAddr::from(([127, 0, 0, 1], envoy::CLIENT_PORT))]),
            Path::Ztunnel | Path::Waypoint | Path::EnvoyWaypoint => {
                let topology = self.mesh.topology().borrow().clone();
                let service = NamespacedName::new(path.namespace(), "server");
                let addresses = topology.services.get(&service).context("the service has no address")?;
                let v4 = addresses.iter().find(|address| address.is_ipv4()).context("the service has no IPv4 address")?;
                Ok((0..SERVER_PORTS.len() as u16).map(|at| SocketAddr::new(*v4, SERVICE_PORT + at)).collect())
            }
        }
    }

    /// The processes between client and server, by pid.
    #[must_use]
    pub fn proxies(&self, path: Path) -> Vec<u32> {
        let of_mesh = |names: &[String]| {
            let processes = self.mesh.processes();
            names.iter().filter_map(|name| processes.get(name)?.state().pid).collect::<Vec<_>>()
        };
        let ztunnels = ["ztunnel/node-1".to_owned(), "ztunnel/node-2".to_owned()];
        let waypoint = format!("waypoint/{}/waypoint", path.namespace());
        match path {
            Path::NoMesh => Vec::new(),
            Path::Ztunnel => of_mesh(&ztunnels),
            Path::EnvoyTcp => self.envoys.iter().flat_map(|pair| &pair.processes).map(ambit_testbed::Process::pid).collect(),
            Path::Waypoint | Path::EnvoyWaypoint => {
                let mut pids = of_mesh(&ztunnels);
                pids.extend(of_mesh(&[waypoint]).into_iter().flat_map(with_children));
                pids
            }
        }
    }

    /// Ends everything in order.
    pub async fn stop(self) {
        self.mesh.stop().await;
    }
}

/// An Envoy waypoint is a child of the program that gives it its certificates.
fn with_children(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    std::iter::once(pid).chain(children.split_ascii_whitespace().filter_map(|child| child.parse().ok())).collect()
}
