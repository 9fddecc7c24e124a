//! Which endpoints a request or connection may go to, in the order to try them.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ambit_identity::SpiffeId;
use ambit_model::{Reason, Refusal};

use crate::{
    compiled::{Cluster, Discovery, Endpoint, Protocol, ServiceInfo, Snapshot, Target},
    observe::Upstream,
};

/// How many endpoints are tried before a request is given up.
pub(crate) const TRIES: usize = 3;

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The address of the application.
    pub address: SocketAddr,
    /// The identity it must prove; in clear when there is none.
    pub identity: Option<SpiffeId>,
}

/// The endpoints to try.
#[derive(Debug)]
pub struct Candidates {
    /// The service they belong to.
    pub service: Option<ServiceInfo>,
    /// What is spoken to them.
    pub protocol: Protocol,
    /// The longest a connection may take to stand.
    pub connect_timeout: Duration,
    /// In this order.
    pub endpoints: Vec<(Destination, Upstream)>,
}

/// The endpoints of a cluster for one request or connection to `original`, whose filter chain names `identity` for direct
/// destinations.
///
/// # Errors
/// When there is none that may be used.
pub fn candidates(
    snapshot: &Snapshot,
    cluster: &Arc<Cluster>,
    original: SocketAddr,
    identity: Option<&SpiffeId>,
) -> Result<Candidates, Refusal> {
    in_turn(snapshot, cluster, original, identity, cluster.turn.fetch_add(1, Ordering::Relaxed))
}

/// The same for who comes at this turn. Looking at it takes nobody's turn.
///
/// # Errors
/// As [`candidates`].
pub(crate) fn in_turn(
    snapshot: &Snapshot,
    cluster: &Arc<Cluster>,
    original: SocketAddr,
    identity: Option<&SpiffeId>,
    turn: usize,
) -> Result<Candidates, Refusal> {
    if matches!(cluster.discovery, Discovery::OriginalDestination) {
        return Err(Refusal::new(Reason::BackendInvalid, format!("cluster {} is no place for requests", cluster.name)));
    }
    let endpoints = snapshot.endpoints_of(cluster).unwrap_or_default();
    let mut found = Vec::with_capacity(TRIES.min(endpoints.ready()));
    for endpoint in endpoints.order(turn, fastrand::u64(..)).take(TRIES) {
        found.push(resolve(endpoint, original, identity)?);
    }
    if found.is_empty() {
        return Err(Refusal::new(Reason::NoHealthyEndpoint, format!("cluster {}", cluster.name)));
    }
    Ok(Candidates {
        service: cluster.service.clone(),
        protocol: cluster.protocol,
        connect_timeout: cluster.connect_timeout,
        endpoints: found,
    })
}

/// Where this endpoint is reached, and what is logged of it.
pub(crate) fn resolve(
    endpoint: &Endpoint,
    original: SocketAddr,
    identity: Option<&SpiffeId>,
) -> Result<(Destination, Upstream), Refusal> {
    let destination = match &endpoint.target {
        Target::Hbone { address, identity } => Destination { address: *address, identity: Some(identity.clone()) },
        Target::Clear { address } => Destination { address: *address, identity: None },
        Target::OriginalDestination => match identity {
            Some(identity) => Destination { address: original, identity: Some(identity.clone()) },
            None => return Err(Refusal::new(Reason::BackendInvalid, "the filter chain names no identity for its destination")),
        },
        Target::Internal { listener } => {
            return Err(Refusal::new(
                Reason::BackendInvalid,
                format!("the internal listener {listener} is no place for requests"),
            ));
        }
    };
    let upstream = Upstream {
        address: destination.address,
        identity: destination.identity.clone(),
        workload: endpoint.workload.clone(),
        namespace: endpoint.namespace.clone(),
    };
    Ok((destination, upstream))
}
