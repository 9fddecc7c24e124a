//! Pods and services to the addresses that node proxies are sent (wire contract, section 2).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ambit_api::workload::address::Type;
use ambit_api::workload::gateway_address::Destination;
use ambit_api::workload::load_balancing::{HealthPolicy, Mode, Scope};
use ambit_api::workload::{
    Address, AppProtocol, GatewayAddress, IpFamilies, LoadBalancing, Locality, NamespacedHostname, NetworkAddress, NetworkMode,
    Port, PortList, Service, TunnelProtocol, Workload, WorkloadStatus,
};
use bytes::Bytes;
use k8s_openapi::api::core::v1::Service as KubernetesService;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::authorization::policies_of_pod;
use super::origin::Origin;
use crate::index::{
    Binding, EndpointHealth, GatewayEndpoint, Index, MeshConfig, ServicePort, has_ended, host_network, label, native_tunnel,
    pod_addresses, pod_health, service_account,
};
use crate::source::{NamespacedName, Pod};

/// Port a waypoint takes HBONE on.
const HBONE_PORT: u32 = 15008;

/// The workload of a pod; `None` while it has no address, and once it has run to its end.
#[must_use]
pub fn workload(index: &Index, name: &NamespacedName) -> Option<Address> {
    let pod = index.objects().pods.get(name)?;
    let addresses = pod_addresses(pod);
    if addresses.is_empty() || has_ended(pod) {
        return None;
    }
    let config = index.config();
    let origin = Origin::of(pod);
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let labels = pod.metadata.labels.as_ref();
    let workload = Workload {
        uid: config.pod_uid(name),
        name: name.name.to_string(),
        namespace: name.namespace.to_string(),
        addresses: addresses.into_iter().map(bytes_of).collect(),
        network: labels.and_then(|labels| labels.get(label::NETWORK)).cloned().unwrap_or_default(),
        tunnel_protocol: (if index.speaks_hbone(pod) { TunnelProtocol::Hbone } else { TunnelProtocol::None }).into(),
        trust_domain: trust_domain(config),
        service_account: match service_account(pod) {
            "default" => String::new(),
            account => account.to_owned(),
        },
        waypoint: waypoint(index.pod_binding(pod)),
        locality: locality(&index.locality(&node)),
        node,
        canonical_name: origin.canonical_name,
        canonical_revision: origin.canonical_revision,
        workload_type: origin.kind.into(),
        workload_name: origin.name,
        native_tunnel: native_tunnel(pod),
        services: services_of(index, pod),
        authorization_policies: policies_of_pod(index, pod),
        status: match pod_health(pod) {
            EndpointHealth::Healthy => WorkloadStatus::Healthy,
            EndpointHealth::Unhealthy => WorkloadStatus::Unhealthy,
        }
        .into(),
        cluster_id: config.cluster_id.clone(),
        network_mode: (if host_network(pod) { NetworkMode::HostNetwork } else { NetworkMode::Standard }).into(),
        hostname: String::new(),
        network_gateway: None,
        application_tunnel: None,
        extensions: Vec::new(),
        capacity: None,
    };
    Some(Address { r#type: Some(Type::Workload(workload)) })
}

/// A service; `None` when there is none of the name, and for ExternalName services, which are DNS's alone.
#[must_use]
pub fn service(index: &Index, name: &NamespacedName) -> Option<Address> {
    let object = index.objects().services.get(name)?;
    let spec = object.spec.as_ref();
    if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        return None;
    }
    let addresses = virtual_addresses(object);
    let labels = object.metadata.labels.as_ref();
    let ingress = labels.and_then(|labels| labels.get(label::INGRESS_USE_WAYPOINT)).is_some_and(|value| value == "true");
    let service = Service {
        name: name.name.to_string(),
        namespace: name.namespace.to_string(),
        hostname: index.config().hostname(name),
        ip_families: ip_families(object).into(),
        addresses: addresses.into_iter().map(|address| network_address(address, "")).collect(),
        ports: ServicePort::all_of(object).iter().map(|port| wire_port(port, target_number(port))).collect(),
        waypoint: waypoint(index.service_binding(object)),
        load_balancing: load_balancing(index, object),
        canonical: true,
        ingress_use_waypoint: ingress,
        subject_alt_names: Vec::new(),
        extensions: Vec::new(),
        weighted_waypoints: Vec::new(),
        visibility: 0,
    };
    Some(Address { r#type: Some(Type::Service(service)) })
}

/// The further names a client may ask for an address by: `network/IP` of each of its addresses.
#[must_use]
pub fn aliases(address: &Address) -> Vec<String> {
    let text = |network: &str, bytes: &[u8]| address_of(bytes).map(|ip| format!("{network}/{ip}"));
    match &address.r#type {
        // Pods on the node's own network share its addresses, which therefore name none of them.
        Some(Type::Workload(workload)) if workload.network_mode == i32::from(NetworkMode::HostNetwork) => Vec::new(),
        Some(Type::Workload(workload)) => workload.addresses.iter().filter_map(|bytes| text(&workload.network, bytes)).collect(),
        Some(Type::Service(service)) => {
            service.addresses.iter().filter_map(|address| text(&address.network, &address.address)).collect()
        }
        None => Vec::new(),
    }
}

/// The services a pod is an endpoint of, by `namespace/hostname`.
fn services_of(index: &Index, pod: &Pod) -> BTreeMap<String, PortList> {
    let services = index.services_with_pod(pod).into_iter();
    services
        .map(|(service, ports)| {
            let ports = ports.iter().map(|(port, target)| wire_port(port, *target)).collect();
            (service.key(index.config()), PortList { ports })
        })
        .collect()
}

/// The trust domain as the wire has it: nothing stands for `cluster.local`.
pub(super) fn trust_domain(config: &MeshConfig) -> String {
    match config.trust_domain.as_str() {
        "cluster.local" => String::new(),
        other => other.to_owned(),
    }
}

/// `None` when nothing is known of the place.
pub(super) fn locality(at: &crate::index::Locality) -> Option<Locality> {
    let known = *at != crate::index::Locality::default();
    known.then(|| Locality { region: at.region.clone(), zone: at.zone.clone(), subzone: at.subzone.clone() })
}

pub(super) fn wire_port(port: &ServicePort, target: u16) -> Port {
    Port { service_port: port.port.into(), target_port: target.into(), app_protocol: port.protocol.into() }
}

/// A named target is each pod's own to number; the service says 0 then.
pub(super) fn target_number(port: &ServicePort) -> u16 {
    match port.target {
        crate::index::TargetPort::Number(number) => number,
        crate::index::TargetPort::Name(_) => 0,
    }
}

/// The service's virtual addresses; a headless service has none.
#[must_use]
pub fn virtual_addresses(service: &KubernetesService) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let mut addresses = Vec::new();
    for text in spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip) {
        if let Ok(address) = text.parse::<IpAddr>()
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses
}

fn ip_families(service: &KubernetesService) -> IpFamilies {
    let declared = service.spec.as_ref().and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let has = |family: &str, is: fn(&IpAddr) -> bool| {
        declared.iter().any(|declared| declared == family) || virtual_addresses(service).iter().any(is)
    };
    both(has("IPv4", IpAddr::is_ipv4), has("IPv6", IpAddr::is_ipv6)).unwrap_or(IpFamilies::Automatic)
}

/// The families of addresses; `None` when there are none.
pub(super) fn families(addresses: &[IpAddr]) -> Option<IpFamilies> {
    both(addresses.iter().any(IpAddr::is_ipv4), addresses.iter().any(IpAddr::is_ipv6))
}

fn both(v4: bool, v6: bool) -> Option<IpFamilies> {
    match (v4, v6) {
        (true, true) => Some(IpFamilies::Dual),
        (true, false) => Some(IpFamilies::Ipv4Only),
        (false, true) => Some(IpFamilies::Ipv6Only),
        (false, false) => None,
    }
}

/// How clients spread over the endpoints; `None` is "over all of them, healthy ones only".
fn load_balancing(index: &Index, service: &KubernetesService) -> Option<LoadBalancing> {
    let spec = service.spec.as_ref();
    let (mode, preference) = if spec.and_then(|spec| spec.internal_traffic_policy.as_deref()) == Some("Local") {
        (Mode::Strict, vec![Scope::Node])
    } else {
        let declared = spec.and_then(|spec| spec.traffic_distribution.clone());
        preference(declared.or_else(|| traffic_distribution(index, &service.metadata)).as_deref())
    };
    let health = if Index::publishes_not_ready(service) { HealthPolicy::AllowAll } else { HealthPolicy::OnlyHealthy };
    if mode == Mode::UnspecifiedMode && health == HealthPolicy::OnlyHealthy {
        return None;
    }
    Some(LoadBalancing {
        routing_preference: preference.into_iter().map(i32::from).collect(),
        mode: mode.into(),
        health_policy: health.into(),
    })
}

/// What a word for the preference of near endpoints means.
pub(super) fn preference(word: Option<&str>) -> (Mode, Vec<Scope>) {
    match word {
        Some("PreferClose" | "PreferSameZone") => (Mode::Failover, vec![Scope::Network, Scope::Region, Scope::Zone]),
        Some("PreferSameNode") => (Mode::Failover, vec![Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node]),
        _ => (Mode::UnspecifiedMode, Vec::new()),
    }
}

/// The annotation of a service or ServiceEntry, else its namespace's.
pub(super) fn traffic_distribution(index: &Index, metadata: &ObjectMeta) -> Option<String> {
    let own = metadata.annotations.as_ref().and_then(|annotations| annotations.get(label::TRAFFIC_DISTRIBUTION));
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let namespace = crate::index::cluster_scoped(&index.objects().namespaces, namespace);
    let inherited = namespace.and_then(|namespace| namespace.metadata.annotations.as_ref());
    own.or_else(|| inherited.and_then(|annotations| annotations.get(label::TRAFFIC_DISTRIBUTION))).cloned()
}

/// The waypoint as node proxies are told of it.
///
/// A waypoint that is asked for and cannot be used is named by a host that can never exist (RFC 6761, `invalid`), so
/// that a node proxy finds nothing there and refuses, instead of going around it.
pub(super) fn waypoint(binding: Binding) -> Option<GatewayAddress> {
    let (waypoint, destination) = match binding {
        Binding::None | Binding::OtherTraffic(_) => return None,
        Binding::Bound { address: GatewayEndpoint::Ip(address), .. } => {
            let address = network_address(address, "");
            return Some(GatewayAddress { destination: Some(Destination::Address(address)), hbone_mtls_port: HBONE_PORT });
        }
        Binding::Bound { waypoint, address: GatewayEndpoint::Hostname(hostname) } => (waypoint, hostname),
        Binding::Unavailable { waypoint, .. } => {
            let hostname = unavailable_hostname(&waypoint);
            (waypoint, hostname)
        }
    };
    let hostname = NamespacedHostname { namespace: waypoint.namespace.to_string(), hostname: destination };
    Some(GatewayAddress { destination: Some(Destination::Hostname(hostname)), hbone_mtls_port: HBONE_PORT })
}

/// The host that stands for a waypoint which is asked for and cannot be used: `<name>.<namespace>.waypoint.invalid`.
#[must_use]
pub fn unavailable_hostname(waypoint: &NamespacedName) -> String {
    format!("{}.{}.waypoint.invalid", waypoint.name, waypoint.namespace)
}

pub(super) fn network_address(address: IpAddr, network: &str) -> NetworkAddress {
    NetworkAddress { network: network.to_owned(), address: bytes_of(address), length: None }
}

pub(super) fn bytes_of(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
        IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Whether a port's protocol is one that a waypoint treats as HTTP.
#[must_use]
pub fn is_http(protocol: AppProtocol) -> bool {
    matches!(protocol, AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc)
}
