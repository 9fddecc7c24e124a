//! A node: a network namespace that routes between its pods and the other nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ambit_runtime::netns::NetNs;
use ipnet::{Ipv4Net, Ipv6Net};

use crate::bed::WIRE;
use crate::net::plan::{NodePlan, POD_HOSTS, SERVICES_V4, SERVICES_V6};
use crate::net::{Links, Veth, sysctl};
use crate::service::{self, ServiceRule};
use crate::wire::Capture;
use crate::{BedConfig, Error, Families, Place, Pod, PodSpec};

/// The bridge that the pods of a node are on.
const PODS: &str = "pods0";

/// A node. Clones are the same node. Everything of a [`Place`] works on it.
#[derive(Clone, Debug)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    plan: NodePlan,
    place: Place,
    wire: NetNs,
    port: String,
    config: BedConfig,
    pods: Mutex<Slots>,
    services: service::Present,
}

#[derive(Debug, Default)]
struct Slots {
    taken: BTreeMap<u8, Option<Pod>>,
    last: u8,
}

/// A node that is not kept alive.
#[derive(Clone, Debug)]
pub(crate) struct WeakNode(Weak<Inner>);

impl WeakNode {
    pub(crate) fn upgrade(&self) -> Option<Node> {
        self.0.upgrade().map(Node)
    }
}

impl Deref for Node {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.0.place
    }
}

impl Node {
    pub(crate) async fn create(name: &str, plan: NodePlan, wire: &NetNs, dir: &Path, config: &BedConfig) -> Result<Self, Error> {
        let (families, mtu) = (config.families, config.mtu);
        let place = Place::new(name, families.of(plan.node()), dir.join(name))?;
        let netns = place.netns();
        sysctl::set(netns, sysctl::NODE)?;
        let port = format!("node{}", plan.number());
        let veth = Veth { name: &port, bridge: WIRE, peer_name: "eth0", peer_mac: plan.mac(), peer: netns, mtu };
        Links::open(wire)?.add_veth(&veth).await?;

        let links = Links::open(netns)?;
        links.up("lo").await?;
        links.up("eth0").await?;
        links.add_bridge(PODS, plan.pod_mac(1), mtu).await?;
        let services = [(SERVICES_V4.0.into(), SERVICES_V4.1), (SERVICES_V6.0.into(), SERVICES_V6.1)];
        let lengths = families.of([24, 64]).into_iter().zip(families.of(services));
        let own = place.ips().into_iter().zip(families.of(plan.pod(1)));
        for ((own, gateway), (length, services)) in own.zip(lengths) {
            links.add_address("eth0", own, length).await?;
            links.add_address(PODS, gateway, length).await?;
            // So that programs on the node itself get as far as the rules that translate service addresses.
            links.add_route(services, "eth0", None).await?;
        }

        let inner = Inner {
            name: name.to_owned(),
            plan,
            place,
            wire: wire.clone(),
            port,
            config: config.clone(),
            pods: Mutex::default(),
            services: service::Present::default(),
        };
        let node = Self(Arc::new(inner));
        node.set_services(&[]).await?;
        Ok(node)
    }

    /// Its name, also its host name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its number N in the plan of addresses.
    pub fn number(&self) -> u8 {
        self.0.plan.number()
    }

    /// The IPv4 range of its pods.
    pub fn pod_range_v4(&self) -> Ipv4Net {
        self.0.plan.pods_v4()
    }

    /// The IPv6 range of its pods.
    pub fn pod_range_v6(&self) -> Ipv6Net {
        self.0.plan.pods_v6()
    }

    pub(crate) fn downgrade(&self) -> WeakNode {
        WeakNode(Arc::downgrade(&self.0))
    }

    pub(crate) fn plan(&self) -> NodePlan {
        self.0.plan
    }

    pub(crate) async fn add_route_to(&self, other: NodePlan) -> Result<(), Error> {
        let links = Links::open(self.netns())?;
        let (v4, v6) = (other.pods_v4(), other.pods_v6());
        let pods = [(v4.addr().into(), v4.prefix_len()), (v6.addr().into(), v6.prefix_len())];
        let families = self.0.config.families;
        for (ip, pods) in families.of(other.node()).into_iter().zip(families.of(pods)) {
            links.add_neighbor("eth0", ip, other.mac()).await?;
            links.add_route(pods, "eth0", Some(ip)).await?;
        }
        Ok(())
    }

    /// Adds a pod to this node.
    pub async fn add_pod(&self, spec: PodSpec) -> Result<Pod, Error> {
        let host = self.take_slot(spec.number)?;
        match self.make_pod(host, spec).await {
            Ok(pod) => {
                self.slots(|slots| slots.taken.insert(host, Some(pod.clone())));
                Ok(pod)
            }
            Err(error) => {
                self.slots(|slots| slots.taken.remove(&host));
                Err(error)
            }
        }
    }

    async fn make_pod(&self, host: u8, spec: PodSpec) -> Result<Pod, Error> {
        let plan = self.0.plan;
        let mac = plan.pod_mac(host);
        let dir = self.dir().join("pods").join(format!("{}_{}", spec.namespace, spec.name));
        let families = if self.0.config.families == Families::Dual { spec.families } else { self.0.config.families };
        let place = Place::new(&spec.name, families.of(plan.pod(host)), dir)?;
        place.set_hosts(&spec.hosts)?;
        if let Some(text) = &spec.resolv_conf {
            place.set_resolv_conf(text)?;
        }
        sysctl::set(place.netns(), sysctl::POD)?;

        let port = format!("pod{host}");
        let veth =
            Veth { name: &port, bridge: PODS, peer_name: "eth0", peer_mac: mac, peer: place.netns(), mtu: self.0.config.mtu };
        let node_links = Links::open(self.netns())?;
        node_links.add_veth(&veth).await?;
        for ip in place.ips() {
            node_links.add_neighbor(PODS, ip, mac).await?;
        }

        let links = Links::open(place.netns())?;
        links.up("lo").await?;
        links.up("eth0").await?;
        let any = [(IpAddr::from([0; 4]), 32), (IpAddr::from([0; 16]), 128)];
        for ((ip, gateway), (any, length)) in place.ips().into_iter().zip(families.of(plan.pod(1))).zip(families.of(any)) {
            links.add_address("eth0", ip, length).await?;
            links.add_neighbor("eth0", gateway, plan.pod_mac(1)).await?;
            links.add_route((gateway, length), "eth0", None).await?;
            links.add_route((any, 0), "eth0", Some(gateway)).await?;
        }
        Ok(Pod::new(spec, place, self, host))
    }

    fn take_slot(&self, wanted: Option<u8>) -> Result<u8, Error> {
        self.slots(|slots| {
            if let Some(host) = wanted {
                if !POD_HOSTS.contains(&host) || slots.taken.contains_key(&host) {
                    return Err(Error::Plan(format!("node {} has no address {host} for a pod", self.name())));
                }
                slots.taken.insert(host, None);
                return Ok(host);
            }
            // Go round, so that the address of a removed pod is not used again at once.
            let after = slots.last.max(*POD_HOSTS.start() - 1) + 1;
            let host = (after..=*POD_HOSTS.end()).chain(POD_HOSTS).find(|host| !slots.taken.contains_key(host));
            let host = host.ok_or_else(|| Error::Plan(format!("node {} has no address left for a pod", self.name())))?;
            slots.last = host;
            slots.taken.insert(host, None);
            Ok(host)
        })
    }

    pub(crate) async fn remove_pod(&self, host: u8) -> Result<(), Error> {
        self.slots(|slots| slots.taken.remove(&host));
        Links::open(self.netns())?.remove(&format!("pod{host}")).await
    }

    /// The pods of this node, in order of address.
    pub fn pods(&self) -> Vec<Pod> {
        self.slots(|slots| slots.taken.values().flatten().cloned().collect())
    }

    fn slots<T>(&self, work: impl FnOnce(&mut Slots) -> T) -> T {
        work(&mut self.0.pods.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces, in one step, the service addresses that this node translates for its pods (those that no proxy captures) and for
    /// programs on the node itself. A service address without a rule, or with no endpoints, refuses connections.
    pub async fn set_services(&self, rules: &[ServiceRule]) -> Result<(), Error> {
        service::apply(self.netns(), &self.0.services, rules).await
    }

    /// Starts watching what comes from the pods of this node and what reaches the node, for packets and for these byte strings: also what
    /// stays on the node.
    pub async fn capture<M: AsRef<[u8]>>(&self, markers: impl IntoIterator<Item = M>) -> Result<Capture, Error> {
        let bridge = Links::open(self.netns())?.index(PODS).await?;
        Capture::start(self.netns(), bridge, markers.into_iter().map(|marker| marker.as_ref().to_vec()).collect())
    }

    /// Unplugs the node from the wire (`false`) or plugs it in again.
    pub async fn set_connected(&self, connected: bool) -> Result<(), Error> {
        let links = Links::open(&self.0.wire)?;
        if connected { links.up(&self.0.port).await } else { links.down(&self.0.port).await }
    }

    pub(crate) fn kill_all(&self) {
        for pod in self.pods() {
            pod.deref().kill_all();
        }
        self.0.place.kill_all();
    }

    /// Lets go of the pods, and with them of their network namespaces.
    pub(crate) fn forget_pods(&self) {
        self.slots(|slots| slots.taken.clear());
    }

    pub(crate) async fn stop_all(&self) {
        for pod in self.pods() {
            pod.deref().stop_all().await;
        }
        self.0.place.stop_all().await;
    }
}
