//! Addresses as the mesh knows them: an IP address within a network, a service's name, a way to a gateway.

use std::{fmt, net::IpAddr, sync::Arc};

use ambit_identity::Namespace;
use serde::Serialize;

/// Ports of the node proxy inside a pod (wire contract, section 1).
pub mod port {
    /// Captured outbound TCP.
    pub const OUTBOUND: u16 = 15001;
    /// Captured inbound plain text.
    pub const INBOUND_PLAINTEXT: u16 = 15006;
    /// HBONE.
    pub const HBONE: u16 = 15008;
    /// The DNS proxy, on the loopback device.
    pub const DNS: u16 = 15053;

    /// Whether `port` is one of the proxy's own: a connection to it through the proxy would never end.
    #[must_use]
    pub const fn is_proxy(port: u16) -> bool {
        matches!(port, OUTBOUND | INBOUND_PLAINTEXT | HBONE)
    }
}

/// The name of a network within which addresses are unique; empty for the default one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize)]
pub struct Network(Arc<str>);

impl Network {
    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether there is a clone of it somewhere.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl From<&str> for Network {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An IP address within a network.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct NetworkAddress {
    /// Which network.
    pub network: Network,
    /// The address; never an IPv4 address written as IPv6.
    pub ip: IpAddr,
}

impl NetworkAddress {
    /// An address of `network`; an IPv4 address mapped into IPv6 becomes IPv4.
    #[must_use]
    pub fn new(network: Network, ip: IpAddr) -> Self {
        Self { network, ip: ip.to_canonical() }
    }
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.ip)
    }
}

/// The key of a service: its namespace and host name, `namespace/hostname` on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The namespace the service is in.
    pub namespace: Namespace,
    /// The fully qualified host name.
    pub hostname: Arc<str>,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

impl Serialize for ServiceKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a gateway (a waypoint, or the way into another network) is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct GatewayAddress {
    /// What names the gateway.
    pub destination: GatewayDestination,
    /// The port of its HBONE listener.
    pub port: u16,
}

/// What names a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum GatewayDestination {
    /// A service.
    Service(ServiceKey),
    /// The virtual address of a service, or the address of a workload.
    Address(NetworkAddress),
}

impl fmt::Display for GatewayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.destination {
            GatewayDestination::Service(key) => write!(f, "{key}:{}", self.port),
            GatewayDestination::Address(address) => write!(f, "{address}:{}", self.port),
        }
    }
}
