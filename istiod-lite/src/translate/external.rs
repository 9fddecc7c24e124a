//! Workloads that are no pods, and hosts of ServiceEntries, to the addresses that node proxies are sent (wire contract, section 2).

use ambit_api::workload::address::Type;
use ambit_api::workload::load_balancing::Mode;
use ambit_api::workload::{
    Address, IpFamilies, LoadBalancing, NetworkMode, PortList, Service, TunnelProtocol, Visibility, Workload, WorkloadStatus,
    WorkloadType,
};
use ambit_identity::SpiffeId;

use super::workload::{
    bytes_of, families, locality, network_address, preference, target_number, traffic_distribution, trust_domain, waypoint,
    wire_port,
};
use crate::index::{EndpointHealth, ExternalKey, Index, ServiceRef, label};
use crate::source::NamespacedName;
use crate::source::crd::networking::{Resolution, ServiceEntry};

/// The workload of a key; `None` when there is none, or its address is that of a pod.
#[must_use]
pub fn workload(index: &Index, key: &ExternalKey) -> Option<Address> {
    let external = index.external(key)?;
    let config = index.config();
    let services = index.services_with_external(key).into_iter().map(|(service, ports)| {
        let ports = ports.iter().map(|(port, target)| wire_port(port, *target)).collect();
        (service.key(config), PortList { ports })
    });
    let name = &key.object().name;
    let of_label = |keys: [&str; 3]| keys.into_iter().find_map(|key| external.labels.get(key)).filter(|value| !value.is_empty());
    let canonical_name = of_label(["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let canonical_revision = of_label(["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    let workload = Workload {
        uid: key.uid(config),
        name: name.to_string(),
        namespace: key.object().namespace.to_string(),
        addresses: external.addresses.iter().copied().map(bytes_of).collect(),
        hostname: external.hostname.clone(),
        network: external.network.clone(),
        tunnel_protocol: (if external.hbone { TunnelProtocol::Hbone } else { TunnelProtocol::None }).into(),
        native_tunnel: external.hbone,
        trust_domain: trust_domain(config),
        service_account: if external.service_account == "default" { String::new() } else { external.service_account.clone() },
        node: external.node.clone(),
        canonical_name: canonical_name.cloned().unwrap_or_else(|| name.to_string()),
        canonical_revision: canonical_revision.cloned().unwrap_or_else(|| "latest".to_owned()),
        workload_type: WorkloadType::Pod.into(),
        workload_name: name.to_string(),
        services: services.collect(),
        status: match external.health {
            EndpointHealth::Healthy => WorkloadStatus::Healthy,
            EndpointHealth::Unhealthy => WorkloadStatus::Unhealthy,
        }
        .into(),
        cluster_id: config.cluster_id.clone(),
        locality: locality(&external.locality),
        // Anybody may write any address: unless it proves an identity, it is only an endpoint of its services and claims no address.
        network_mode: (if external.hbone { NetworkMode::Standard } else { NetworkMode::HostNetwork }).into(),
        capacity: external.weight,
        waypoint: None,
        authorization_policies: Vec::new(),
        network_gateway: None,
        application_tunnel: None,
        extensions: Vec::new(),
    };
    Some(Address { r#type: Some(Type::Workload(workload)) })
}

/// A host of ServiceEntries; `None` when no entry says what it is.
#[must_use]
pub fn host(index: &Index, host: &NamespacedName) -> Option<Address> {
    let entry = index.entry_of_host(host)?;
    let addresses = index.host_addresses(entry, host);
    let ports = index.service_ports(&ServiceRef::Host(host.clone()));
    let labels = entry.metadata.labels.as_ref();
    let ingress = labels.and_then(|labels| labels.get(label::INGRESS_USE_WAYPOINT)).is_some_and(|value| value == "true");
    let service = Service {
        name: entry.metadata.name.clone().unwrap_or_default(),
        namespace: host.namespace.to_string(),
        hostname: host.name.to_string(),
        ip_families: families(&addresses).unwrap_or(IpFamilies::Automatic).into(),
        addresses: addresses.into_iter().map(|address| network_address(address, "")).collect(),
        ports: ports.iter().map(|port| wire_port(port, target_number(port))).collect(),
        waypoint: waypoint(index.entry_binding(entry)),
        load_balancing: load_balancing(index, entry),
        canonical: false,
        ingress_use_waypoint: ingress,
        subject_alt_names: identities(entry),
        visibility: visibility(entry).into(),
        extensions: Vec::new(),
        weighted_waypoints: Vec::new(),
    };
    Some(Address { r#type: Some(Type::Service(service)) })
}

/// How clients spread over the endpoints; `None` is "over all of them, healthy ones only".
fn load_balancing(index: &Index, entry: &ServiceEntry) -> Option<LoadBalancing> {
    if entry.spec.resolution == Resolution::None {
        return Some(LoadBalancing { mode: Mode::Passthrough.into(), ..LoadBalancing::default() });
    }
    let (mode, preference) = preference(traffic_distribution(index, &entry.metadata).as_deref());
    let routing_preference = preference.into_iter().map(i32::from).collect();
    (mode != Mode::UnspecifiedMode).then(|| LoadBalancing { routing_preference, mode: mode.into(), ..LoadBalancing::default() })
}

/// Names that an endpoint of the mesh may show; those that are no SPIFFE identities are for TLS of the application's own.
fn identities(entry: &ServiceEntry) -> Vec<String> {
    entry.spec.subject_alt_names.iter().filter(|name| name.parse::<SpiffeId>().is_ok()).cloned().collect()
}

/// Seen by all, or by its own namespace alone, which is all that the contract can say.
fn visibility(entry: &ServiceEntry) -> Visibility {
    let everywhere = entry.spec.export_to.is_empty() || entry.spec.export_to.iter().any(|namespace| namespace == "*");
    if everywhere { Visibility::Public } else { Visibility::Namespace }
}
