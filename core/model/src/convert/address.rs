//! Workloads and services from the wire, field by field.

use std::{net::IpAddr, sync::Arc};

use ambit_api::workload as wire;
use ambit_identity::{IdentityError, Namespace, SpiffeId};
use ipnet::IpNet;

use super::ConvertError;
use crate::{
    address::{GatewayAddress, GatewayDestination, Network, NetworkAddress, ServiceKey, port},
    policy::PolicyKey,
    service::{AppProtocol, Families, LoadBalancing, Mode, Port, Scope, Service, WeightedWaypoint},
    workload::{ApplicationTunnel, Kind, Locality, Tunnel, Uid, Workload},
};

impl TryFrom<wire::Workload> for Workload {
    type Error = ConvertError;
    fn try_from(wire: wire::Workload) -> Result<Self, ConvertError> {
        let namespace: Namespace = named("namespace", &wire.namespace)?;
        let identity = SpiffeId::new(
            named("trust_domain", or(&wire.trust_domain, "cluster.local"))?,
            namespace.clone(),
            named("service_account", or(&wire.service_account, "default"))?,
        );
        if wire.uid.is_empty() {
            return Err(ConvertError::Missing("uid"));
        }
        let tunnel = match wire::TunnelProtocol::try_from(wire.tunnel_protocol) {
            Ok(wire::TunnelProtocol::None) => Tunnel::None,
            Ok(wire::TunnelProtocol::Hbone) => Tunnel::Hbone,
            Ok(wire::TunnelProtocol::LegacyIstioMtls) => return Err(ConvertError::Unsupported("the legacy tunnel protocol")),
            Err(_) => return Err(ConvertError::Enumeration { field: "tunnel_protocol", value: wire.tunnel_protocol }),
        };
        let kind = match wire::WorkloadType::try_from(wire.workload_type) {
            Ok(wire::WorkloadType::Deployment) => Kind::Deployment,
            Ok(wire::WorkloadType::Cronjob) => Kind::CronJob,
            Ok(wire::WorkloadType::Pod) => Kind::Pod,
            Ok(wire::WorkloadType::Job) => Kind::Job,
            Err(_) => return Err(ConvertError::Enumeration { field: "workload_type", value: wire.workload_type }),
        };
        let healthy = match wire::WorkloadStatus::try_from(wire.status) {
            Ok(status) => status == wire::WorkloadStatus::Healthy,
            Err(_) => return Err(ConvertError::Enumeration { field: "status", value: wire.status }),
        };
        let host_network = match wire::NetworkMode::try_from(wire.network_mode) {
            Ok(mode) => mode == wire::NetworkMode::HostNetwork,
            Err(_) => return Err(ConvertError::Enumeration { field: "network_mode", value: wire.network_mode }),
        };
        let locality = wire.locality.unwrap_or_default();
        Ok(Self {
            uid: Uid::from(wire.uid.as_str()),
            name: wire.name.into(),
            namespace,
            addresses: wire.addresses.iter().map(|bytes| ip("addresses", bytes)).collect::<Result<_, _>>()?,
            hostname: wire.hostname.into(),
            network: Network::from(wire.network.as_str()),
            tunnel,
            native_tunnel: wire.native_tunnel,
            identity,
            waypoint: wire.waypoint.map(gateway).transpose()?.map(Arc::new),
            network_gateway: wire.network_gateway.map(gateway).transpose()?.map(Arc::new),
            node: wire.node.into(),
            canonical_name: wire.canonical_name.into(),
            canonical_revision: wire.canonical_revision.into(),
            kind,
            workload_name: wire.workload_name.into(),
            application_tunnel: wire.application_tunnel.map(application_tunnel).transpose()?,
            services: wire
                .services
                .into_iter()
                .map(|(key, ports)| Ok((service_key(&key)?, ports.ports.iter().map(port_pair).collect::<Result<_, _>>()?)))
                .collect::<Result<_, ConvertError>>()?,
            policies: wire.authorization_policies.iter().map(|key| key.parse::<PolicyKey>()).collect::<Result<_, _>>()?,
            healthy,
            cluster: wire.cluster_id.into(),
            locality: Locality { region: locality.region.into(), zone: locality.zone.into(), subzone: locality.subzone.into() },
            host_network,
            extensions: extensions(wire.extensions),
            capacity: wire.capacity.unwrap_or(1),
        })
    }
}

impl TryFrom<wire::Service> for Service {
    type Error = ConvertError;
    fn try_from(wire: wire::Service) -> Result<Self, ConvertError> {
        if wire.hostname.is_empty() {
            return Err(ConvertError::Missing("hostname"));
        }
        let key = ServiceKey { namespace: named("namespace", &wire.namespace)?, hostname: wire.hostname.as_str().into() };
        let mut waypoints = Vec::with_capacity(wire.weighted_waypoints.len().max(1));
        for weighted in wire.weighted_waypoints {
            let destination = weighted.destination.ok_or(ConvertError::Missing("weighted_waypoints.destination"))?;
            waypoints.push(WeightedWaypoint { waypoint: gateway(destination)?, weight: weighted.weight });
        }
        if let (true, Some(waypoint)) = (waypoints.is_empty(), wire.waypoint) {
            waypoints.push(WeightedWaypoint { waypoint: gateway(waypoint)?, weight: 1 });
        }
        let families = match wire::IpFamilies::try_from(wire.ip_families) {
            Ok(wire::IpFamilies::Ipv4Only) => Families::Ipv4,
            Ok(wire::IpFamilies::Ipv6Only) => Families::Ipv6,
            // Only a hint for answers: families of a later version are those of the addresses.
            Ok(wire::IpFamilies::Automatic | wire::IpFamilies::Dual) | Err(_) => Families::Any,
        };
        Ok(Self {
            name: Arc::from(or(&wire.name, &wire.hostname)),
            key,
            vips: wire.addresses.iter().map(network_address).collect::<Result<_, _>>()?,
            ports: wire.ports.iter().map(port_pair).collect::<Result<_, _>>()?,
            subject_alt_names: wire
                .subject_alt_names
                .iter()
                .map(|name| name.parse().map_err(|source| ConvertError::Identity { field: "subject_alt_names", source }))
                .collect::<Result<_, _>>()?,
            waypoints,
            load_balancing: wire.load_balancing.map(load_balancing).transpose()?.unwrap_or_default(),
            canonical: wire.canonical,
            families,
            // A visibility of a later version is taken for the narrowest.
            private: wire.visibility != i32::from(wire::Visibility::Public),
            extensions: extensions(wire.extensions),
        })
    }
}

fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

pub(super) fn named<T: std::str::FromStr<Err = IdentityError>>(field: &'static str, text: &str) -> Result<T, ConvertError> {
    text.parse().map_err(|source| ConvertError::Identity { field, source })
}

pub(super) fn ip(field: &'static str, bytes: &[u8]) -> Result<IpAddr, ConvertError> {
    let address = if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        IpAddr::from(v4)
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        IpAddr::from(v6)
    } else {
        return Err(ConvertError::IpAddress { field, length: bytes.len() });
    };
    Ok(address.to_canonical())
}

pub(super) fn prefix(field: &'static str, bytes: &[u8], length: u32) -> Result<IpNet, ConvertError> {
    let bits = u8::try_from(length).map_err(|_| ConvertError::Prefix { field, length })?;
    let (address, bits) = match (ip(field, bytes)?, bits) {
        // An IPv4 network written as one of IPv6; a larger one is of IPv6.
        (IpAddr::V4(v4), 96..=128) if bytes.len() == 16 => (IpAddr::V4(v4), bits - 96),
        (IpAddr::V4(v4), _) if bytes.len() == 16 => (IpAddr::V6(v4.to_ipv6_mapped()), bits),
        (address, bits) => (address, bits),
    };
    IpNet::new(address, bits).map_err(|_| ConvertError::Prefix { field, length })
}

pub(super) fn port_number(field: &'static str, value: u32) -> Result<u16, ConvertError> {
    u16::try_from(value).map_err(|_| ConvertError::Port { field, value })
}

fn network_address(wire: &wire::NetworkAddress) -> Result<NetworkAddress, ConvertError> {
    let ip = ip("address", &wire.address)?;
    let full = if ip.is_ipv4() { 32 } else { 128 };
    if wire.length.is_some_and(|length| length != full) {
        return Err(ConvertError::Unsupported("a virtual address that is a range"));
    }
    Ok(NetworkAddress::new(Network::from(wire.network.as_str()), ip))
}

fn service_key(text: &str) -> Result<ServiceKey, ConvertError> {
    match text.split_once('/') {
        Some((namespace, hostname)) if !hostname.is_empty() => {
            Ok(ServiceKey { namespace: named("namespace", namespace)?, hostname: hostname.into() })
        }
        _ => Err(ConvertError::ServiceKey(text.to_owned())),
    }
}

fn gateway(wire: wire::GatewayAddress) -> Result<GatewayAddress, ConvertError> {
    let destination = match wire.destination.ok_or(ConvertError::Missing("destination of a gateway"))? {
        wire::gateway_address::Destination::Hostname(name) => GatewayDestination::Service(ServiceKey {
            namespace: named("namespace of a gateway", &name.namespace)?,
            hostname: name.hostname.into(),
        }),
        wire::gateway_address::Destination::Address(address) => GatewayDestination::Address(network_address(&address)?),
    };
    let port = match port_number("hbone_mtls_port", wire.hbone_mtls_port)? {
        0 => port::HBONE,
        port => port,
    };
    Ok(GatewayAddress { destination, port })
}

fn application_tunnel(wire: wire::ApplicationTunnel) -> Result<ApplicationTunnel, ConvertError> {
    let port = match port_number("application_tunnel.port", wire.port)? {
        0 => return Err(ConvertError::Missing("application_tunnel.port")),
        port => port,
    };
    match wire::application_tunnel::Protocol::try_from(wire.protocol) {
        Ok(wire::application_tunnel::Protocol::None) => Ok(ApplicationTunnel { proxy_protocol: false, port }),
        Ok(wire::application_tunnel::Protocol::Proxy) => Ok(ApplicationTunnel { proxy_protocol: true, port }),
        Err(_) => Err(ConvertError::Enumeration { field: "application_tunnel.protocol", value: wire.protocol }),
    }
}

/// Their names: what they are configured to do is not known.
fn extensions(wire: Vec<wire::Extension>) -> Box<[Box<str>]> {
    wire.into_iter().map(|extension| extension.name.into()).collect()
}

fn port_pair(wire: &wire::Port) -> Result<Port, ConvertError> {
    let app_protocol = match wire::AppProtocol::try_from(wire.app_protocol) {
        Ok(wire::AppProtocol::Http11) => AppProtocol::Http1,
        Ok(wire::AppProtocol::Http2) => AppProtocol::Http2,
        Ok(wire::AppProtocol::Grpc) => AppProtocol::Grpc,
        Ok(wire::AppProtocol::Tcp) => AppProtocol::Tcp,
        Ok(wire::AppProtocol::Tls) => AppProtocol::Tls,
        // Only a hint: a protocol of a later version is carried as bytes.
        Ok(wire::AppProtocol::Unknown) | Err(_) => AppProtocol::Unknown,
    };
    Ok(Port {
        service_port: port_number("service_port", wire.service_port)?,
        target_port: port_number("target_port", wire.target_port)?,
        app_protocol,
    })
}

fn load_balancing(wire: wire::LoadBalancing) -> Result<LoadBalancing, ConvertError> {
    use wire::load_balancing as lb;
    let mode = match lb::Mode::try_from(wire.mode) {
        Ok(lb::Mode::UnspecifiedMode) => Mode::Any,
        Ok(lb::Mode::Strict) => Mode::Strict,
        Ok(lb::Mode::Failover) => Mode::Failover,
        Ok(lb::Mode::Passthrough) => Mode::Passthrough,
        Err(_) => return Err(ConvertError::Enumeration { field: "load_balancing.mode", value: wire.mode }),
    };
    let mut preferences = Vec::with_capacity(wire.routing_preference.len());
    for value in wire.routing_preference {
        preferences.push(match lb::Scope::try_from(value) {
            Ok(lb::Scope::Region) => Scope::Region,
            Ok(lb::Scope::Zone) => Scope::Zone,
            Ok(lb::Scope::Subzone) => Scope::Subzone,
            Ok(lb::Scope::Node) => Scope::Node,
            Ok(lb::Scope::Cluster) => Scope::Cluster,
            Ok(lb::Scope::Network) => Scope::Network,
            Ok(lb::Scope::UnspecifiedScope) | Err(_) => {
                return Err(ConvertError::Enumeration { field: "load_balancing.routing_preference", value });
            }
        });
    }
    let allow_unhealthy = match lb::HealthPolicy::try_from(wire.health_policy) {
        Ok(policy) => policy == lb::HealthPolicy::AllowAll,
        Err(_) => return Err(ConvertError::Enumeration { field: "load_balancing.health_policy", value: wire.health_policy }),
    };
    Ok(LoadBalancing { preferences, mode, allow_unhealthy })
}
