//! What one waypoint serves: service ports with their addresses, and pods by their own addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_api::workload::AppProtocol;
use k8s_openapi::api::core::v1::Service;

use super::names::{Layer, inbound_vip};
use super::route::Attached;
use crate::index::{Index, ServicePort, Waypoint};
use crate::source::NamespacedName;

/// A TCP port of a service bound to the waypoint.
#[derive(Debug)]
pub struct ServedPort<'a> {
    /// The service.
    pub service: NamespacedName,
    /// Its DNS name.
    pub host: String,
    /// Its virtual addresses; never empty.
    pub addresses: Vec<IpAddr>,
    /// The port.
    pub port: ServicePort,
    /// The routes attached to it.
    pub attached: Attached<'a>,
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
    /// Name of the filter chain for a layer.
    pub fn chain(&self, layer: Layer) -> String {
        inbound_vip(self.port.port, layer, &self.host)
    }

    /// An HTTPRoute of the service's side makes a port HTTP; else the declaration of the port decides.
    pub fn spoken(&self) -> Spoken {
        match self.port.protocol {
            _ if self.attached.speaks_http() => Spoken::Http,
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
/// be dialled at, and a port number that a service has twice is served once.
pub fn ports<'a>(index: &'a Index, waypoint: &Waypoint) -> Vec<ServedPort<'a>> {
    let mut served: Vec<ServedPort<'a>> = Vec::new();
    for service in &waypoint.services {
        let name = NamespacedName::of(&service.metadata);
        let (addresses, host) = (virtual_addresses(service), index.config().hostname(&name));
        if addresses.is_empty() {
            continue;
        }
        for port in ServicePort::all_of(service) {
            if served.iter().any(|other| other.service == name && other.port.port == port.port) {
                continue;
            }
            let mut port = ServedPort {
                service: name.clone(),
                host: host.clone(),
                addresses: addresses.clone(),
                port,
                attached: Attached::default(),
            };
            port.attached = Attached::to(index, &waypoint.name, &port);
            served.push(port);
        }
    }
    served
}

/// The cluster addresses of a service.
fn virtual_addresses(service: &Arc<Service>) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let mut addresses = Vec::new();
    for address in spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.as_ref()) {
        if let Ok(address) = address.parse::<IpAddr>()
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses
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
