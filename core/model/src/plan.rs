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

mod candidates;
mod endpoint;
mod observed;
mod ranked;
mod retry;
mod standing;
mod waypoint;

use endpoint::At;
pub(crate) use endpoint::{further, target_port};

pub(crate) use candidates::counted;
pub use candidates::{Candidate, Verdict, candidates};
pub use observed::{Name, Observed, Unobserved};
pub(crate) use ranked::Ranked;
pub use retry::Budget;
pub use standing::{FAILURES, FIRST_REST, LONGEST_REST, Standing};

/// What to do with an outbound connection.
#[derive(Debug, Clone)]
pub enum Plan {
    /// Carry it over HBONE.
    Hbone(Box<Hbone>),
    /// Connect in plain TCP.
    Passthrough(Box<Passthrough>),
    /// Resolve a host name, and decide again: by the same random number, with what the name stands for observed.
    Resolve(Box<Resolve>),
    /// Refuse it.
    Deny(Box<Denied>),
}

impl Plan {
    /// What the connection is for.
    #[must_use]
    pub fn target(&self) -> &Target {
        match self {
            Self::Hbone(plan) => &plan.target,
            Self::Passthrough(plan) => &plan.target,
            Self::Resolve(plan) => &plan.target,
            Self::Deny(plan) => &plan.target,
        }
    }

    /// The address to which the connection goes, as far as this decides it: of the pod, of the waypoint, or the one that was dialled.
    #[must_use]
    pub fn reached(&self) -> Option<SocketAddr> {
        match self {
            Self::Hbone(plan) if plan.hop == Hop::Waypoint => Some(plan.dial),
            Self::Hbone(plan) => Some(plan.authority),
            Self::Passthrough(plan) => Some(plan.dial),
            Self::Resolve(_) | Self::Deny(_) => None,
        }
    }

    /// The endpoint or waypoint to connect to, as it is known to the control plane, and its port.
    #[must_use]
    pub fn endpoint(&self) -> Option<(&Arc<Workload>, u16)> {
        let port = match self {
            Self::Hbone(plan) if plan.hop == Hop::Waypoint => plan.dial.port(),
            Self::Hbone(plan) => plan.authority.port(),
            Self::Passthrough(plan) => plan.dial.port(),
            Self::Resolve(_) | Self::Deny(_) => return None,
        };
        Some((self.target().workload.as_ref()?, port))
    }

    /// Whether another endpoint may be tried when connecting to this one ends in `reason`: it was chosen among others, and
    /// was [away](Plan::is_away).
    #[must_use]
    pub fn may_go_elsewhere(&self, reason: Reason) -> bool {
        self.is_chosen() && self.is_away(reason)
    }

    /// Whether the endpoint was chosen among others; else the client chose it.
    #[must_use]
    pub fn is_chosen(&self) -> bool {
        match self {
            Self::Hbone(plan) => plan.chosen,
            Self::Passthrough(plan) => plan.chosen,
            Self::Resolve(_) | Self::Deny(_) => false,
        }
    }

    /// Whether `reason`, in which connecting ended, says that the endpoint was away, as opposed to refusing.
    #[must_use]
    pub fn is_away(&self, reason: Reason) -> bool {
        retry::is_away(reason, if let Self::Hbone(plan) = self { Some(plan.hop) } else { None })
    }
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
    /// Whether it was chosen among others, one of which may be tried when it is away; else the client chose it.
    pub chosen: bool,
    /// What the connection is for.
    pub target: Target,
}

/// Connect in plain TCP.
#[derive(Debug, Clone)]
pub struct Passthrough {
    /// What to connect to: an endpoint without tunnel, or the address as the client dialled it.
    pub dial: SocketAddr,
    /// Whether it was chosen among others, one of which may be tried when it is away; else the client chose it.
    pub chosen: bool,
    /// What the connection is for.
    pub target: Target,
}

/// Resolve the host name of an endpoint.
#[derive(Debug, Clone)]
pub struct Resolve {
    /// The name.
    pub hostname: Arc<str>,
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
    /// What this proxy has itself seen of endpoints.
    pub observed: &'a dyn Observed,
}

/// Decides where a connection goes.
#[must_use]
pub fn plan(state: &MeshState, request: Request<'_>) -> Plan {
    let destination = SocketAddr::new(request.destination.ip().to_canonical(), request.destination.port());
    let request = Request { destination, ..request };
    if loops(request.source, destination) {
        return deny(Reason::LoopGuard, destination.to_string(), Target::default());
    }
    let address = NetworkAddress::new(request.source.network.clone(), destination.ip());
    let mut target = Target { service: state.service_for(&request.source.namespace, &address).cloned(), workload: None };
    let planned = match target.service.clone() {
        Some(service) => to_service(state, request, &service, &mut target),
        None => match state.workload_at(&address).cloned() {
            Some(workload) => to_workload(state, request, &workload, &mut target),
            None if let Some(name) = state.unreadable_at(&address) => {
                let detail = format!("{destination} is of {name}, which was delivered in a form this proxy cannot read");
                return deny(Reason::ConfigurationInvalid, detail, target);
            }
            None => match vacant(state, request, &address) {
                Some(refusal) => Err(refusal),
                None => return as_dialled(request, target),
            },
        },
    };
    planned.unwrap_or_else(|refusal| Plan::Deny(Box::new(Denied { refusal, target })))
}

fn deny(reason: Reason, detail: String, target: Target) -> Plan {
    Plan::Deny(Box::new(Denied { refusal: Refusal::new(reason, detail), target }))
}

/// On to the address that the client dialled, in plain text.
fn as_dialled(request: Request<'_>, target: Target) -> Plan {
    Plan::Passthrough(Box::new(Passthrough { dial: request.destination, chosen: false, target }))
}

/// Why nothing goes to an address of which the control plane says nothing: a pod of the mesh had it a moment ago. The next who gets it is
/// told of after it has begun to answer, and would be reached in clear.
fn vacant(state: &MeshState, request: Request<'_>, address: &NetworkAddress) -> Option<Refusal> {
    let vacant = request.observed.now().is_some_and(|now| state.is_vacant(address, now));
    let detail = || format!("a pod of the mesh has left {} a moment ago; whose it is now is not known yet", address.ip);
    vacant.then(|| Refusal::new(Reason::DestinationUnknown, detail()))
}

fn to_service(state: &MeshState, request: Request<'_>, service: &Service, target: &mut Target) -> Result<Plan, Refusal> {
    // Each of a service's waypoints goes on by itself: through another one it would come back.
    if !service.waypoints.iter().any(|weighted| waypoint::is_caller(state, &weighted.waypoint, request.source))
        && let Some(plan) = waypoint::for_service(state, request, service, target)?
    {
        return Ok(plan);
    }
    if service.load_balancing.mode == Mode::Passthrough {
        let address = NetworkAddress::new(request.source.network.clone(), request.destination.ip());
        return match state.workload_at(&address).cloned() {
            // The address is a pod's all the same, and it may take nothing in plain text.
            Some(workload) => to_workload(state, request, &workload, target),
            None => vacant(state, request, &address).map_or_else(|| Ok(as_dialled(request, target.clone())), Err),
        };
    }
    let chosen = endpoint::choose(state, request, service)?;
    target.workload = Some(Arc::clone(&chosen.workload));
    match chosen.at {
        At::Address(address) if chosen.workload.addresses.is_empty() => {
            to_resolved(state, request, service, (&chosen.workload, address), target)
        }
        At::Address(address) => Ok(direct(&chosen.workload, address, &service.subject_alt_names, true, target)),
        At::Name => Ok(resolve(&chosen.workload, target)),
    }
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
    Ok(direct(workload, request.destination, &[], false, target))
}

/// To what the host name of an endpoint stands for, which is not the mesh's to say: it leads neither to the proxy itself, nor around what a
/// pod of the mesh asks of those who come.
fn to_resolved(
    state: &MeshState,
    request: Request<'_>,
    service: &Service,
    (named, address): (&Arc<Workload>, SocketAddr),
    target: &mut Target,
) -> Result<Plan, Refusal> {
    let refused = |reason, what: &str| Err(Refusal::new(reason, format!("{} resolves to {address}{what}", named.hostname)));
    if loops(request.source, address) {
        return refused(Reason::LoopGuard, "");
    }
    let at = NetworkAddress::new(request.source.network.clone(), address.ip());
    if state.service_at(&at).is_some() {
        return refused(Reason::LoopGuard, ", which is a service of the mesh");
    }
    match state.workload_at(&at).cloned() {
        Some(workload) => to_workload(state, Request { destination: address, ..request }, &workload, target),
        None if state.unreadable_at(&at).is_some() => {
            refused(Reason::ConfigurationInvalid, ", which is of something that this proxy cannot read")
        }
        None => Ok(direct(named, address, &service.subject_alt_names, true, target)),
    }
}

/// Whether the proxy would dial itself.
fn loops(source: &Workload, address: SocketAddr) -> bool {
    port::is_proxy(address.port()) && (address.ip().is_loopback() || source.addresses.contains(&address.ip()))
}

fn resolve(workload: &Workload, target: &Target) -> Plan {
    Plan::Resolve(Box::new(Resolve { hostname: Arc::clone(&workload.hostname), target: target.clone() }))
}

fn direct(workload: &Arc<Workload>, address: SocketAddr, also: &[SpiffeId], chosen: bool, target: &mut Target) -> Plan {
    target.workload = Some(Arc::clone(workload));
    let target = target.clone();
    match workload.tunnel {
        Tunnel::None => Plan::Passthrough(Box::new(Passthrough { dial: address, chosen, target })),
        Tunnel::Hbone => Plan::Hbone(Box::new(Hbone {
            dial: SocketAddr::new(address.ip(), port::HBONE),
            authority: address,
            expected: expected(workload, also),
            hop: Hop::Endpoint,
            chosen,
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
