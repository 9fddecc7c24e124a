//! Every endpoint of a service with what is to be said of it, for people, for refusals, and as the slow way to check a choice by.

use std::{fmt, net::SocketAddr, sync::Arc, time::Instant};

use serde::Serialize;

use super::{
    Request,
    endpoint::{self, Reach},
    ranked,
};
use crate::{
    service::{LoadBalancing, Service},
    state::MeshState,
    workload::Workload,
};

/// An endpoint of a service, for one connection.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// The endpoint.
    pub workload: &'a Arc<Workload>,
    /// Where it would be reached, as far as that is known.
    pub address: Option<SocketAddr>,
    /// How many of the service's preferences it matches: the more the better.
    pub rank: usize,
    /// When a connect to it failed last, if it is rested because of that.
    pub failed: Option<Instant>,
    /// Whether it may be chosen.
    pub verdict: Verdict,
}

/// Whether an endpoint may be chosen for a connection, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It may.
    Usable,
    /// It may, once its host name is resolved.
    Named,
    /// It failed lately and is left alone; it may only if every other one is, too.
    Rested,
    /// It was tried for this connection.
    Tried,
    /// Its host name cannot be resolved.
    Unresolved,
    /// It is not ready.
    Unhealthy,
    /// Its share is 0.
    NoCapacity,
    /// It is in another network.
    OtherNetwork,
    /// It does not match every preference, and the service asks for that.
    TooFar,
    /// It has no address of a family that the client has, or does not serve the port.
    NoAddress,
}

impl Verdict {
    /// In words, after "is" or before a number.
    const fn text(self) -> &'static str {
        match self {
            Self::Usable => "usable",
            Self::Named => "not resolved yet",
            Self::Rested => "rested after failures",
            Self::Tried => "tried already",
            Self::Unresolved => "of a host name that does not resolve",
            Self::Unhealthy => "not ready",
            Self::NoCapacity => "without a share",
            Self::OtherNetwork => "in another network",
            Self::TooFar => "not near enough",
            Self::NoAddress => "without the port or an address in reach",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Every endpoint of `service` for the connection of `request`, in the order of their uids. Linear in the endpoints.
pub fn candidates<'a>(
    state: &'a MeshState,
    request: Request<'a>,
    service: &'a Service,
) -> impl Iterator<Item = Candidate<'a>> + use<'a> {
    on_port(state, request, service, None)
}

pub(super) fn on_port<'a>(
    state: &'a MeshState,
    request: Request<'a>,
    service: &'a Service,
    default_port: Option<u16>,
) -> impl Iterator<Item = Candidate<'a>> + use<'a> {
    state.endpoints(&service.key).map(move |workload| {
        let reach = endpoint::reach(workload, service, request, default_port);
        let failed = rested(workload, reach, request);
        let address = match reach {
            Reach::At(address) => Some(address),
            Reach::Name(_) | Reach::Failed | Reach::Nowhere => None,
        };
        let rank = ranked::rank(&service.load_balancing, request.source, workload);
        let verdict = verdict(workload, &service.load_balancing, request, rank, reach, failed.is_some());
        Candidate { workload, address, rank: rank.unwrap_or(0), failed, verdict }
    })
}

fn verdict(
    workload: &Workload,
    lb: &LoadBalancing,
    request: Request<'_>,
    rank: Option<usize>,
    reach: Reach,
    rested: bool,
) -> Verdict {
    if workload.capacity == 0 {
        Verdict::NoCapacity
    } else if !ranked::in_use(lb, workload) {
        Verdict::Unhealthy
    } else if workload.network != request.source.network {
        Verdict::OtherNetwork
    } else if rank.is_none() {
        Verdict::TooFar
    } else if request.avoid.contains(&workload.uid) {
        Verdict::Tried
    } else {
        match reach {
            Reach::Nowhere => Verdict::NoAddress,
            Reach::Failed => Verdict::Unresolved,
            Reach::Name(_) | Reach::At(_) if rested => Verdict::Rested,
            Reach::Name(_) => Verdict::Named,
            Reach::At(_) => Verdict::Usable,
        }
    }
}

/// When a connect to where the endpoint is reached failed last, if it is left alone because of that.
pub(super) fn rested(workload: &Workload, reach: Reach, request: Request<'_>) -> Option<Instant> {
    let port = match reach {
        Reach::At(address) => address.port(),
        Reach::Name(port) => port,
        Reach::Failed | Reach::Nowhere => return None,
    };
    request.observed.rested(&workload.uid, port)
}

/// Why no endpoint may be chosen, in words.
pub(super) fn none_usable(service: &Service, port: u16, candidates: &[Candidate<'_>]) -> String {
    if candidates.is_empty() {
        return format!("{} has no endpoint", service.key);
    }
    let why = counted(candidates.iter().map(|candidate| candidate.verdict).collect());
    format!("{} has no endpoint that may be used for port {port}: {why}", service.key)
}

/// How often each verdict was given.
pub(crate) fn counted(mut verdicts: Vec<Verdict>) -> String {
    verdicts.sort_unstable();
    let each = verdicts.chunk_by(|a, b| a == b).filter_map(|some| Some(format!("{} {}", some.len(), some.first()?)));
    each.collect::<Vec<_>>().join(", ")
}
