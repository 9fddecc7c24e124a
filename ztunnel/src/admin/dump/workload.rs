//! Workloads and services, as `istioctl ztunnel-config` reads them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ambit_identity::SpiffeId;
use ambit_model::{
    address::{GatewayAddress, GatewayDestination, NetworkAddress},
    service::{Mode, Scope, Service},
    state::MeshState,
    workload::{Locality, Tunnel, Workload as Held},
};
use serde::Serialize;

/// A workload. What `istioctl` does not read comes last.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Workload {
    uid: String,
    workload_ips: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint: Option<Gateway>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_gateway: Option<Gateway>,
    protocol: &'static str,
    name: Arc<str>,
    namespace: String,
    service_account: String,
    workload_name: Arc<str>,
    workload_type: &'static str,
    canonical_name: Arc<str>,
    canonical_revision: Arc<str>,
    cluster_id: Arc<str>,
    trust_domain: String,
    locality: Locality,
    node: Arc<str>,
    network: String,
    status: &'static str,
    hostname: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_tunnel: Option<ApplicationTunnel>,
    authorization_policies: Vec<String>,
    identity: String,
    native_tunnel: bool,
    host_network: bool,
    capacity: u32,
    services: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ApplicationTunnel {
    protocol: &'static str,
    port: u16,
}

/// Where a waypoint or a network gateway is reached.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Gateway {
    destination: String,
    hbone_mtls_port: u16,
}

impl Gateway {
    fn of(gateway: &GatewayAddress) -> Self {
        let destination = match &gateway.destination {
            GatewayDestination::Service(key) => key.to_string(),
            GatewayDestination::Address(address) => address.to_string(),
        };
        Self { destination, hbone_mtls_port: gateway.port }
    }
}

impl Workload {
    pub(super) fn of(held: &Held) -> Self {
        let tunnel = |tunnel: ambit_model::workload::ApplicationTunnel| ApplicationTunnel {
            protocol: if tunnel.proxy_protocol { "PROXY" } else { "NONE" },
            port: tunnel.port,
        };
        Self {
            uid: held.uid.to_string(),
            workload_ips: held.addresses.clone(),
            waypoint: held.waypoint.as_deref().map(Gateway::of),
            network_gateway: held.network_gateway.as_deref().map(Gateway::of),
            protocol: match held.tunnel {
                Tunnel::Hbone => "HBONE",
                Tunnel::None => "TCP",
            },
            name: Arc::clone(&held.name),
            namespace: held.namespace.to_string(),
            service_account: held.identity.service_account().to_string(),
            workload_name: Arc::clone(&held.workload_name),
            workload_type: held.kind.label(),
            canonical_name: Arc::clone(&held.canonical_name),
            canonical_revision: Arc::clone(&held.canonical_revision),
            cluster_id: Arc::clone(&held.cluster),
            trust_domain: held.identity.trust_domain().to_string(),
            locality: held.locality.clone(),
            node: Arc::clone(&held.node),
            network: held.network.to_string(),
            status: if held.healthy { "Healthy" } else { "Unhealthy" },
            hostname: Arc::clone(&held.hostname),
            application_tunnel: held.application_tunnel.map(tunnel),
            authorization_policies: held.policies.iter().map(ToString::to_string).collect(),
            identity: held.identity.to_string(),
            native_tunnel: held.native_tunnel,
            host_network: held.host_network,
            capacity: held.capacity,
            services: held.services.keys().map(ToString::to_string).collect(),
        }
    }
}

/// A service with its endpoints. What `istioctl` does not read comes last.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceWithEndpoints {
    name: Arc<str>,
    namespace: String,
    hostname: Arc<str>,
    vips: Vec<String>,
    ports: BTreeMap<u16, u16>,
    load_balancer: LoadBalancer,
    /// The one that takes the most.
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint: Option<Gateway>,
    endpoints: BTreeMap<String, Endpoint>,
    subject_alt_names: Vec<String>,
    ip_families: &'static str,
    key: String,
    waypoints: Vec<Weighted>,
    canonical: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LoadBalancer {
    mode: &'static str,
    routing_preferences: Vec<&'static str>,
    health_policy: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    workload_uid: String,
    service: String,
    port: BTreeMap<u16, u16>,
}

#[derive(Debug, Serialize)]
struct Weighted {
    #[serde(flatten)]
    gateway: Gateway,
    weight: u32,
}

impl ServiceWithEndpoints {
    pub(super) fn of(mesh: &MeshState, held: &Service) -> Self {
        let mut waypoints: Vec<_> = held.waypoints.iter().collect();
        waypoints.sort_by_key(|weighted| std::cmp::Reverse(weighted.weight));
        let endpoint = |workload: &Arc<Held>| {
            let ports = workload.services.get(&held.key).into_iter().flatten();
            let port = ports.map(|port| (port.service_port, port.target_port)).collect();
            let uid = workload.uid.to_string();
            (uid.clone(), Endpoint { workload_uid: uid, service: held.key.to_string(), port })
        };
        Self {
            name: Arc::clone(&held.name),
            namespace: held.key.namespace.to_string(),
            hostname: Arc::clone(&held.key.hostname),
            vips: held.vips.iter().map(NetworkAddress::to_string).collect(),
            ports: held.ports.iter().map(|port| (port.service_port, port.target_port)).collect(),
            load_balancer: LoadBalancer {
                mode: match held.load_balancing.mode {
                    Mode::Any => "Standard",
                    Mode::Strict => "Strict",
                    Mode::Failover => "Failover",
                    Mode::Passthrough => "Passthrough",
                },
                routing_preferences: held.load_balancing.preferences.iter().copied().map(scope).collect(),
                health_policy: if held.load_balancing.allow_unhealthy { "AllowAll" } else { "OnlyHealthy" },
            },
            waypoint: waypoints.first().map(|weighted| Gateway::of(&weighted.waypoint)),
            endpoints: mesh.endpoints(&held.key).map(endpoint).collect(),
            subject_alt_names: held.subject_alt_names.iter().map(SpiffeId::to_string).collect(),
            ip_families: families(held),
            key: held.key.to_string(),
            waypoints: held
                .waypoints
                .iter()
                .map(|weighted| Weighted { gateway: Gateway::of(&weighted.waypoint), weight: weighted.weight })
                .collect(),
            canonical: held.canonical,
        }
    }
}

const fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Region => "Region",
        Scope::Zone => "Zone",
        Scope::Subzone => "Subzone",
        Scope::Node => "Node",
        Scope::Cluster => "Cluster",
        Scope::Network => "Network",
    }
}

/// The families of its addresses; nothing is said for a headless one.
fn families(held: &Service) -> &'static str {
    let has = |v4: bool| held.vips.iter().any(|vip| vip.ip.is_ipv4() == v4);
    match (has(true), has(false)) {
        (true, true) => "Dual",
        (true, false) => "IPv4",
        (false, true) => "IPv6",
        (false, false) => "",
    }
}
