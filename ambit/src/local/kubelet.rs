//! The actor that makes what runs equal to what the watched directory asks for: scheduler, kubelet and waypoint deployer in one.
//!
//! Level-triggered: whatever changed, [`Kubelet::reconcile`] compares everything wanted with everything running.

mod pods;
mod publish;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ambit_node_agent::status::Statuses;
use ambit_testbed::{Bed, Pod};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared as SharedFuture};
use istiod_lite::source::{Directory, Event, NamespacedName, Problem, Source, SourceError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::cluster::{Cluster, PodPlan};
use super::node::NodeRuntime;
use super::objects::SYSTEM;
use super::overlay::Overlay;
use super::pod::PodRuntime;
use super::process::{Process, Shared, locked};
use super::programs::{self, Programs};
use super::together;
use super::tokens::{Bearer, Tokens};
use super::topology::Topology;
use super::vips::Vips;
use crate::error::{Error, Result};

/// Longest time without a look at everything, for what failed to be tried again.
const TICK: Duration = Duration::from_millis(500);

/// Patience with a pod that is to end.
const POD_PATIENCE: Duration = Duration::from_millis(500);

/// What the actor is asked from outside.
pub(super) enum Order {
    /// End everything.
    Stop(oneshot::Sender<()>),
}

/// What others look at while the mesh runs.
#[derive(Clone)]
pub(super) struct Views {
    /// What runs where.
    pub topology: watch::Sender<Arc<Topology>>,
    /// Processes by their name in the mesh.
    pub processes: Shared<BTreeMap<String, Arc<Process>>>,
    /// Pods' places.
    pub places: Shared<BTreeMap<NamespacedName, Pod>>,
    /// What is wrong with the watched directory.
    pub problems: watch::Sender<Arc<Vec<Problem>>>,
    /// What could not be done, and what was left out.
    pub notices: watch::Sender<BTreeSet<String>>,
    /// The capture of the pods of each node, as its agent tells it.
    pub captures: Shared<Vec<watch::Receiver<Statuses>>>,
}

/// A pod that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    plan: PodPlan,
    enrolled: bool,
    /// The Gateway, if this is the pod of a waypoint.
    waypoint: bool,
    workload: String,
}

/// A pod that has its place and does not run yet.
struct Placed {
    wanted: Wanted,
    place: Pod,
    uid: String,
    node: String,
}

struct Running {
    wanted: Wanted,
    runtime: PodRuntime,
}

/// What a look at the watched directory found.
struct Batch {
    events: Vec<Event>,
    problems: Arc<Vec<Problem>>,
}

/// Reads the directory in a task of its own: a source that is not polled to its end may forget that something changed.
async fn follow(mut source: Directory, batches: mpsc::Sender<Result<Batch, SourceError>>) {
    loop {
        let batch = source.next().await.map(|events| Batch { events, problems: source.problems() });
        let lost = batch.is_err();
        if batches.send(batch).await.is_err() || lost {
            return;
        }
    }
}

/// The actor.
pub(super) struct Kubelet {
    programs: Programs,
    bed: Arc<Bed>,
    overlay: Overlay,
    vips: Vips,
    tokens: Tokens,
    cluster: Cluster,
    nodes: BTreeMap<String, NodeRuntime>,
    pods: BTreeMap<NamespacedName, Running>,
    services: BTreeMap<NamespacedName, Vec<IpAddr>>,
    rules: Vec<(IpAddr, u16, Vec<SocketAddr>)>,
    views: Views,
    changed: (mpsc::Sender<()>, mpsc::Receiver<()>),
    /// Over when the programs of the first pods may start.
    first: SharedFuture<BoxFuture<'static, ()>>,
    incarnations: u64,
    notices: BTreeSet<String>,
}

impl Kubelet {
    pub fn new(programs: Programs, bed: Arc<Bed>, views: Views) -> Result<Self> {
        let overlay = Overlay::create(programs.paths.objects.clone())?;
        let tokens = Tokens::new(&programs.paths.state, programs.paths.tokens.clone())?;
        let first = together::all_tunnelled(bed.clone(), views.topology.subscribe()).boxed().shared();
        Ok(Self {
            programs,
            vips: Vips::new(bed.families()),
            bed,
            overlay,
            tokens,
            cluster: Cluster::default(),
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            rules: Vec::new(),
            views,
            changed: mpsc::channel(16),
            first,
            incarnations: 0,
            notices: BTreeSet::new(),
        })
    }

    /// Starts the control plane.
    pub async fn start_control_plane(&mut self) -> Result<()> {
        let place =
            self.bed.control_plane().await.map_err(|error| Error::part("making the control plane's node", error))?.clone();
        let programs = self.programs.clone();
        let istiod = Process::supervise("istiod".into(), Box::new(move || place.spawn(programs.istiod())));
        locked(&self.views.processes).insert("istiod".into(), Arc::new(istiod));
        Ok(())
    }

    /// Follows the watched directory until told to stop.
    pub async fn run(mut self, source: Directory, mut orders: mpsc::Receiver<Order>) {
        let (batches, mut batch) = mpsc::channel(4);
        let _reader = AbortOnDropHandle::new(tokio::spawn(follow(source, batches)));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                batch = batch.recv() => match batch {
                    Some(Ok(Batch { events, problems })) => {
                        events.into_iter().for_each(|event| self.cluster.apply(event));
                        self.views.problems.send_replace(problems);
                    }
                    Some(Err(error)) => {
                        self.notices.insert(format!("the watched directory is lost: {error}"));
                        self.tell();
                        return self.stop_when_told(orders).await;
                    }
                    None => return self.stop_when_told(orders).await,
                },
                Some(()) = self.changed.1.recv() => {}
                _ = tick.tick() => {}
                order = orders.recv() => return self.stop(order).await,
            }
            self.notices.clear();
            if let Err(error) = self.reconcile().await {
                self.notices.insert(error.to_string());
            }
            self.tell();
        }
    }

    async fn stop_when_told(self, mut orders: mpsc::Receiver<Order>) {
        let order = orders.recv().await;
        self.stop(order).await;
    }

    async fn stop(mut self, order: Option<Order>) {
        // Without their supervisors, what is killed stays dead.
        locked(&self.views.processes).clear();
        self.nodes.clear();
        self.pods.clear();
        self.bed.shutdown().await;
        if let Some(Order::Stop(done)) = order {
            let _nobody_waits = done.send(());
        }
    }

    /// Publishes what could not be done this time.
    fn tell(&self) {
        self.views.notices.send_if_modified(|told| {
            let differs = *told != self.notices;
            told.clone_from(&self.notices);
            differs
        });
    }

    /// Makes what runs equal to what is wanted.
    async fn reconcile(&mut self) -> Result<()> {
        let wanted = self.wanted();
        self.remove_unwanted(&wanted).await;
        self.start_nodes().await?;
        self.give_addresses();
        self.write_objects()?;
        // The control plane is told of new pods before they run, for the node proxies ask for their certificates at once.
        let (mut placed, mut outcomes) = (Vec::new(), Vec::new());
        for (name, wanted) in wanted {
            match self.pods.get(&name) {
                Some(running) if running.wanted.enrolled == wanted.enrolled => {}
                Some(_) => outcomes.push((name.clone(), self.enrol(&name, wanted.enrolled).await)),
                None => match self.place_pod(&name, wanted).await {
                    Ok(pod) => placed.push((name, pod)),
                    Err(error) => outcomes.push((name, Err(error))),
                },
            }
        }
        for (name, pod) in placed {
            let place = pod.place.clone();
            let outcome = self.start_pod(&name, pod).await;
            if outcome.is_err() {
                // It is placed anew at the next look.
                let _as_it_is = place.remove().await;
            }
            outcomes.push((name, outcome));
        }
        for (name, outcome) in outcomes {
            if let Err(error) = outcome {
                self.notices.insert(format!("pod {name}: {error}"));
            }
        }
        self.tokens.renew()?;
        self.write_objects()?;
        self.write_names();
        self.write_service_rules().await?;
        self.publish();
        Ok(())
    }

    fn wanted(&mut self) -> BTreeMap<NamespacedName, Wanted> {
        let mut wanted = BTreeMap::new();
        for name in self.cluster.served() {
            let plan = PodPlan {
                containers: Vec::new(),
                node: self.cluster.nodes().into_iter().next_back(),
                service_account: name.name.to_string(),
                probes: Vec::new(),
                needs: Vec::new(),
            };
            let pod = Wanted { plan, enrolled: false, waypoint: true, workload: name.name.to_string() };
            wanted.insert(name.clone(), pod);
        }
        for (name, pod) in self.cluster.pods() {
            let plan = PodPlan::of(pod);
            let missing = programs::missing(plan.needs.iter().cloned());
            if !missing.is_empty() {
                let (names, packages) = (missing.join(" and "), missing.join(" "));
                self.notices.insert(format!(
                    "pod {name} is left out: {names} not installed here (get it, for example, with `apt-get install {packages}`)"
                ));
                continue;
            }
            let labels = pod.metadata.labels.as_ref();
            let workload = labels.and_then(|labels| labels.get("app")).cloned().unwrap_or_else(|| name.name.to_string());
            let enrolled = self.cluster.is_enrolled(name);
            wanted.insert(name.clone(), Wanted { plan, enrolled, waypoint: false, workload });
        }
        wanted
    }

    async fn remove_unwanted(&mut self, wanted: &BTreeMap<NamespacedName, Wanted>) {
        let stays = |name: &NamespacedName, running: &Running| {
            wanted
                .get(name)
                .is_some_and(|wanted| Wanted { enrolled: running.wanted.enrolled, ..wanted.clone() } == running.wanted)
        };
        let gone: Vec<NamespacedName> =
            self.pods.iter().filter(|(name, running)| !stays(name, running)).map(|(name, _)| name.clone()).collect();
        let mut removals = Vec::new();
        for name in gone {
            let Some(Running { wanted, runtime }) = self.pods.remove(&name) else { continue };
            if wanted.enrolled
                && let Some(node) = self.nodes.get(&runtime.node)
            {
                node.release(&runtime.uid).await;
            }
            self.tokens.revoke(&name.namespace, &name.name);
            locked(&self.views.places).remove(&name);
            locked(&self.views.processes).retain(|_, process| !runtime.processes.iter().any(|own| Arc::ptr_eq(own, process)));
            removals.push(runtime.remove(POD_PATIENCE));
        }
        futures::future::join_all(removals).await;
    }

    async fn start_nodes(&mut self) -> Result<()> {
        for name in self.cluster.nodes() {
            if self.nodes.contains_key(&name) {
                continue;
            }
            let place = self.bed.add_node(&name).await.map_err(|error| Error::part(format!("making the node {name}"), error))?;
            let uid = self.next_uid();
            let bearer = Bearer {
                namespace: SYSTEM.to_owned(),
                service_account: "ztunnel".to_owned(),
                pod: programs::ztunnel_pod(&name),
                uid: uid.clone(),
                node: name.clone(),
            };
            let token = self.tokens.issue(bearer)?;
            let runtime = NodeRuntime::start(place, &name, uid, &self.programs, token)?;
            locked(&self.views.processes).insert(format!("ztunnel/{name}"), runtime.ztunnel.clone());
            locked(&self.views.captures).push(runtime.captures());
            self.nodes.insert(name, runtime);
        }
        Ok(())
    }

    fn give_addresses(&mut self) {
        let services = self.cluster.services();
        let mut given: BTreeMap<NamespacedName, Vec<IpAddr>> =
            services.iter().map(|(name, service)| (name.clone(), self.vips.of(name, service))).collect();
        for name in self.cluster.waypoints() {
            given.insert(name.clone(), self.vips.of(name, &k8s_openapi::api::core::v1::Service::default()));
        }
        self.vips.retain(|name| given.contains_key(name));
        self.services = given;
    }
}
