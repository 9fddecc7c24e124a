//! The waypoint of a destination: which one, whether the caller is it, and how it is reached. It is never gone around.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use ambit_identity::SpiffeId;

use super::{
    Hbone, Hop, Plan, Request, Target,
    endpoint::{self, At, Chosen},
    expected, resolve,
};
use crate::{
    address::{GatewayAddress, GatewayDestination},
    reason::{Reason, Refusal},
    service::{Service, WeightedWaypoint},
    state::MeshState,
    workload::Workload,
};

/// The way through one of the waypoints of `service`, by their weights; nothing when it has none. When the one that comes up is away, or its
/// replicas are rested after failures, it is another one that takes a share: what goes through any of them is not gone around. When all
/// are rested it is the one whose failure is the longest ago, as among endpoints.
///
/// # Errors
/// `waypoint_missing` when none takes a share, else why the first one that came up cannot be used.
pub(super) fn for_service(
    state: &MeshState,
    request: Request<'_>,
    service: &Service,
    target: &mut Target,
) -> Result<Option<Plan>, Refusal> {
    if service.waypoints.is_empty() {
        return Ok(None);
    }
    let (mut random, mut refusal, mut rested) = (request.random, None, None);
    let mut away: Vec<usize> = Vec::new();
    let share = |away: &[usize], (at, weighted): (usize, &WeightedWaypoint)| if away.contains(&at) { 0 } else { weighted.weight };
    while let Some(at) = endpoint::weighted(service.waypoints.iter().enumerate().map(|each| share(&away, each)), random) {
        let Some(weighted) = service.waypoints.get(at) else { break };
        random = endpoint::further(random);
        // A replica is picked by another number than the waypoint, or of each waypoint some replicas would never come up.
        match through(state, Request { random, ..request }, &weighted.waypoint, target) {
            Ok(plan) => match rested_since(&plan, request) {
                None => return Ok(Some(plan)),
                Some(since) if rested.as_ref().is_none_or(|(before, _)| since < *before) => rested = Some((since, plan)),
                Some(_) => {}
            },
            Err(error) => refusal = refusal.or(Some(error)),
        }
        away.push(at);
    }
    if let Some((_, plan)) = rested {
        return Ok(Some(plan));
    }
    let no_share = || Refusal::new(Reason::WaypointMissing, format!("every waypoint of {} has weight 0", service.key));
    Err(refusal.unwrap_or_else(no_share))
}

/// When a connect to where `plan` goes failed last, if that is rested because of it.
fn rested_since(plan: &Plan, request: Request<'_>) -> Option<Instant> {
    let (workload, port) = plan.endpoint()?;
    request.observed.rested(&workload.uid, port)
}

/// Whether `source` is a replica of `waypoint`.
pub(super) fn is_caller(state: &MeshState, waypoint: &GatewayAddress, source: &Workload) -> bool {
    let replica = |service: &Service| source.services.contains_key(&service.key);
    match &waypoint.destination {
        GatewayDestination::Service(key) => source.services.contains_key(key),
        GatewayDestination::Address(address) => {
            (address.network == source.network && source.addresses.contains(&address.ip))
                || state.service_at(address).is_some_and(|service| replica(service))
        }
    }
}

/// Sends the connection to a replica of `waypoint`, which is told the address that the client dialled.
///
/// # Errors
/// `waypoint_missing` when the waypoint is not known, `waypoint_unreachable` when it has no replica that may be used.
pub(super) fn through(
    state: &MeshState,
    request: Request<'_>,
    waypoint: &GatewayAddress,
    target: &mut Target,
) -> Result<Plan, Refusal> {
    let missing = || Refusal::new(Reason::WaypointMissing, waypoint.to_string());
    let (chosen, also) = match &waypoint.destination {
        GatewayDestination::Service(key) => replica(state, request, state.service(key).ok_or_else(missing)?, waypoint)?,
        GatewayDestination::Address(address) => match (state.service_at(address), state.workload_at(address)) {
            (Some(service), _) => replica(state, request, service, waypoint)?,
            (None, Some(workload)) if request.avoid.contains(&workload.uid) => {
                return Err(Refusal::new(Reason::WaypointUnreachable, format!("{waypoint}: tried already")));
            }
            (None, Some(workload)) => {
                let nowhere = || format!("{waypoint}: it has no address of a family that the client has");
                let ip = in_reach(request.source, workload, address.ip);
                let ip = ip.ok_or_else(|| Refusal::new(Reason::WaypointUnreachable, nowhere()))?;
                let at = At::Address(SocketAddr::new(ip, waypoint.port));
                (Chosen { workload: Arc::clone(workload), at }, Vec::new())
            }
            (None, None) => return Err(missing()),
        },
    };
    let workload = chosen.workload;
    target.workload = Some(Arc::clone(&workload));
    let At::Address(dial) = chosen.at else { return Ok(resolve(&workload, target)) };
    Ok(Plan::Hbone(Box::new(Hbone {
        dial,
        authority: request.destination,
        expected: expected(&workload, &also),
        hop: Hop::Waypoint,
        chosen: true,
        target: target.clone(),
    })))
}

/// The address at which `source` reaches the waypoint that is named by one of its addresses: that one, or another if the client has no address
/// of its family.
fn in_reach(source: &Workload, waypoint: &Workload, named: IpAddr) -> Option<IpAddr> {
    std::iter::once(&named).chain(&waypoint.addresses).find(|ip| source.has_family_of(ip)).copied()
}

fn replica(
    state: &MeshState,
    request: Request<'_>,
    service: &Service,
    waypoint: &GatewayAddress,
) -> Result<(Chosen, Vec<SpiffeId>), Refusal> {
    let destination = SocketAddr::new(request.destination.ip(), waypoint.port);
    let chosen = endpoint::choose_any_port(state, Request { destination, ..request }, service)
        .map_err(|refusal| Refusal::new(Reason::WaypointUnreachable, format!("{waypoint}: {}", refusal.detail)))?;
    Ok((chosen, service.subject_alt_names.clone()))
}
