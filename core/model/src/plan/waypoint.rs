//! The waypoint of a destination: which one, whether the caller is it, and how it is reached. It is never gone around.

use std::{net::SocketAddr, sync::Arc};

use super::{Hbone, Hop, Plan, Request, Target, endpoint, expected};
use crate::{
    address::{GatewayAddress, GatewayDestination},
    reason::{Reason, Refusal},
    service::Service,
    state::MeshState,
    workload::Workload,
};

/// The waypoint that this connection to `service` passes, when it has any.
///
/// # Errors
/// When the service has waypoints and none of them takes a share.
pub(super) fn for_service(service: &Service, random: u64) -> Result<Option<&GatewayAddress>, Refusal> {
    if service.waypoints.is_empty() {
        return Ok(None);
    }
    match endpoint::weighted(service.waypoints.iter(), |waypoint| waypoint.weight, random) {
        Some(waypoint) => Ok(Some(&waypoint.waypoint)),
        None => Err(Refusal::new(Reason::WaypointMissing, format!("every waypoint of {} has weight 0", service.key))),
    }
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
/// `waypoint_missing` when the waypoint is not known, `waypoint_unreachable` when it has no healthy replica.
pub(super) fn through(
    state: &MeshState,
    request: Request<'_>,
    waypoint: &GatewayAddress,
    target: &mut Target,
) -> Result<Plan, Refusal> {
    let missing = || Refusal::new(Reason::WaypointMissing, waypoint.to_string());
    let (workload, dial, also) = match &waypoint.destination {
        GatewayDestination::Service(key) => replica(state, request, state.service(key).ok_or_else(missing)?, waypoint)?,
        GatewayDestination::Address(address) => match (state.service_at(address), state.workload_at(address)) {
            (Some(service), _) => replica(state, request, service, waypoint)?,
            (None, Some(workload)) => (Arc::clone(workload), SocketAddr::new(address.ip, waypoint.port), Vec::new()),
            (None, None) => return Err(missing()),
        },
    };
    let expected = expected(&workload, &also);
    target.workload = Some(workload);
    Ok(Plan::Hbone(Box::new(Hbone {
        dial,
        authority: request.destination,
        expected,
        hop: Hop::Waypoint,
        target: target.clone(),
    })))
}

type Replica = (Arc<Workload>, SocketAddr, Vec<ambit_identity::SpiffeId>);

fn replica(state: &MeshState, request: Request<'_>, service: &Service, waypoint: &GatewayAddress) -> Result<Replica, Refusal> {
    let destination = SocketAddr::new(request.destination.ip(), waypoint.port);
    let chosen = endpoint::choose_any_port(state, Request { destination, ..request }, service)
        .map_err(|refusal| Refusal::new(Reason::WaypointUnreachable, format!("{waypoint}: {}", refusal.detail)))?;
    Ok((chosen.workload, chosen.address, service.subject_alt_names.clone()))
}
