//! Which endpoints a request or connection may go to, in the order to try them.

use std::{
    hash::{Hash, Hasher},
    net::SocketAddr,
    sync::Arc,
};

use ambit_identity::SpiffeId;
use ambit_model::{
    Reason, Refusal,
    route::{Claim, Session},
};

use super::{Aim, Host, Place};
use crate::{
    compiled::{Cluster, Discovery, Endpoint, Protocol, ServiceInfo, Target},
    observe::Upstream,
};

/// How many endpoints are tried before a request is given up.
pub(crate) const TRIES: usize = 3;

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The address of the application.
    pub address: SocketAddr,
    /// The identity it must prove; in clear when there is none.
    pub identity: Option<SpiffeId>,
}

impl Hash for Destination {
    /// Of the address alone: hardly ever do two of them share one.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address.hash(state);
    }
}

/// An endpoint to try.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Where it is.
    pub to: Destination,
    /// What the record says of it.
    pub upstream: Arc<Upstream>,
    /// What goes on at it.
    pub host: Arc<Host>,
}

/// The endpoints to try.
#[derive(Debug)]
pub struct Candidates {
    /// The cluster they belong to.
    pub cluster: Arc<Cluster>,
    /// The service they belong to.
    pub service: Option<Arc<ServiceInfo>>,
    /// What is spoken to them.
    pub protocol: Protocol,
    /// In this order.
    pub endpoints: Vec<Arc<Candidate>>,
}

/// The endpoints of a cluster for one request or connection to `original`, whose filter chain names `identity` for direct
/// destinations.
///
/// # Errors
/// When there is none that may be used.
pub fn candidates(cluster: &Arc<Cluster>, original: SocketAddr, identity: Option<&SpiffeId>) -> Result<Candidates, Refusal> {
    for_request(cluster, original, identity, Wish::default())
}

/// What a request says of the endpoint that it is for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// Its session, and what it says of it.
    pub session: Option<(&'a Session, Claim)>,
    /// Its hash.
    pub hash: Option<u64>,
    /// The endpoints that have failed at it before.
    pub failed: &'a [SocketAddr],
}

/// The same for a request that may be one of a session: the endpoint that it goes on with, or that its hash leads to, then others.
///
/// # Errors
/// When there is none that may be used, or only others than the session asks for.
pub fn for_request(
    cluster: &Arc<Cluster>,
    original: SocketAddr,
    identity: Option<&SpiffeId>,
    Wish { session, hash, failed }: Wish<'_>,
) -> Result<Candidates, Refusal> {
    takes_requests(cluster)?;
    let first = session.map(|(session, claim)| goes_on(cluster, session, claim)).transpose()?.flatten();
    let alone = first.is_some() && session.is_some_and(|(session, _)| session.strict);
    let most = if alone { 1 } else { TRIES };
    let endpoints = cluster
        .live
        .choose_for(Aim { first: first.as_ref(), hash, failed }, cluster, most, |place| resolve(place, original, identity))?;
    if endpoints.is_empty() {
        return Err(none_usable(cluster));
    }
    Ok(Candidates { cluster: cluster.clone(), service: cluster.service.clone(), protocol: cluster.protocol, endpoints })
}

/// The endpoint that a session goes on with; `None` where any will do.
///
/// # Errors
/// When it takes no requests, and no other will do.
pub(crate) fn goes_on(cluster: &Cluster, session: &Session, claim: Claim) -> Result<Option<Place>, Refusal> {
    // One that was ejected may be back.
    cluster.live.look(cluster);
    let found = match claim {
        Claim::Nothing => return Ok(None),
        Claim::Endpoint(name) => cluster.live.named(name),
        Claim::Nonsense => None,
    };
    if found.is_none() && session.strict {
        let text = format!("cluster {} has not the endpoint that {} says", cluster.name, session.in_words());
        return Err(Refusal::new(Reason::NoHealthyEndpoint, text));
    }
    Ok(found)
}

/// Why nothing is sent to a cluster of whose endpoints none may be used.
pub(crate) fn none_usable(cluster: &Cluster) -> Refusal {
    Refusal::new(Reason::NoHealthyEndpoint, format!("cluster {}", cluster.name))
}

/// Whether a cluster is one of endpoints for requests.
///
/// # Errors
/// When it is not.
pub(crate) fn takes_requests(cluster: &Cluster) -> Result<(), Refusal> {
    match cluster.discovery {
        Discovery::OriginalDestination => {
            Err(Refusal::new(Reason::BackendInvalid, format!("cluster {} is no place for requests", cluster.name)))
        }
        Discovery::Eds(_) | Discovery::Static(_) => Ok(()),
    }
}

fn resolve(place: &Place, original: SocketAddr, identity: Option<&SpiffeId>) -> Result<Arc<Candidate>, Refusal> {
    // An endpoint with an address of its own is the same for all requests.
    if let Some(known) = place.candidate.get() {
        return Ok(known.clone());
    }
    let made = Arc::new(candidate(place, destination(&place.endpoint, original, identity)?));
    match place.endpoint.target {
        Target::Hbone { .. } | Target::Clear { .. } => Ok(place.candidate.get_or_init(|| made).clone()),
        Target::OriginalDestination | Target::Internal { .. } => Ok(made),
    }
}

fn candidate(Place { endpoint, host, .. }: &Place, to: Destination) -> Candidate {
    let upstream = Upstream::new(to.address, to.identity.clone(), endpoint.workload.clone(), endpoint.namespace.clone());
    Candidate { to, upstream: Arc::new(upstream), host: host.clone() }
}

/// Where an endpoint is reached that has an address of its own.
pub(crate) fn destination_of(target: &Target) -> Option<Destination> {
    match target {
        Target::Hbone { address, identity } => Some(Destination { address: *address, identity: Some(identity.clone()) }),
        Target::Clear { address } => Some(Destination { address: *address, identity: None }),
        Target::OriginalDestination | Target::Internal { .. } => None,
    }
}

/// Where this endpoint is reached.
///
/// # Errors
/// When it is no place for requests.
pub(crate) fn destination(
    endpoint: &Endpoint,
    original: SocketAddr,
    identity: Option<&SpiffeId>,
) -> Result<Destination, Refusal> {
    Ok(match &endpoint.target {
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
    })
}
