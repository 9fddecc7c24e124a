//! Which endpoint of a service takes a connection: among the healthy ones, the best rank, then by capacity.

use std::{net::SocketAddr, sync::Arc};

use super::Request;
use crate::{
    reason::{Reason, Refusal},
    service::{LoadBalancing, Mode, Scope, Service},
    state::MeshState,
    workload::Workload,
};

/// An endpoint and the address to reach it at.
pub(super) struct Chosen {
    pub(super) workload: Arc<Workload>,
    pub(super) address: SocketAddr,
}

/// Chooses an endpoint for the service port in `request`.
///
/// # Errors
/// `service_port_unknown` when the service has no such port, `no_healthy_endpoint` when no endpoint may be used.
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
/// `no_healthy_endpoint` when no endpoint may be used.
pub(super) fn choose_any_port(state: &MeshState, request: Request<'_>, service: &Service) -> Result<Chosen, Refusal> {
    pick(state, request, service, Some(request.destination.port()))
}

fn pick(state: &MeshState, request: Request<'_>, service: &Service, default_port: Option<u16>) -> Result<Chosen, Refusal> {
    let lb = &service.load_balancing;
    let mut known = 0_usize;
    let mut best_rank = 0;
    let mut best: Vec<(&Arc<Workload>, SocketAddr)> = Vec::new();
    for workload in state.endpoints(&service.key) {
        known += 1;
        let usable = (workload.healthy || lb.allow_unhealthy)
            && workload.capacity > 0
            && workload.network == request.source.network
            && !request.avoid.contains(&workload.uid);
        let Some(address) = usable.then(|| address(workload, service, request, default_port)).flatten() else { continue };
        let Some(rank) = rank(lb, request.source, workload) else { continue };
        if rank > best_rank {
            best_rank = rank;
            best.clear();
        }
        if rank == best_rank {
            best.push((workload, address));
        }
    }
    match weighted(best.iter(), |(workload, _)| workload.capacity, request.random) {
        Some((workload, address)) => Ok(Chosen { workload: Arc::clone(workload), address: *address }),
        None => {
            let detail =
                format!("{} has {known} endpoints, none of them usable for port {}", service.key, request.destination.port());
            Err(Refusal::new(Reason::NoHealthyEndpoint, detail))
        }
    }
}

/// Where the endpoint serves the port: by its own list, else by the service's. The client's address family is preferred.
fn address(workload: &Workload, service: &Service, request: Request<'_>, default_port: Option<u16>) -> Option<SocketAddr> {
    let dialled = request.destination.port();
    let own = workload.services.get(&service.key).into_iter().flatten().find(|port| port.service_port == dialled);
    let port = own
        .or_else(|| service.port(dialled))
        .map(|port| port.target_port)
        .filter(|port| *port != 0)
        .or_else(|| service.port(dialled).map(|port| port.target_port).filter(|port| *port != 0))
        .or(default_port)?;
    let same_family = workload.addresses.iter().find(|ip| ip.is_ipv4() == request.destination.is_ipv4());
    let ip = same_family.or_else(|| workload.addresses.first())?;
    Some(SocketAddr::new(*ip, port))
}

/// How many preferences the endpoint matches, in order; nothing when it may not be used at all.
fn rank(lb: &LoadBalancing, source: &Workload, endpoint: &Workload) -> Option<usize> {
    let matched = lb.preferences.iter().take_while(|scope| same(**scope, source, endpoint)).count();
    match lb.mode {
        Mode::Any | Mode::Passthrough => Some(0),
        Mode::Failover => Some(matched),
        Mode::Strict => (matched == lb.preferences.len()).then_some(matched),
    }
}

fn same(scope: Scope, a: &Workload, b: &Workload) -> bool {
    match scope {
        Scope::Region => a.locality.region == b.locality.region,
        Scope::Zone => a.locality.zone == b.locality.zone,
        Scope::Subzone => a.locality.subzone == b.locality.subzone,
        Scope::Node => a.node == b.node,
        Scope::Cluster => a.cluster == b.cluster,
        Scope::Network => a.network == b.network,
    }
}

/// One of `items` with a probability proportional to its weight, by a random number; nothing when no item has weight.
pub(super) fn weighted<'a, T>(
    items: impl Iterator<Item = &'a T> + Clone,
    weight: impl Fn(&T) -> u32,
    random: u64,
) -> Option<&'a T> {
    let total: u64 = items.clone().map(|item| u64::from(weight(item))).sum();
    if total == 0 {
        return None;
    }
    // The high bits of a product spread evenly over the total (Lemire 2019), without the cost or the bias of a division.
    let mut point = u64::try_from((u128::from(random) * u128::from(total)) >> 64).unwrap_or(0);
    for item in items {
        let share = u64::from(weight(item));
        if point < share {
            return Some(item);
        }
        point -= share;
    }
    None
}
