//! Where an outbound connection goes (wire contract, section 4): a service's waypoint, then one of its endpoints; a pod's waypoint,
//! then the pod, through HBONE or as it is; what is not known passes through.

use std::{net::SocketAddr, sync::Arc};

use ambit_identity::SpiffeId;

use crate::{
    address::{NetworkAddress, port},
    reason::{Reason, Refusal},
    service::{Mode, Service},
    state::MeshState,
    workload::{Tunnel, Uid, Workload},
};

mod endpoint;
mod waypoint;

/// What to do with an outbound connection.
#[derive(Debug, Clone)]
pub enum Plan {
    /// Carry it over HBONE.
    Hbone(Box<Hbone>),
    /// Connect in plain TCP.
    Passthrough(Box<Passthrough>),
    /// Refuse it.
    Deny(Box<Denied>),
}

/// Carry a connection over HBONE.
#[derive(Debug, Clone)]
pub struct Hbone {
    /// The HBONE listener to dial.
    pub dial: SocketAddr,
    /// The authority of the CONNECT: the virtual address for a waypoint, the address of the pod otherwise.
    pub authority: SocketAddr,
    /// Who may answer the dial; one of them must.
    pub expected: Vec<SpiffeId>,
    /// What answers the dial.
    pub hop: Hop,
    /// What the connection is for.
    pub target: Target,
}

/// Connect in plain TCP.
#[derive(Debug, Clone)]
pub struct Passthrough {
    /// What to connect to: an endpoint without tunnel, or the address as the client dialled it.
    pub dial: SocketAddr,
    /// What the connection is for.
    pub target: Target,
}

/// Refuse a connection.
#[derive(Debug, Clone)]
pub struct Denied {
    /// Why.
    pub refusal: Refusal,
    /// What the connection was for.
    pub target: Target,
}

/// What answers a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// A waypoint, which goes on to the destination by itself.
    Waypoint,
    /// The destination.
    Endpoint,
}

/// What a connection is for, as far as is known: the labels of logs and metrics.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// The workload that is dialled: the endpoint, or the waypoint before it.
    pub workload: Option<Arc<Workload>>,
    /// The service whose virtual address the client dialled.
    pub service: Option<Arc<Service>>,
}

/// What [`plan`] decides by.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The workload that opens the connection.
    pub source: &'a Workload,
    /// The address it dialled.
    pub destination: SocketAddr,
    /// A random number, by which one of several equals is picked.
    pub random: u64,
    /// Endpoints and waypoints that were tried for this connection and did not answer.
    pub avoid: &'a [Uid],
}

/// Decides where a connection goes.
#[must_use]
pub fn plan(state: &MeshState, request: Request<'_>) -> Plan {
    let destination = SocketAddr::new(request.destination.ip().to_canonical(), request.destination.port());
    let request = Request { destination, ..request };
    if port::is_proxy(destination.port())
        && (destination.ip().is_loopback() || request.source.addresses.contains(&destination.ip()))
    {
        return deny(Reason::LoopGuard, destination.to_string(), Target::default());
    }
    let address = NetworkAddress::new(request.source.network.clone(), destination.ip());
    let mut target = Target { service: state.service_at(&address).cloned(), workload: None };
    let planned = match target.service.clone() {
        Some(service) => to_service(state, request, &service, &mut target),
        None => match state.workload_at(&address).cloned() {
            Some(workload) => to_workload(state, request, &workload, &mut target),
            None if let Some(name) = state.unreadable_at(&address) => {
                let detail = format!("{destination} is of {name}, which was delivered in a form this proxy cannot read");
                return deny(Reason::ConfigurationInvalid, detail, target);
            }
            None => return Plan::Passthrough(Box::new(Passthrough { dial: destination, target })),
        },
    };
    planned.unwrap_or_else(|refusal| Plan::Deny(Box::new(Denied { refusal, target })))
}

fn deny(reason: Reason, detail: String, target: Target) -> Plan {
    Plan::Deny(Box::new(Denied { refusal: Refusal::new(reason, detail), target }))
}

fn to_service(state: &MeshState, request: Request<'_>, service: &Service, target: &mut Target) -> Result<Plan, Refusal> {
    if let Some(waypoint) = waypoint::for_service(service, request.random)?
        && !waypoint::is_caller(state, waypoint, request.source)
    {
        return waypoint::through(state, request, waypoint, target);
    }
    if service.load_balancing.mode == Mode::Passthrough {
        return Ok(Plan::Passthrough(Box::new(Passthrough { dial: request.destination, target: target.clone() })));
    }
    let chosen = endpoint::choose(state, request, service)?;
    Ok(direct(&chosen.workload, chosen.address, &service.subject_alt_names, target))
}

fn to_workload(state: &MeshState, request: Request<'_>, workload: &Arc<Workload>, target: &mut Target) -> Result<Plan, Refusal> {
    if let Some(waypoint) = &workload.waypoint
        && !waypoint::is_caller(state, waypoint, request.source)
    {
        return waypoint::through(state, request, waypoint, target);
    }
    if workload.network != request.source.network {
        let detail = format!("{} is in the network {:?}", workload.uid, workload.network.to_string());
        return Err(Refusal::new(Reason::NetworkGatewayMissing, detail));
    }
    Ok(direct(workload, request.destination, &[], target))
}

fn direct(workload: &Arc<Workload>, address: SocketAddr, also: &[SpiffeId], target: &mut Target) -> Plan {
    target.workload = Some(Arc::clone(workload));
    let target = target.clone();
    match workload.tunnel {
        Tunnel::None => Plan::Passthrough(Box::new(Passthrough { dial: address, target })),
        Tunnel::Hbone => Plan::Hbone(Box::new(Hbone {
            dial: SocketAddr::new(address.ip(), port::HBONE),
            authority: address,
            expected: expected(workload, also),
            hop: Hop::Endpoint,
            target,
        })),
    }
}

/// The workload's identity, and those that the service lends it.
fn expected(workload: &Workload, also: &[SpiffeId]) -> Vec<SpiffeId> {
    let mut expected = vec![workload.identity.clone()];
    for id in also {
        if !expected.contains(id) {
            expected.push(id.clone());
        }
    }
    expected
}

#[cfg(test)]
mod contract;
#[cfg(test)]
mod tests;
