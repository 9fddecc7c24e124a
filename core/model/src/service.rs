//! A service: a name and virtual addresses that stand for several workloads.

use std::{net::IpAddr, sync::Arc};

use ambit_identity::{Namespace, SpiffeId};
use serde::Serialize;

use crate::address::{GatewayAddress, NetworkAddress, ServiceKey};

/// What an application speaks at a port, as far as is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum AppProtocol {
    #[default]
    Unknown,
    Http1,
    Http2,
    Grpc,
    Tcp,
    Tls,
}

/// A port of a service and the port of its endpoints behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Port {
    /// What clients dial.
    pub service_port: u16,
    /// What endpoints listen on; 0 when each endpoint says so itself (a named port).
    pub target_port: u16,
    /// What is spoken there.
    pub app_protocol: AppProtocol,
}

/// A part of the place something runs at, by which endpoints are ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Scope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

/// How the ranking decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every endpoint is as good as another.
    #[default]
    Any,
    /// Only endpoints that match every preference.
    Strict,
    /// The endpoints that match the most preferences, in order.
    Failover,
    /// Keep the address the client dialled.
    Passthrough,
}

/// How an endpoint of a service is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct LoadBalancing {
    /// What to prefer, the most important first.
    pub preferences: Vec<Scope>,
    /// How the preferences decide.
    pub mode: Mode,
    /// Whether endpoints that are not ready are chosen too.
    pub allow_unhealthy: bool,
}

/// A waypoint with its share of the connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WeightedWaypoint {
    /// Where it is reached.
    pub waypoint: GatewayAddress,
    /// Its share relative to the others; 0 takes none.
    pub weight: u32,
}

/// A name clients connect to, by virtual address or host name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Its key.
    pub key: ServiceKey,
    /// Its short name.
    pub name: Arc<str>,
    /// Its virtual addresses; a headless service has none.
    pub vips: Vec<NetworkAddress>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Identities, besides the endpoint's own, that may answer for this service.
    pub subject_alt_names: Vec<SpiffeId>,
    /// The waypoints that connections to it must pass, with their weights; empty when none.
    pub waypoints: Vec<WeightedWaypoint>,
    /// How an endpoint is chosen.
    pub load_balancing: LoadBalancing,
    /// Whether this entry is the authority on the host name.
    pub canonical: bool,
    /// The address families it is for, in answers to its name.
    pub families: Families,
    /// Whether it is for clients of its own namespace only.
    pub private: bool,
    /// The names of the extensions it comes with. Nothing is done for them.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub extensions: Box<[Box<str>]>,
}

/// The address families of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// Those of its addresses.
    #[default]
    Any,
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
}

impl Families {
    /// Whether `ip` is of one of them.
    #[must_use]
    pub const fn include(self, ip: &IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Ipv4 => ip.is_ipv4(),
            Self::Ipv6 => ip.is_ipv6(),
        }
    }
}

impl Service {
    /// The port that clients dial as `service_port`.
    #[must_use]
    pub fn port(&self, service_port: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.service_port == service_port)
    }

    /// Whether clients of `namespace` may know of it (`visibility` of the wire contract).
    #[must_use]
    pub fn is_visible_to(&self, namespace: &Namespace) -> bool {
        !self.private || self.key.namespace == *namespace
    }
}
