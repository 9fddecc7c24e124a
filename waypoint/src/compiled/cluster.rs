//! Clusters and their endpoints.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ambit_identity::SpiffeId;
use ambit_model::{
    balance::{Limits, OVERPROVISIONING, OutlierDetection, Rules, Standing},
    route::{EndpointName, RetryBudget},
};
use serde::Serialize;

use super::{HealthCheck, Retries, WorkloadNames};
use crate::upstream::Live;

/// The protocol spoken to a cluster's endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// What the client speaks.
    Downstream,
}

impl Protocol {
    /// Whether it is HTTP/2 for a client that speaks `version`.
    #[must_use]
    pub fn is_http2(self, version: http::Version) -> bool {
        match self {
            Self::Http1 => false,
            Self::Http2 => true,
            Self::Downstream => version == http::Version::HTTP_2,
        }
    }
}

/// How a cluster's endpoints are found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Discovery {
    /// They are discovered under this name.
    Eds(Arc<str>),
    /// They are given with the cluster.
    Static(Arc<Endpoints>),
    /// The only one is the destination the client asked for.
    OriginalDestination,
}

/// The service a cluster stands for, for logs and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ServiceInfo {
    /// Its name.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its host name.
    pub host: Arc<str>,
}

/// A cluster.
#[derive(Debug, Serialize)]
pub struct Cluster {
    /// Its name.
    pub name: Arc<str>,
    /// How its endpoints are found.
    pub discovery: Discovery,
    /// What is spoken to them.
    pub protocol: Protocol,
    /// The longest a connection may take to stand.
    pub connect_timeout: Duration,
    /// The service it stands for, when it does.
    pub service: Option<Arc<ServiceInfo>>,
    /// How its requests are spread over its endpoints.
    pub balance: Rules,
    /// Which endpoints are given no requests for a while, if any.
    pub outliers: Option<OutlierDetection>,
    /// How much of it is in use at once at most.
    pub limits: Limits,
    /// What goes on in it. Kept when the cluster is configured anew.
    pub live: Arc<Live>,
    /// How many requests may be under way for another time.
    pub retry_budget: RetryBudget,
    /// How many are. Kept when the cluster is configured anew.
    #[serde(skip)]
    pub retries: Retries,
    /// How its endpoints are checked, if they are.
    pub checks: Option<Arc<HealthCheck>>,
}

/// How an endpoint is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Through a tunnel to port 15008 of its address; it must prove this identity.
    Hbone {
        /// The pod's address and the port of the application.
        address: SocketAddr,
        /// Its identity.
        identity: SpiffeId,
    },
    /// In clear.
    Clear {
        /// Its address.
        address: SocketAddr,
    },
    /// Through a tunnel to the destination the client asked for, which must prove the identity that the filter chain names.
    OriginalDestination,
    /// An internal listener: no place to send a request to.
    Internal {
        /// The listener's name.
        listener: Arc<str>,
    },
}

impl Target {
    /// What it is called in a session; nothing where it is no endpoint of its own.
    #[must_use]
    pub fn name(&self) -> Option<EndpointName> {
        match self {
            Self::Hbone { address, .. } => Some(EndpointName { address: *address, tunnelled: true }),
            Self::Clear { address } => Some(EndpointName { address: *address, tunnelled: false }),
            Self::OriginalDestination | Self::Internal { .. } => None,
        }
    }
}

/// An endpoint.
#[derive(Debug, Clone, Serialize)]
pub struct Endpoint {
    /// How it is reached.
    pub target: Target,
    /// Its share among the others.
    pub weight: u32,
    /// The workload, for logs and metrics.
    pub workload: WorkloadNames,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Whether it takes requests.
    pub standing: Standing,
    /// It is checked where its cluster's endpoints are.
    pub checked: bool,
}

/// Endpoints of one place and priority.
#[derive(Debug, Clone, Serialize)]
pub struct Locality {
    /// 0 is tried first.
    pub priority: u32,
    /// Its share among those of its priority, where the cluster gives them any.
    pub weight: u32,
    /// Its endpoints.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Where it is, `region/zone/subzone`; nothing where that is not said.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub place: Arc<str>,
}

/// The endpoints of a cluster.
#[derive(Debug, Clone, Serialize)]
pub struct Endpoints {
    /// All of them.
    pub localities: Vec<Locality>,
    /// How much more a priority bears than it has endpoints, in a hundred.
    pub overprovisioning: u32,
}

impl Default for Endpoints {
    fn default() -> Self {
        Self { localities: Vec::new(), overprovisioning: OVERPROVISIONING }
    }
}
