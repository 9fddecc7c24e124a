//! Which endpoint of a service takes a connection: among those that may, the best rank; then by capacity, and of two the one with fewer
//! connections for its capacity; one that keeps failing only if they all do.

use std::{cmp::Reverse, net::SocketAddr, sync::Arc};

use super::{
    Name, Request,
    candidates::{self, Candidate, Verdict},
    ranked::Share,
};
use crate::{
    reason::{Reason, Refusal},
    service::Service,
    state::MeshState,
    workload::Workload,
};

/// So often one is picked that may turn out to be of no use, until all are looked at.
const PICKS: u32 = 4;

/// An endpoint and how to reach it.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) workload: Arc<Workload>,
    pub(super) at: At,
}

/// Where an endpoint is reached.
#[derive(Debug)]
pub(super) enum At {
    Address(SocketAddr),
    /// Not known before its host name is resolved.
    Name,
}

/// Chooses an endpoint for the service port in `request`.
///
/// # Errors
/// `service_port_unknown` when the service has no such port, `no_healthy_endpoint` when no endpoint may be used,
/// `destination_unresolved` when one could be if its host name resolved.
pub(super) fn choose(state: &MeshState, request: Request<'_>, service: &Service) -> Result<Chosen, Refusal> {
    if service.port(request.destination.port()).is_none() {
        let detail = format!("{} has no port {}", service.key, request.destination.port());
        return Err(Refusal::new(Reason::ServicePortUnknown, detail));
    }
    pick(state, request, service, None)
}

/// As [`choose`], for a port that the service need not declare; then it is the same at the endpoint.
///
/// # Errors
/// As [`choose`], without `service_port_unknown`.
pub(super) fn choose_any_port(state: &MeshState, request: Request<'_>, service: &Service) -> Result<Chosen, Refusal> {
    pick(state, request, service, Some(request.destination.port()))
}

fn pick(state: &MeshState, request: Request<'_>, service: &Service, default_port: Option<u16>) -> Result<Chosen, Refusal> {
    let use_of = |workload: &Workload| {
        count_look();
        let reach = reach(workload, service, request, default_port);
        let usable = !request.avoid.contains(&workload.uid) && candidates::rested(workload, reach, request).is_none();
        if usable { reach.at() } else { None }
    };
    let in_share = |share: Share<'_>| one_of(&share, request, &use_of);
    let ranked = state.ranked(service);
    if let Some(chosen) = ranked.and_then(|ranked| ranked.best(&service.load_balancing, request.source, in_share)) {
        return Ok(chosen);
    }
    let all: Vec<Candidate<'_>> = candidates::on_port(state, request, service, default_port).collect();
    all_rested(&all).ok_or_else(|| {
        let why = candidates::none_usable(service, request.destination.port(), &all);
        match all.iter().find(|candidate| candidate.verdict == Verdict::Unresolved) {
            Some(one) => Refusal::new(Reason::DestinationUnresolved, format!("{why} ({})", one.workload.hostname)),
            None => Refusal::new(Reason::NoHealthyEndpoint, why),
        }
    })
}

/// One of `share` by its capacity; of two that come up, the one with fewer connections for its capacity.
fn one_of(share: &Share<'_>, request: Request<'_>, use_of: &impl Fn(&Workload) -> Option<At>) -> Option<Chosen> {
    let mut random = request.random;
    let mut first: Option<(&Arc<Workload>, At)> = None;
    for _ in 0..PICKS {
        let picked = share.pick(random)?;
        random = further(random);
        if first.as_ref().is_some_and(|(first, _)| first.uid == picked.uid) {
            continue;
        }
        let Some(at) = use_of(picked) else { continue };
        let Some(other) = first.take() else {
            first = Some((picked, at));
            continue;
        };
        let chosen = if freer(request, picked, other.0) { (picked, at) } else { other };
        return Some(Chosen { workload: Arc::clone(chosen.0), at: chosen.1 });
    }
    let (workload, at) = first.or_else(|| one_of_all(share.all(), request.random, use_of))?;
    Some(Chosen { workload: Arc::clone(workload), at })
}

/// One of `all` that is of use, by its capacity, when those that came up were not.
fn one_of_all<'a>(
    all: &'a [Arc<Workload>],
    random: u64,
    use_of: &impl Fn(&Workload) -> Option<At>,
) -> Option<(&'a Arc<Workload>, At)> {
    let usable: Vec<_> = all.iter().filter_map(|workload| Some((workload, use_of(workload)?))).collect();
    let at = weighted(usable.iter().map(|(workload, _)| workload.capacity), random)?;
    usable.into_iter().nth(at)
}

/// Whether `a` carries fewer connections than `b` for its capacity.
fn freer(request: Request<'_>, a: &Workload, b: &Workload) -> bool {
    let open = |workload: &Workload| u64::from(request.observed.open(&workload.uid));
    open(a) * u64::from(b.capacity) < open(b) * u64::from(a.capacity)
}

/// When all are rested, the one whose failure is the longest ago; the nearest of those that failed together.
fn all_rested(candidates: &[Candidate<'_>]) -> Option<Chosen> {
    let rested = candidates.iter().filter(|candidate| candidate.verdict == Verdict::Rested);
    let longest = rested.min_by_key(|candidate| (candidate.failed, Reverse(candidate.rank)))?;
    let at = longest.address.map_or(At::Name, At::Address);
    Some(Chosen { workload: Arc::clone(longest.workload), at })
}

/// How an endpoint is reached.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reach {
    At(SocketAddr),
    /// At this port, once its host name is resolved.
    Name(u16),
    /// Its host name does not resolve.
    Failed,
    /// It does not serve the port, or has no address.
    Nowhere,
}

impl Reach {
    const fn at(self) -> Option<At> {
        match self {
            Self::At(address) => Some(At::Address(address)),
            Self::Name(_) => Some(At::Name),
            Self::Failed | Self::Nowhere => None,
        }
    }
}

/// Where the endpoint serves the port. The family that the client dialled is preferred; the other one will do if the client has it.
pub(super) fn reach(workload: &Workload, service: &Service, request: Request<'_>, default_port: Option<u16>) -> Reach {
    let Some(port) = target_port(workload, service, request.destination.port()).or(default_port) else { return Reach::Nowhere };
    let same_family = workload.addresses.iter().find(|ip| ip.is_ipv4() == request.destination.is_ipv4());
    let other_family = || workload.addresses.iter().find(|ip| request.source.has_family_of(ip));
    if let Some(ip) = same_family.or_else(other_family) {
        return Reach::At(SocketAddr::new(*ip, port));
    }
    if workload.hostname.is_empty() || !workload.addresses.is_empty() {
        return Reach::Nowhere;
    }
    match request.observed.resolved(&workload.hostname) {
        Name::Unknown => Reach::Name(port),
        Name::Failed => Reach::Failed,
        Name::Addresses(addresses) => {
            let same_family = || addresses.iter().filter(|ip| ip.is_ipv4() == request.destination.is_ipv4());
            let random = further(request.random);
            let ip = match weighted(same_family().map(|_| 1), random) {
                Some(at) => same_family().nth(at),
                None => weighted(addresses.iter().map(|_| 1), random).and_then(|at| addresses.get(at)),
            };
            ip.map_or(Reach::Failed, |ip| Reach::At(SocketAddr::new(*ip, port)))
        }
    }
}

/// The port at which the endpoint serves a port of the service: by its own list, else by the service's.
pub(crate) fn target_port(workload: &Workload, service: &Service, dialled: u16) -> Option<u16> {
    let known = |port: u16| (port != 0).then_some(port);
    let own = workload.services.get(&service.key).into_iter().flatten().find(|port| port.service_port == dialled);
    own.and_then(|port| known(port.target_port)).or_else(|| service.port(dialled).and_then(|port| known(port.target_port)))
}

/// The place of one of these weights with a probability proportional to it, by a random number; nothing when there is no weight.
pub(super) fn weighted(weights: impl Iterator<Item = u32> + Clone, random: u64) -> Option<usize> {
    let total: u64 = weights.clone().map(u64::from).sum();
    let mut point = super::ranked::scale(random, total)?;
    for (at, weight) in weights.enumerate() {
        let share = u64::from(weight);
        if point < share {
            return Some(at);
        }
        point -= share;
    }
    None
}

/// Another random number, which says nothing of the first: what is picked by one does not go together with what is picked by the other
/// (SplitMix64, Steele, Lea and Flood 2014).
pub(crate) const fn further(random: u64) -> u64 {
    let mut mixed = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
thread_local! {
    /// How many endpoints were looked at.
    pub(super) static LOOKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn count_look() {
    #[cfg(test)]
    LOOKS.with(|looks| looks.set(looks.get() + 1));
}
