//! What a local mesh is made of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ambit_testbed::Families;
use istiod_lite::source::NamespacedName;

use crate::error::{Error, Result};

/// Which program serves as waypoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum WaypointKind {
    /// Our own.
    #[default]
    Ours,
    /// An unmodified Envoy, driven by the same resources.
    Envoy,
}

/// Settings of a local mesh.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// The user's directory of Kubernetes YAML, watched.
    pub manifests: PathBuf,
    /// The `ambit` program, which is all parts of the mesh.
    pub program: PathBuf,
    /// Which program serves as waypoint.
    pub waypoint: WaypointKind,
    /// Waypoints by Gateway that another program than [`Self::waypoint`] serves, so that two can be compared in one mesh.
    pub other_waypoints: BTreeMap<NamespacedName, WaypointKind>,
    /// The Envoy program; one that is looked for if not given.
    pub envoy: Option<PathBuf>,
    /// Trust domain of all identities.
    pub trust_domain: String,
    /// Where programs write their logs; inside the bed (gone with it) if not given.
    pub logs: Option<PathBuf>,
    /// Where the certificate authority keeps its root and the key of tokens; inside the bed if not given.
    pub state: Option<PathBuf>,
    /// The IP families of nodes, pods and services.
    pub families: Families,
    /// What is looked for on the wire between the nodes.
    pub markers: Vec<String>,
    /// Further flags of the node proxies.
    pub node_proxy_flags: Vec<String>,
    /// Further flags of the control plane.
    pub control_plane_flags: Vec<String>,
}

impl LocalOptions {
    /// A mesh of the YAML in `manifests`, run by the program that is running now.
    pub fn new(manifests: impl Into<PathBuf>) -> Self {
        Self {
            manifests: manifests.into(),
            program: PathBuf::from("/proc/self/exe"),
            waypoint: WaypointKind::Ours,
            other_waypoints: BTreeMap::new(),
            envoy: None,
            trust_domain: "cluster.local".to_owned(),
            logs: None,
            state: None,
            families: Families::default(),
            markers: vec![crate::demo::MARKER.to_owned()],
            node_proxy_flags: Vec::new(),
            control_plane_flags: Vec::new(),
        }
    }
}

/// Directories of a running mesh.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    /// The certificate authority's.
    pub state: PathBuf,
    /// Objects laid over the user's.
    pub objects: PathBuf,
    /// Tokens of the mesh's own pods.
    pub tokens: PathBuf,
    /// Logs and access logs.
    pub logs: PathBuf,
    /// Sockets.
    pub run: PathBuf,
}

impl Paths {
    /// Makes them below `bed`, but for those that the options put elsewhere.
    pub fn create(bed: &Path, options: &LocalOptions) -> Result<Self> {
        let elsewhere = |chosen: &Option<PathBuf>, name: &str| chosen.clone().unwrap_or_else(|| bed.join(name));
        let paths = Self {
            state: elsewhere(&options.state, "state"),
            logs: elsewhere(&options.logs, "logs"),
            objects: bed.join("objects"),
            tokens: bed.join("tokens"),
            run: bed.join("run"),
        };
        for path in [&paths.state, &paths.logs, &paths.objects, &paths.tokens, &paths.run] {
            std::fs::create_dir_all(path).map_err(|cause| Error::path("making", path, cause))?;
        }
        Ok(paths)
    }

    /// The file of the mesh's root certificates.
    pub fn root_cert(&self) -> PathBuf {
        self.state.join("root-cert.pem")
    }

    /// The log of a process by its name in the mesh.
    pub fn log(&self, process: &str) -> PathBuf {
        self.logs.join(format!("{}.log", process.replace('/', "_")))
    }

    /// The access log of a proxy by its name in the mesh.
    pub fn access_log(&self, process: &str) -> PathBuf {
        self.logs.join(format!("{}.access.log", process.replace('/', "_")))
    }
}
