//! The actor that makes what runs equal to what the watched directory asks for: scheduler, kubelet and waypoint deployer in one.
//!
//! Level-triggered: whatever changed, [`Kubelet::reconcile`] compares everything wanted with everything running.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ambit_testbed::{Bed, Pod, PodSpec, ServiceRule};
use istiod_lite::index::ServicePort;
use istiod_lite::source::{Directory, Event, NamespacedName, Problem, Source, SourceError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::cluster::{Cluster, PodPlan};
use super::hosts;
use super::node::{Capturing, NodeRuntime};
use super::objects::{self, Capture, PodReport, SYSTEM};
use super::overlay::Overlay;
use super::pod::{PodParts, PodRuntime, Probe};
use super::process::{Process, Shared, locked};
use super::programs::{self, Programs};
use super::tokens::{Bearer, Tokens};
use super::topology::{PodFacts, ProxyFacts, Topology};
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
    incarnations: u64,
    notices: BTreeSet<String>,
}

impl Kubelet {
    pub fn new(programs: Programs, bed: Arc<Bed>, views: Views) -> Result<Self> {
        let overlay = Overlay::create(programs.paths.objects.clone())?;
        let tokens = Tokens::new(&programs.paths.state, programs.paths.tokens.clone())?;
        Ok(Self {
            programs,
            bed,
            overlay,
            vips: Vips::default(),
            tokens,
            cluster: Cluster::default(),
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            rules: Vec::new(),
            views,
            changed: mpsc::channel(16),
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
        self.write_hosts();
        self.write_service_rules().await?;
        self.publish();
        Ok(())
    }

    fn wanted(&mut self) -> BTreeMap<NamespacedName, Wanted> {
        let mut wanted = BTreeMap::new();
        for name in self.cluster.waypoints() {
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
            if let Some(program) = missing.first() {
                self.notices.insert(format!(
                    "pod {name} is not started: {program} is not installed (to see it too, install it, for example with `apt-get install {program}`)"
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

    /// Chooses a node and makes the pod's place there, and writes what the API server would know of it by then.
    async fn place_pod(&mut self, name: &NamespacedName, wanted: Wanted) -> Result<Placed> {
        let node_name = wanted.plan.node.clone().filter(|node| self.nodes.contains_key(node));
        let node_name = node_name.unwrap_or_else(|| self.emptiest_node());
        let uid = self.next_uid();
        let node = self.nodes.get(&node_name).ok_or_else(|| Error::Invalid(format!("there is no node {node_name}")))?;
        let spec = PodSpec::new(&*name.namespace, &*name.name).hosts(hosts::entries(&name.namespace, &self.services));
        let place = node.place.add_pod(spec).await.map_err(|error| Error::part("making its place", error))?;
        let report = PodReport {
            uid: uid.clone(),
            node: node_name.clone(),
            host_ips: node.place.ips(),
            pod_ips: place.ips(),
            ready: false,
            capture: if wanted.enrolled { Capture::Pending } else { Capture::Off },
        };
        for (file, object) in self.pod_files(name, &wanted, &report) {
            self.overlay.put(&file, &object)?;
        }
        Ok(Placed { wanted, place, uid, node: node_name })
    }

    async fn start_pod(&mut self, name: &NamespacedName, placed: Placed) -> Result<()> {
        let Placed { wanted, place, uid, node: node_name } = placed;
        let node = self.nodes.get(&node_name).ok_or_else(|| Error::Invalid(format!("there is no node {node_name}")))?;
        let capture = if wanted.enrolled {
            node.capture(&place, &uid, &wanted.plan.service_account, self.changed.0.clone()).await?
        } else {
            Capturing::off()
        };
        let host_ips = node.place.ips();
        let stats = self.programs.paths.run.join(format!("{}.{}.stats", name.namespace, name.name));
        let processes = if wanted.waypoint {
            vec![self.start_waypoint(name, &place, &uid, &node_name)?]
        } else {
            self.start_containers(name, &wanted.plan, &place, &stats)
        };
        let probe = if wanted.waypoint {
            Probe::Answers(programs::READY, "/healthz/ready")
        } else {
            Probe::Accepts(wanted.plan.probes.clone())
        };
        for process in &processes {
            locked(&self.views.processes).insert(process.name().to_owned(), process.clone());
        }
        locked(&self.views.places).insert(name.clone(), place.clone());
        let parts = PodParts { place, uid, node: node_name, host_ips, processes, stats, capture };
        let runtime = PodRuntime::new(parts, probe, self.changed.0.clone());
        self.pods.insert(name.clone(), Running { wanted, runtime });
        Ok(())
    }

    fn start_containers(&self, name: &NamespacedName, plan: &PodPlan, place: &Pod, stats: &std::path::Path) -> Vec<Arc<Process>> {
        let several = plan.containers.len() > 1;
        let containers = plan.containers.iter().map(|container| {
            let process = if several { format!("{name}/{}", container.name) } else { name.to_string() };
            let (programs, place, container) = (self.programs.clone(), place.clone(), container.clone());
            let (inner, stats) = (process.clone(), stats.to_owned());
            let starter = move || place.spawn(programs.container(&inner, &container, &stats));
            Arc::new(Process::supervise(process, Box::new(starter)))
        });
        containers.collect()
    }

    fn start_waypoint(&mut self, name: &NamespacedName, place: &Pod, uid: &str, node: &str) -> Result<Arc<Process>> {
        let token = self.tokens.issue(Bearer {
            namespace: name.namespace.to_string(),
            service_account: name.name.to_string(),
            pod: name.name.to_string(),
            uid: uid.to_owned(),
            node: node.to_owned(),
        })?;
        let (programs, place, gateway) = (self.programs.clone(), place.clone(), name.clone());
        let starter = move || place.spawn(programs.waypoint(&gateway, &token));
        Ok(Arc::new(Process::supervise(programs::waypoint_process(name), Box::new(starter))))
    }

    async fn enrol(&mut self, name: &NamespacedName, enrolled: bool) -> Result<()> {
        let Some(running) = self.pods.get_mut(name) else { return Ok(()) };
        let Some(node) = self.nodes.get(&running.runtime.node) else { return Ok(()) };
        let runtime = &mut running.runtime;
        if enrolled {
            let account = running.wanted.plan.service_account.clone();
            runtime.capture = node.capture(&runtime.place, &runtime.uid, &account, self.changed.0.clone()).await?;
        } else {
            node.release(&runtime.uid).await;
            runtime.capture = Capturing::off();
        }
        running.wanted.enrolled = enrolled;
        Ok(())
    }

    fn emptiest_node(&self) -> String {
        self.nodes.iter().min_by_key(|(_, node)| node.place.pods().len()).map(|(name, _)| name.clone()).unwrap_or_default()
    }

    fn next_uid(&mut self) -> String {
        self.incarnations += 1;
        format!("{:08x}-{:04x}-4000-8000-{:012x}", fastrand::u32(..), fastrand::u16(..), self.incarnations)
    }

    fn write_objects(&mut self) -> Result<()> {
        let mut files = BTreeMap::new();
        files.insert(format!("namespace.{SYSTEM}"), objects::namespace(SYSTEM));
        files.insert(format!("serviceaccount.{SYSTEM}.ztunnel"), objects::service_account(SYSTEM, "ztunnel"));
        for (name, node) in &self.nodes {
            files.insert(format!("node.{name}"), objects::node(name, &node.place.ips()));
            let pod = programs::ztunnel_name(name);
            files.insert(format!("pod.{SYSTEM}.{}", pod.name), node.ztunnel_object(name));
        }
        for (name, addresses) in &self.services {
            let waypoint = self.pods.get(name).filter(|pod| pod.wanted.waypoint && !self.cluster.services().contains_key(name));
            let object = match waypoint {
                Some(_) => objects::waypoint_service(name, addresses),
                None => objects::service(name, addresses),
            };
            if let Some(object) = object {
                files.insert(format!("service.{}.{}", name.namespace, name.name), object);
            }
        }
        for (name, Running { wanted, runtime }) in &self.pods {
            files.extend(self.pod_files(name, wanted, &runtime.report()));
        }
        self.overlay.retain(|file| files.contains_key(file))?;
        files.iter().try_for_each(|(file, object)| self.overlay.put(file, object))
    }

    /// The objects of one pod; for a waypoint also those around it.
    fn pod_files(&self, name: &NamespacedName, wanted: &Wanted, report: &PodReport) -> Vec<(String, serde_json::Value)> {
        let file = |kind: &str| format!("{kind}.{}.{}", name.namespace, name.name);
        if !wanted.waypoint {
            return vec![(file("pod"), objects::pod(name, report))];
        }
        let labels = objects::waypoint_labels(&name.name);
        let addresses = self.services.get(name).map(Vec::as_slice).unwrap_or_default();
        vec![
            (file("pod"), objects::system_pod(name, &labels, &name.name, "istio-proxy", report)),
            (file("serviceaccount"), objects::service_account(&name.namespace, &name.name)),
            (file("gateway"), objects::gateway(name, addresses)),
        ]
    }

    fn write_hosts(&mut self) {
        for (name, running) in &self.pods {
            if let Err(error) = running.runtime.place.set_hosts(&hosts::entries(&name.namespace, &self.services)) {
                self.notices.insert(format!("pod {name}: {error}"));
            }
        }
    }

    /// Service addresses for pods that no proxy captures.
    async fn write_service_rules(&mut self) -> Result<()> {
        let mut rules = Vec::new();
        for (name, service) in self.cluster.services() {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
            let selected: Vec<_> = self
                .cluster
                .pods()
                .iter()
                .filter(|(pod, object)| {
                    let labels = object.metadata.labels.as_ref();
                    let has = |(key, value): (&String, &String)| labels.and_then(|labels| labels.get(key)) == Some(value);
                    pod.namespace == name.namespace && !selector.is_empty() && selector.iter().all(has)
                })
                .collect();
            for port in ServicePort::all_of(service) {
                let endpoints: Vec<SocketAddr> = selected
                    .iter()
                    .filter_map(|(pod, object)| {
                        let running = self.pods.get(*pod).filter(|running| running.runtime.is_ready())?;
                        let target = port.target_in(object)?;
                        Some(running.runtime.place.ips().map(|ip| SocketAddr::new(ip, target)))
                    })
                    .flatten()
                    .collect();
                let addresses = self.services.get(name).into_iter().flatten();
                rules.extend(addresses.map(|address| (*address, port.port, endpoints.clone())));
            }
        }
        if rules == self.rules {
            return Ok(());
        }
        let all: Vec<ServiceRule> =
            rules.iter().map(|(vip, port, endpoints)| ServiceRule::tcp(*vip, *port, endpoints.clone())).collect();
        for node in self.nodes.values() {
            node.place.set_services(&all).await.map_err(|error| Error::part("writing the rules of service addresses", error))?;
        }
        self.rules = rules;
        Ok(())
    }

    fn publish(&self) {
        let mut topology =
            Topology { nodes: self.nodes.keys().cloned().collect(), services: self.services.clone(), ..Topology::default() };
        for node in self.nodes.keys() {
            topology.proxies.push(self.proxy(format!("ztunnel/{node}")));
        }
        for (name, Running { wanted, runtime }) in &self.pods {
            if wanted.waypoint {
                topology.waypoints.push(name.clone());
                topology.proxies.push(self.proxy(programs::waypoint_process(name)));
            }
            let facts = PodFacts {
                workload: wanted.workload.clone(),
                service_account: wanted.plan.service_account.clone(),
                node: runtime.node.clone(),
                addresses: runtime.place.ips().to_vec(),
                stats: runtime.stats.clone(),
                ready: runtime.is_ready(),
                enrolled: wanted.enrolled,
                captured: runtime.capture.state() == Capture::Enabled,
                waypoint: wanted.waypoint,
                services: self.services_of(name),
            };
            topology.pods.insert(name.clone(), facts);
        }
        let topology = Arc::new(topology);
        self.views.topology.send_if_modified(|old| {
            let differs = **old != *topology;
            *old = topology.clone();
            differs
        });
    }

    fn proxy(&self, name: String) -> ProxyFacts {
        ProxyFacts { access_log: self.programs.paths.access_log(&name), name }
    }

    fn services_of(&self, pod: &NamespacedName) -> Vec<NamespacedName> {
        let labels = self.cluster.pods().get(pod).and_then(|pod| pod.metadata.labels.clone()).unwrap_or_default();
        let selects = |name: &NamespacedName, service: &k8s_openapi::api::core::v1::Service| {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            name.namespace == pod.namespace
                && selector.is_some_and(|selector| {
                    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
                })
        };
        self.cluster.services().iter().filter(|(name, service)| selects(name, service)).map(|(name, _)| name.clone()).collect()
    }
}
