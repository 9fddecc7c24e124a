//! Clusters and their endpoints.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use ambit_identity::SpiffeId;
use ambit_model::route::RetryBudget;
use serde::Serialize;

use super::{Retries, WorkloadNames};

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
    pub service: Option<ServiceInfo>,
    /// Where the next request's round begins. Kept when the cluster is configured anew.
    #[serde(skip)]
    pub turn: Arc<AtomicUsize>,
    /// How many requests may be under way for another time.
    pub retry_budget: RetryBudget,
    /// How many are. Kept when the cluster is configured anew.
    #[serde(skip)]
    pub retries: Retries,
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
    pub healthy: bool,
}

/// The endpoints of a cluster.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Endpoints {
    /// All of them with their priority, 0 first.
    pub all: Vec<(u32, Arc<Endpoint>)>,
    /// Those that may be used now: the healthy ones of the first priority that has any.
    #[serde(skip)]
    ready: Vec<Arc<Endpoint>>,
    /// The sum of their weights, when these differ.
    #[serde(skip)]
    weighted: Option<u64>,
}

impl Endpoints {
    /// Sorts out which may be used.
    #[must_use]
    pub fn new(mut all: Vec<(u32, Arc<Endpoint>)>) -> Self {
        all.sort_by_key(|(priority, _)| *priority);
        let usable = |e: &Endpoint| e.healthy && e.weight > 0;
        let first = all.iter().find(|(_, e)| usable(e)).map(|(priority, _)| *priority);
        let ready: Vec<_> = all.iter().filter(|(p, e)| Some(*p) == first && usable(e)).map(|(_, e)| e.clone()).collect();
        let uniform = ready.windows(2).all(|pair| matches!(pair, [a, b] if a.weight == b.weight));
        let weighted = (!uniform).then(|| ready.iter().map(|e| u64::from(e.weight)).sum());
        Self { all, ready, weighted }
    }

    /// How many may be used.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// The endpoints in the order to try them: the first by turn (or by weight, where weights differ), then those after it.
    pub fn order(&self, turn: usize, random: u64) -> impl Iterator<Item = &Arc<Endpoint>> {
        let start = match self.weighted.and_then(|total| random.checked_rem(total)) {
            None => turn,
            Some(mut point) => self
                .ready
                .iter()
                .position(|e| match point.checked_sub(u64::from(e.weight)) {
                    Some(rest) => {
                        point = rest;
                        false
                    }
                    None => true,
                })
                .unwrap_or(turn),
        };
        let count = self.ready.len();
        self.ready.iter().cycle().skip(start.checked_rem(count).unwrap_or(0)).take(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16, weight: u32, healthy: bool) -> Arc<Endpoint> {
        let target = Target::Clear { address: SocketAddr::from(([10, 0, 0, 1], port)) };
        Arc::new(Endpoint { target, weight, workload: "".into(), namespace: "".into(), healthy })
    }

    fn ports<'a>(order: impl Iterator<Item = &'a Arc<Endpoint>>) -> Vec<u16> {
        order.filter_map(|e| if let Target::Clear { address } = &e.target { Some(address.port()) } else { None }).collect()
    }

    #[test]
    fn requests_go_round_and_the_next_in_line_is_tried_after_a_failure() {
        let endpoints = Endpoints::new(vec![(0, endpoint(1, 1, true)), (0, endpoint(2, 1, false)), (0, endpoint(3, 1, true))]);
        assert_eq!(ports(endpoints.order(0, 9)), [1, 3]);
        assert_eq!(ports(endpoints.order(1, 9)), [3, 1]);
        assert_eq!(ports(endpoints.order(2, 9)), [1, 3]);
        assert!(ports(Endpoints::default().order(7, 7)).is_empty());
    }

    #[test]
    fn a_later_priority_is_used_when_no_endpoint_before_it_is_healthy() {
        let endpoints = Endpoints::new(vec![(1, endpoint(3, 1, true)), (0, endpoint(1, 1, false)), (0, endpoint(2, 0, true))]);
        assert_eq!(ports(endpoints.order(0, 0)), [3]);
        assert_eq!(endpoints.ready(), 1);
    }

    #[test]
    fn weights_share_first_tries() {
        let endpoints = Endpoints::new(vec![(0, endpoint(1, 3, true)), (0, endpoint(2, 1, true))]);
        let firsts: Vec<_> = (0..4).map(|random| ports(endpoints.order(0, random))[0]).collect();
        assert_eq!(firsts, [1, 1, 1, 2]);
    }
}
