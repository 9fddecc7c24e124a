//! What one waypoint serves: service ports with their addresses, and pods by their own addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ambit_api::workload::AppProtocol;

use super::names::{Layer, inbound_vip, of_service};
use super::route::Attached;
use crate::index::{Index, ServicePort, ServiceRef, TargetPort, Waypoint};
use crate::source::NamespacedName;
use crate::source::crd::networking::{Location, ServiceEntrySpec};
use crate::translate::workload::virtual_addresses;

/// A TCP port of a service bound to the waypoint.
#[derive(Debug)]
pub struct ServedPort<'a> {
    /// The service.
    pub service: ServiceRef,
    /// Its DNS name.
    pub host: String,
    /// What it is called in names.
    pub name: String,
    /// Its virtual addresses; never empty.
    pub addresses: Vec<IpAddr>,
    /// The port.
    pub port: ServicePort,
    /// The routes attached to it.
    pub attached: Attached<'a>,
    /// It is at the edge of the mesh, and its clients speak TLS.
    pub secure: bool,
    /// Whoever answers at it is outside of the mesh.
    pub outside: bool,
}

/// What is spoken on a port, as far as the objects tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP of any version.
    Http,
    /// Bytes, where the server may speak first.
    Tcp,
    /// To be told from the client's first bytes.
    Unknown,
}

impl ServedPort<'_> {
    /// The place of a port at the edge of the mesh: of no service, to which nothing refers.
    pub fn at_edge(gateway: &NamespacedName, port: u16) -> Self {
        Self {
            service: ServiceRef::Host(NamespacedName::new(gateway.namespace.clone(), "")),
            host: String::new(),
            name: String::new(),
            addresses: Vec::new(),
            port: ServicePort { name: None, port, target: TargetPort::Number(port), protocol: AppProtocol::Http11 },
            attached: Attached::default(),
            secure: false,
            outside: false,
        }
    }

    /// Name of the filter chain for a layer.
    pub fn chain(&self, layer: Layer) -> String {
        inbound_vip(self.port.port, layer, &self.name)
    }

    /// An HTTPRoute or GRPCRoute of the service's side makes a port HTTP, a TLSRoute or TCPRoute one of bytes; else the declaration of the
    /// port decides.
    pub fn spoken(&self) -> Spoken {
        match self.port.protocol {
            _ if self.attached.speaks_http() => Spoken::Http,
            _ if !self.attached.names().is_empty() || self.attached.connections().is_some() => Spoken::Tcp,
            AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => Spoken::Http,
            AppProtocol::Tcp | AppProtocol::Tls => Spoken::Tcp,
            AppProtocol::Unknown => Spoken::Unknown,
        }
    }

    /// The layers that have a filter chain.
    pub fn layers(&self) -> &'static [Layer] {
        match self.spoken() {
            Spoken::Http => &[Layer::Http],
            Spoken::Tcp => &[Layer::Tcp],
            Spoken::Unknown => &[Layer::Http, Layer::Tcp],
        }
    }
}

/// The ports a waypoint serves, by service name and then in the order written. Headless services have no address to
/// be dialled at, and a port number that a service has twice is served once. An address that several hosts of ServiceEntries say is
/// theirs is the first one's alone: which of them a client means cannot be told from it.
pub fn ports<'a>(index: &'a Index, waypoint: &Waypoint) -> Vec<ServedPort<'a>> {
    let mut served: Vec<ServedPort<'a>> = Vec::new();
    let services = waypoint
        .services
        .iter()
        .map(|service| (ServiceRef::Kubernetes(NamespacedName::of(&service.metadata)), virtual_addresses(service)));
    let hosts = waypoint.hosts.iter().map(|(host, entry)| (ServiceRef::Host(host.clone()), index.host_addresses(entry, host)));
    let mut taken = BTreeSet::new();
    for (service, mut addresses) in services.chain(hosts) {
        addresses.retain(|address| taken.insert(*address));
        if addresses.is_empty() {
            continue;
        }
        let (host, name) = (service.hostname(index.config()), of_service(index.config(), &service));
        let outside = is_outside(index, &service);
        for port in index.service_ports(&service) {
            if served.iter().rev().take_while(|other| other.service == service).any(|other| other.port.port == port.port) {
                continue;
            }
            let (service, host, name, addresses) = (service.clone(), host.clone(), name.clone(), addresses.clone());
            let mut port =
                ServedPort { service, host, name, addresses, port, attached: Attached::default(), secure: false, outside };
            port.attached = Attached::to(index, &waypoint.name, &port);
            served.push(port);
        }
    }
    served
}

/// An endpoint that the proxy looks up itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookedUp {
    /// Its name, or its address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its share of connections, when it says one.
    pub weight: Option<u32>,
}

/// Whether a service is a host outside of the mesh: one of a ServiceEntry that says no other, and has no pods of the mesh.
fn is_outside(index: &Index, service: &ServiceRef) -> bool {
    let ServiceRef::Host(host) = service else { return false };
    let outside = |spec: &ServiceEntrySpec| spec.location == Location::MeshExternal && spec.workload_selector.is_none();
    index.entry_of_host(host).is_some_and(|entry| outside(&entry.spec))
}

/// What the endpoints of a port are looked up by; `None` when they have addresses.
pub fn looked_up(index: &Index, service: &ServiceRef, port: u16) -> Option<Vec<LookedUp>> {
    let ServiceRef::Host(host) = service else { return None };
    index.entry_of_host(host).filter(|entry| entry.spec.resolution.by_name())?;
    let mut names = Vec::new();
    for key in index.members(service).externals {
        let Some(external) = index.external(&key).filter(|external| external.network.is_empty()) else { continue };
        let ports = index.ports_at_external(&key, service).unwrap_or_default();
        let Some((_, target)) = ports.into_iter().find(|(of_service, _)| of_service.port == port) else { continue };
        let addresses = external.addresses.iter().map(ToString::to_string);
        let name = Some(external.hostname).filter(|name| !name.is_empty());
        names.extend(name.into_iter().chain(addresses).map(|host| LookedUp { host, port: target, weight: external.weight }));
    }
    Some(names)
}

/// The addresses of the pods bound by their own address, by the identity they have. Pods that do not speak HBONE are
/// left out: a waypoint must not carry in clear what reached it encrypted for a pod that asked for it.
pub fn pods(index: &Index, waypoint: &Waypoint) -> BTreeMap<String, Vec<IpAddr>> {
    let mut by_identity: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for pod in &waypoint.pods {
        if let Some(endpoint) = index.endpoint(pod, &[]).filter(|endpoint| endpoint.hbone) {
            by_identity.entry(endpoint.identity.to_string()).or_default().extend(endpoint.addresses);
        }
    }
    by_identity
}
