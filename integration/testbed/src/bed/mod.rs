//! The bed: what nodes and pods live in.

mod enter;
mod supervise;

pub use enter::enter;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use ambit_runtime::netns::NetNs;

use crate::net::plan::{CONTROL_PLANE, NodePlan};
use crate::net::{Links, sysctl};
use crate::wire::Capture;
use crate::{Error, Families, Node};

/// Name of the bridge that joins the nodes, in a namespace of its own.
pub(crate) const WIRE: &str = "wire0";

/// Settings of a bed.
#[derive(Clone, Debug)]
pub struct BedConfig {
    /// MTU of every link, bytes.
    pub mtu: u32,
    /// The families of its addresses.
    pub families: Families,
}

impl Default for BedConfig {
    fn default() -> Self {
        Self { mtu: 1500, families: Families::default() }
    }
}

/// A set of nodes on one wire. Several beds in one program do not see each other.
#[derive(Debug)]
pub struct Bed {
    config: BedConfig,
    dir: PathBuf,
    wire: NetNs,
    /// Index of the bridge in `wire`.
    bridge: u32,
    nodes: Mutex<BTreeMap<u8, Node>>,
    control_plane: tokio::sync::OnceCell<Node>,
}

static NEXT_BED: AtomicU32 = AtomicU32::new(0);

impl Bed {
    /// Makes the wire. [`enter`] must have been called at the start of the program.
    ///
    /// # Errors
    /// The kernel refuses a namespace or a bridge; the message says what is missing.
    pub async fn new(config: BedConfig) -> Result<Self, Error> {
        let dir = Path::new(enter::RUN).join(format!("ambit/bed-{}", NEXT_BED.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&dir).map_err(Error::io(format!("make {} (was bed::enter() called?)", dir.display())))?;
        let wire = NetNs::create()
            .map_err(Error::unavailable("make a network namespace", "call bed::enter() first, or run with CAP_SYS_ADMIN"))?;
        sysctl::set(&wire, sysctl::WIRE)?;
        let links = Links::open(&wire)?;
        links.up("lo").await?;
        links.add_bridge(WIRE, [2, 0x30, 0, 0, 0, 0xfe], config.mtu).await?;
        let bridge = links.index(WIRE).await?;
        Ok(Self { config, dir, wire, bridge, nodes: Mutex::default(), control_plane: tokio::sync::OnceCell::new() })
    }

    /// Adds a node; the first is number 1, and so on.
    pub async fn add_node(&self, name: &str) -> Result<Node, Error> {
        let number = {
            let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
            (1..CONTROL_PLANE).find(|number| !nodes.contains_key(number))
        };
        let number = number.ok_or_else(|| Error::Plan("a bed has room for 99 nodes".into()))?;
        self.add(number, name).await
    }

    /// The node in which the control plane runs (number 100), made at first use.
    pub async fn control_plane(&self) -> Result<&Node, Error> {
        self.control_plane.get_or_try_init(|| self.add(CONTROL_PLANE, "control-plane")).await
    }

    async fn add(&self, number: u8, name: &str) -> Result<Node, Error> {
        let others = self.nodes();
        if others.iter().any(|node| node.name() == name) {
            return Err(Error::Plan(format!("a node named {name} already exists in this bed")));
        }
        let plan = NodePlan::new(number);
        let node = Node::create(name, plan, &self.wire, &self.dir, &self.config).await?;
        for other in &others {
            node.add_route_to(other.plan()).await?;
            other.add_route_to(plan).await?;
        }
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).insert(number, node.clone());
        Ok(node)
    }

    /// All nodes in order of number, the control plane's last.
    pub fn nodes(&self) -> Vec<Node> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// A directory for files of this bed. It is memory (tmpfs), seen by the programs in the bed and by nobody outside, and gone with it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The families of its addresses.
    pub fn families(&self) -> Families {
        self.config.families
    }

    /// Starts watching the wire between the nodes for packets and for these byte strings.
    pub fn capture<M: AsRef<[u8]>>(&self, markers: impl IntoIterator<Item = M>) -> Result<Capture, Error> {
        Capture::start(&self.wire, self.bridge, markers.into_iter().map(|marker| marker.as_ref().to_vec()).collect())
    }

    /// Kills every program of the bed and waits for them to be gone.
    pub async fn shutdown(&self) {
        let nodes = self.nodes();
        for node in &nodes {
            node.kill_all();
        }
        for node in &nodes {
            node.stop_all().await;
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for node in self.nodes() {
            node.kill_all();
            node.forget_pods();
        }
        // Only files in a tmpfs of our own; what cannot be removed goes with the mount namespace.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
