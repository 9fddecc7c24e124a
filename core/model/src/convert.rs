//! From the wire to the types that are reasoned about. What cannot be understood is an error for that resource alone.

use std::{net::IpAddr, sync::Arc};

use ambit_api::workload as wire;
use ambit_identity::{IdentityError, Namespace, SpiffeId};
use ipnet::IpNet;
use prost::Message as _;

use crate::{
    address::{GatewayAddress, GatewayDestination, Network, NetworkAddress, ServiceKey, port},
    policy::{self, Policy, PolicyKey, PolicyKeyError},
    service::{AppProtocol, Families, LoadBalancing, Mode, Port, Scope, Service, WeightedWaypoint},
    workload::{ApplicationTunnel, Kind, Locality, Tunnel, Uid, Workload},
};

mod authorization;

/// Why a resource was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The bytes are neither an IPv4 nor an IPv6 address.
    #[error("{field} has {length} bytes, which is no IP address")]
    IpAddress {
        /// Which field.
        field: &'static str,
        /// How many bytes it has.
        length: usize,
    },
    /// The prefix is longer than the address.
    #[error("{field} has a prefix of {length} bits, longer than the address")]
    Prefix {
        /// Which field.
        field: &'static str,
        /// The prefix, in bits.
        length: u32,
    },
    /// The number is no port.
    #[error("{field} is {value}, which is no port")]
    Port {
        /// Which field.
        field: &'static str,
        /// The number.
        value: u32,
    },
    /// The number is not one that this version of the contract knows.
    #[error("{field} has the unknown value {value}")]
    Enumeration {
        /// Which field.
        field: &'static str,
        /// The number.
        value: i32,
    },
    /// The text is not of the form `namespace/hostname`.
    #[error("{0:?} is not of the form namespace/hostname")]
    ServiceKey(String),
    /// The text is not of the form `namespace/name`.
    #[error(transparent)]
    PolicyKey(#[from] PolicyKeyError),
    /// A part of an identity is not valid.
    #[error("{field}: {source}")]
    Identity {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// Something that is valid but that this proxy cannot do, so that taking the resource would do something else than was asked.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// The resource is not of the form that its type says.
    #[error("cannot be decoded: {0}")]
    Decode(String),
    /// The resource has another name than what it says of itself.
    #[error("is named {name:?} but says it is {inside:?}")]
    Name {
        /// The resource's name.
        name: String,
        /// What its fields say.
        inside: String,
    },
}

/// One entry of the address table.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// A workload.
    Workload(Box<Workload>),
    /// A service.
    Service(Box<Service>),
}

impl Entry {
    /// The name of the resource: the uid of a workload, `namespace/hostname` of a service.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Workload(workload) => workload.uid.to_string(),
            Self::Service(service) => service.key.to_string(),
        }
    }

    /// Reads the resource called `name` from the bytes of an `istio.workload.Address`.
    ///
    /// # Errors
    /// When the bytes are no such message, or say something that cannot be used, or say they have another name.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self, ConvertError> {
        let address = wire::Address::decode(bytes).map_err(|error| ConvertError::Decode(error.to_string()))?;
        let entry = Self::try_from(address)?;
        let inside = entry.name();
        if inside == name { Ok(entry) } else { Err(ConvertError::Name { name: name.to_owned(), inside }) }
    }
}

/// The addresses that the bytes of an unreadable `istio.workload.Address` speak for, as far as can be told: what goes there must not
/// be taken for traffic to the world outside, which passes through in clear and around every waypoint.
#[must_use]
pub fn claimed_addresses(bytes: &[u8]) -> Vec<(Network, IpNet)> {
    let Ok(wire::Address { r#type: Some(entry) }) = wire::Address::decode(bytes) else { return Vec::new() };
    let net = |network: &str, address: &[u8], length: Option<u32>| {
        let ip = ip("address", address).ok()?;
        // A prefix that is none claims the one address.
        let whole = length.and_then(|length| prefix("address", address, length).ok());
        Some((Network::from(network), whole.unwrap_or_else(|| IpNet::from(ip))))
    };
    match entry {
        wire::address::Type::Workload(it) => it.addresses.iter().filter_map(|ip| net(&it.network, ip, None)).collect(),
        wire::address::Type::Service(it) => it.addresses.iter().filter_map(|a| net(&a.network, &a.address, a.length)).collect(),
    }
}

/// A policy that could not be read, with what is known of it: everything in its scope must be denied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {error}")]
pub struct UnreadablePolicy {
    /// Its key, by its resource name.
    pub key: PolicyKey,
    /// Its scope, as far as it can be told: one of a later version is taken to be within its namespace.
    pub scope: policy::Scope,
    /// What is wrong with it.
    pub error: ConvertError,
}

/// Reads the policy called `name` from the bytes of an `istio.security.Authorization`.
///
/// # Errors
/// When the bytes are no such message, or say something that cannot be enforced, or say they have another name.
pub fn decode_policy(name: &str, bytes: &[u8]) -> Result<Policy, Box<UnreadablePolicy>> {
    let key = PolicyKey::of_resource(name);
    let unreadable = |scope, error| Box::new(UnreadablePolicy { key: key.clone(), scope, error });
    let scope = authorization::scope_of_unreadable(bytes);
    let wire = match ambit_api::security::Authorization::decode(bytes) {
        Ok(wire) => wire,
        Err(error) => return Err(unreadable(scope, ConvertError::Decode(error.to_string()))),
    };
    match authorization::policy(wire, bytes) {
        Ok(policy) if policy.key == key => Ok(policy),
        Ok(policy) => Err(unreadable(scope, ConvertError::Name { name: name.to_owned(), inside: policy.key.to_string() })),
        Err(error) => Err(unreadable(scope, error)),
    }
}

impl TryFrom<wire::Address> for Entry {
    type Error = ConvertError;
    fn try_from(address: wire::Address) -> Result<Self, ConvertError> {
        match address.r#type.ok_or(ConvertError::Missing("type"))? {
            wire::address::Type::Workload(workload) => Ok(Self::Workload(Box::new(workload.try_into()?))),
            wire::address::Type::Service(service) => Ok(Self::Service(Box::new(service.try_into()?))),
        }
    }
}

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

fn named<T: std::str::FromStr<Err = IdentityError>>(field: &'static str, text: &str) -> Result<T, ConvertError> {
    text.parse().map_err(|source| ConvertError::Identity { field, source })
}

fn ip(field: &'static str, bytes: &[u8]) -> Result<IpAddr, ConvertError> {
    let address = if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        IpAddr::from(v4)
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        IpAddr::from(v6)
    } else {
        return Err(ConvertError::IpAddress { field, length: bytes.len() });
    };
    Ok(address.to_canonical())
}

fn prefix(field: &'static str, bytes: &[u8], length: u32) -> Result<IpNet, ConvertError> {
    let bits = u8::try_from(length).map_err(|_| ConvertError::Prefix { field, length })?;
    let (address, bits) = match (ip(field, bytes)?, bits) {
        // An IPv4 network written as one of IPv6; a larger one is of IPv6.
        (IpAddr::V4(v4), 96..=128) if bytes.len() == 16 => (IpAddr::V4(v4), bits - 96),
        (IpAddr::V4(v4), _) if bytes.len() == 16 => (IpAddr::V6(v4.to_ipv6_mapped()), bits),
        (address, bits) => (address, bits),
    };
    IpNet::new(address, bits).map_err(|_| ConvertError::Prefix { field, length })
}

fn port_number(field: &'static str, value: u32) -> Result<u16, ConvertError> {
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

#[cfg(test)]
mod fields;
#[cfg(test)]
mod tests;
