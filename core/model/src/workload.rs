//! A workload: one place connections can end, and who speaks there.

mod services;

use std::{fmt, net::IpAddr, sync::Arc};

use ambit_identity::{Namespace, SpiffeId};
use serde::Serialize;

use crate::{
    address::{GatewayAddress, Network},
    policy::PolicyKey,
};

pub use services::Services;

/// The unique and stable key of a workload: `<cluster>//Pod/<namespace>/<name>` for a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Uid(Arc<str>);

impl Uid {
    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Uid {
    fn from(uid: &str) -> Self {
        Self(uid.into())
    }
}

impl std::borrow::Borrow<str> for Uid {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a workload takes mesh traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tunnel {
    /// Plain TCP: the workload is not in the mesh.
    None,
    /// HBONE on port 15008.
    Hbone,
}

/// What kind of object owns a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Deployment,
    CronJob,
    Pod,
    Job,
}

impl Kind {
    /// The name of this kind in `baggage` keys (`k8s.<kind>.name`).
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }
}

/// Where a workload runs, from the largest part to the smallest. Parts that are not known are empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}

/// The workload wants every tunnelled connection at one port of its own (a proxy in the pod), not at the port that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ApplicationTunnel {
    /// Whether the PROXY protocol goes before the connection's bytes.
    pub proxy_protocol: bool,
    /// The port in the pod.
    pub port: u16,
}

/// One place connections can end: a pod, or something that behaves as one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Workload {
    /// Its key.
    pub uid: Uid,
    /// The pod's name.
    pub name: Arc<str>,
    /// The pod's namespace.
    pub namespace: Namespace,
    /// Its addresses; never an IPv4 address written as IPv6.
    pub addresses: Vec<IpAddr>,
    /// A host name to resolve instead of addresses; empty for pods.
    pub hostname: Arc<str>,
    /// The network its addresses belong to.
    pub network: Network,
    /// How it takes mesh traffic.
    pub tunnel: Tunnel,
    /// Whether the pod itself speaks HBONE, so that no node proxy stands before it.
    pub native_tunnel: bool,
    /// Who it is.
    pub identity: SpiffeId,
    /// The waypoint that connections to its addresses must pass.
    pub waypoint: Option<Arc<GatewayAddress>>,
    /// The way into its network from another one.
    pub network_gateway: Option<Arc<GatewayAddress>>,
    /// The node it runs on.
    pub node: Arc<str>,
    /// The service it is known as, for telemetry.
    pub canonical_name: Arc<str>,
    /// The revision of that service.
    pub canonical_revision: Arc<str>,
    /// What owns it.
    pub kind: Kind,
    /// The name of what owns it.
    pub workload_name: Arc<str>,
    /// Where tunnelled connections must go in the pod.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// The services it is an endpoint of, with the ports it serves there.
    pub services: Services,
    /// The selector policies that hold for it.
    pub policies: Vec<PolicyKey>,
    /// Whether it is ready to be chosen.
    pub healthy: bool,
    /// The cluster it runs in.
    pub cluster: Arc<str>,
    /// Where it runs.
    pub locality: Locality,
    /// Whether its addresses are the node's.
    pub host_network: bool,
    /// Its share of a service's connections relative to the other endpoints; 0 takes none.
    pub capacity: u32,
    /// The names of the extensions it comes with. Nothing is done for them.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub extensions: Box<[Box<str>]>,
}

impl Workload {
    /// Whether it has an address of the family of `ip`.
    #[must_use]
    pub fn has_family_of(&self, ip: &IpAddr) -> bool {
        self.addresses.iter().any(|own| own.is_ipv4() == ip.is_ipv4())
    }
}
