//! The large variant: a control plane and nodes with a kubelet, inside a bed.

mod ask;
mod dns;
mod front;
mod images;
mod outage;
mod plane;
mod ready;
mod status;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ambit_testbed::{Bed, BedConfig, Families, Place};
use k8s_openapi::api::core::v1::{Node as KubeNode, Pod};
use kube::api::{Api, ListParams};

use crate::error::{Error, Result};
use crate::image;
use crate::node::requirements::Requirements;
use crate::node::{Node, NodePlan, ProxyMode, cgroups};
use crate::pki::{Authority, MASTERS};
use crate::programs::Programs;
use front::Front;
use plane::ControlPlane;
pub use status::{NodeStatus, Status};

/// How long a part may take to be ready: generous, since builds may go on beside it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Pause between two questions whether something is ready.
const ASK: Duration = Duration::from_millis(150);

/// Time for programs that were killed to let go of their files.
const LAST: Duration = Duration::from_secs(5);

/// What a cluster is to be like.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Its name, part of the names of control groups: letters, digits and dashes.
    pub name: String,
    /// How many nodes, 1 to 9.
    pub nodes: u8,
    /// A directory on disk for it alone, which it removes at the end. Not below `/run`, which a bed hides.
    pub directory: PathBuf,
    /// How services are translated.
    pub proxy: ProxyMode,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    machine: Requirements,
    plane: ControlPlane,
    nodes: Vec<(ambit_testbed::Node, Node)>,
    front: Front,
    kubeconfig: PathBuf,
    began: Instant,
    // Last: what lives in it is gone then.
    bed: Bed,
}

/// Fails unless the machine has all that [`Cluster::start`] needs; asks before anything is built or made.
///
/// # Errors
/// Something is missing; the message names all of it, and the packages.
pub fn check() -> Result<()> {
    Requirements::find().map(drop)
}

/// Removes what a cluster of this name left on the machine, if it was killed. Its processes must be gone.
///
/// # Errors
/// Something cannot be removed.
pub async fn remove_remains(name: &str, directory: &Path) -> Result<()> {
    let left = cgroups::remove(name).await;
    let began = Instant::now();
    while let Err(cause) = fs::remove_dir_all(directory) {
        // One that was just killed may still have written.
        if !directory.exists() {
            break;
        }
        if began.elapsed() > LAST {
            return Err(Error::path("removing", directory)(cause));
        }
        tokio::time::sleep(ASK).await;
    }
    if left.is_empty() { Ok(()) } else { Err(Error::failed("removing control groups", format!("still in use: {left:?}"))) }
}

impl Cluster {
    /// Starts a cluster and waits until its nodes and its DNS are ready. [`ambit_testbed::bed::enter`] was called before; `front` is a
    /// listener of the namespace in which the cluster is to be reached, made before that. Each part that is ready is told to `progress`.
    ///
    /// # Errors
    /// A part does not become ready; the message has the end of its log.
    pub async fn start(
        options: ClusterOptions,
        programs: Programs,
        front: TcpListener,
        progress: &(dyn Fn(&str) + Sync),
    ) -> Result<Self> {
        let name = options.name.clone();
        let error = match Self::make(options, programs, front).await {
            Ok((cluster, images)) => match cluster.bring_up(&images, progress).await {
                Ok(()) => return Ok(cluster),
                Err(error) => {
                    cluster.end().await;
                    error
                }
            },
            Err(error) => error,
        };
        // Its logs stay: the next cluster of this name, or `remove_remains`, removes them.
        let _left = cgroups::remove(&name).await;
        Err(error)
    }

    /// Makes all of it, and nothing waits for anything yet; with the images that its nodes are to know.
    async fn make(options: ClusterOptions, programs: Programs, front: TcpListener) -> Result<(Self, Vec<PathBuf>)> {
        let began = Instant::now();
        let machine = Requirements::find()?;
        let bed_failed = |error: ambit_testbed::Error| Error::failed("making the network of the cluster", error);
        let bed = Bed::new(BedConfig { mtu: 1500, families: Families::Dual }).await.map_err(bed_failed)?;
        let place = bed.control_plane().await.map_err(bed_failed)?.clone();
        let mut places = Vec::new();
        for number in 1..=options.nodes {
            places.push(bed.add_node(&format!("node-{number}")).await.map_err(bed_failed)?);
        }
        let authority = Authority::create(&options.directory.join("pki"))?;
        let kubeconfig = reachable(&authority, &front, &options.directory)?;
        let images = images::make(&options.directory, &machine, &programs)?;

        let plane = ControlPlane::create(place, &options.directory, authority, programs, &machine)?;
        let mut nodes = Vec::new();
        for node in places {
            let plan = NodePlan {
                node: &node,
                cluster: &options.name,
                disk: &options.directory.join(node.name()),
                server: &plane.url(),
                authority: plane.authority(),
                programs: plane.programs(),
                machine: &machine,
                proxy: options.proxy,
            };
            let started = Node::start(&plan)?;
            nodes.push((node, started));
        }
        let front = Front::start(front, plane.place().clone(), plane.address())?;
        Ok((Self { options, machine, plane, nodes, front, kubeconfig, began, bed }, images))
    }

    /// A kubeconfig of a user who may do everything, that works where the listener was made which [`Cluster::start`] got.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The same for those who ask from [`Cluster::control_plane`].
    #[must_use]
    pub fn kubeconfig_inside(&self) -> &Path {
        self.plane.kubeconfig()
    }

    /// The bed that it lives in, whose wire between the nodes can be watched.
    #[must_use]
    pub fn bed(&self) -> &Bed {
        &self.bed
    }

    /// The place of the control plane, for what is to run beside it.
    #[must_use]
    pub fn control_plane(&self) -> &Place {
        self.plane.place()
    }

    /// The program kubectl.
    #[must_use]
    pub fn kubectl_program(&self) -> PathBuf {
        self.plane.programs().path("kubectl")
    }

    /// Runs kubectl as a user who may do everything.
    ///
    /// # Errors
    /// It fails; the message has what it said.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.plane.kubectl(arguments).await
    }

    /// Makes the image in a tar known to every node, for pods with `imagePullPolicy: Never`, and gives its name.
    ///
    /// # Errors
    /// It is no image, or a node does not take it.
    pub async fn load(&self, archive: &Path) -> Result<String> {
        let name = image::name_of(archive)?;
        for (node, runs) in &self.nodes {
            let began = Instant::now();
            while !runs.takes_images() {
                if !runs.is_running() || began.elapsed() > PATIENCE {
                    let log = self.options.directory.join(&runs.name).join("containerd.log");
                    return Err(Error::failed(
                        format!("containerd of {} takes no orders", runs.name),
                        format!("see {}", log.display()),
                    ));
                }
                tokio::time::sleep(ASK).await;
            }
            runs.import(node, &self.machine.ctr, archive).await?;
        }
        Ok(name)
    }

    /// What it is like now.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn status(&self) -> Result<Status> {
        let listed = self.plane.ask(async |client| Api::<KubeNode>::all(client).list(&ListParams::default()).await);
        let (nodes, pods) =
            (listed.await?, self.plane.ask(async |client| Api::<Pod>::all(client).list(&ListParams::default()).await).await?);
        let nodes = nodes.items.iter().map(|node| NodeStatus::of(node, &pods.items)).collect();
        Ok(Status { seconds: self.began.elapsed().as_secs(), nodes, dns: self.dns_is_ready().await? })
    }

    /// Ends it and removes all that it left on the machine.
    ///
    /// # Errors
    /// Something cannot be removed; everything has ended all the same.
    pub async fn stop(self) -> Result<()> {
        self.end().await;
        remove_remains(&self.options.name, &self.options.directory).await
    }

    /// Ends it, and leaves its directory and control groups for [`remove_remains`].
    pub async fn end(&self) {
        self.front.stop().await;
        for (_, node) in &self.nodes {
            node.stop().await;
        }
        self.plane.stop().await;
        self.bed.shutdown().await;
    }
}

/// The kubeconfig for those who reach the cluster through the listener.
fn reachable(authority: &Authority, front: &TcpListener, directory: &Path) -> Result<PathBuf> {
    let address = front.local_addr().map_err(Error::io("asking for the address of a listener"))?;
    let made = authority.kubeconfig("outside", &format!("https://{address}"), "admin", Some(MASTERS))?;
    let path = directory.join("kubeconfig");
    fs::rename(&made, &path).map_err(Error::path("writing", &path))?;
    Ok(path)
}
