//! The side of the server: what its proxy decides about a tunnel or about plain text.

use std::net::{IpAddr, SocketAddr};

use super::{Capture, Stage, Step, Surroundings, leaving::is_tunnel_port, name::full_name, policies};
use crate::{
    address::NetworkAddress,
    admit::{Target, admit_plaintext},
    arrive::{Captured, destination_unknown, tunnelled},
    authorize::Connection,
    plan::{Hbone, target_port},
    reason::{Reason, Refusal},
    state::MeshState,
    workload::{Tunnel, Workload},
};

/// How many endpoints beyond a waypoint are looked at.
const BEYOND: usize = 64;

/// The address of `source` that a connection to `to` comes from.
pub(super) fn source_ip(source: &Workload, to: IpAddr) -> IpAddr {
    let same_family = source.addresses.iter().find(|ip| ip.is_ipv4() == to.is_ipv4());
    same_family.or_else(|| source.addresses.first()).copied().unwrap_or(to)
}

/// What the proxy of `workload` decides about a tunnel of `source` that asks for `authority`.
pub(super) fn through_a_tunnel(
    state: &MeshState,
    around: &dyn Surroundings,
    source: &Workload,
    from: IpAddr,
    workload: &Workload,
    authority: SocketAddr,
) -> Vec<Step> {
    decided(state, around, workload, Stage::Policy, || {
        let admitted = tunnelled(workload, &Target::Address(authority));
        admitted.map(|admitted| Connection {
            source: Some(source.identity.clone()),
            source_ip: from,
            destination: admitted.destination,
        })
    })
}

/// What is decided about plain text of `source` to `dial`.
pub(super) fn in_plain_text(state: &MeshState, around: &dyn Surroundings, source: &Workload, dial: SocketAddr) -> Vec<Step> {
    let address = NetworkAddress::new(source.network.clone(), dial.ip());
    let Some(workload) = state.workload_at(&address) else {
        return vec![
            Step::new(Stage::Admission, format!("{dial} is outside the mesh")).because("nothing of the mesh decides there"),
        ];
    };
    let name = full_name(workload);
    let served = || matches!(around.capture(workload), Capture::Served(_));
    if workload.host_network || workload.tunnel == Tunnel::None && !served() {
        return vec![
            Step::new(Stage::Admission, format!("{name} takes plain text"))
                .because("it is not in the mesh, nothing decides there"),
        ];
    }
    if workload.native_tunnel {
        return vec![Step::new(Stage::Admission, format!("{name} is asked itself")).because("it has no proxy before it")];
    }
    if source.addresses.contains(&dial.ip()) {
        return vec![
            Step::new(Stage::Admission, format!("{name} is the client itself"))
                .because("what a pod sends to itself is not captured"),
        ];
    }
    if is_tunnel_port(dial.port()) {
        return vec![
            Step::new(Stage::Admission, format!("port {} of {name} takes tunnels", dial.port()))
                .doubted("it depends on what is sent"),
        ];
    }
    decided(state, around, workload, Stage::Policy, || {
        let destination = admit_plaintext(workload, dial)?;
        Ok(Connection { source: None, source_ip: source_ip(source, dial.ip()), destination })
    })
}

/// What is decided after a waypoint has taken the tunnel: its own routes and policies are about requests, and the proxies of the endpoints
/// see the waypoint as the client.
pub(super) fn beyond(state: &MeshState, around: &dyn Surroundings, waypoint: &Workload, plan: &Hbone) -> Vec<Step> {
    let name = full_name(waypoint);
    let mut steps = vec![
        Step::new(Stage::Beyond, format!("the waypoint {name} routes and authorizes each request"))
            .because("its routes and its policies with targetRefs are about requests, of which a connection says nothing"),
    ];
    let endpoints: Vec<(&Workload, u16)> = match &plan.target.service {
        Some(service) => {
            let usable =
                state.endpoints(&service.key).filter(|workload| workload.healthy || service.load_balancing.allow_unhealthy);
            usable
                .take(BEYOND)
                .filter_map(|workload| Some((&**workload, target_port(workload, service, plan.authority.port())?)))
                .collect()
        }
        None => {
            let address = NetworkAddress::new(waypoint.network.clone(), plan.authority.ip());
            state.workload_at(&address).map(|workload| (&**workload, plan.authority.port())).into_iter().collect()
        }
    };
    let decided: Vec<Step> =
        endpoints.iter().filter_map(|(workload, port)| from_waypoint(state, around, waypoint, workload, *port)).collect();
    match decided.iter().filter(|step| step.refusal.is_some()).count() {
        // One that lets the waypoint in says what there is to say.
        0 => steps.extend(decided.into_iter().next()),
        refused if refused == decided.len() => steps.extend(decided.into_iter().next()),
        refused => {
            let all = decided.len();
            let first = decided.into_iter().find(|step| step.refusal.is_some());
            let why = first.and_then(|step| step.refusal).map_or(String::new(), |refusal| refusal.to_string());
            steps.push(Step::new(Stage::Beyond, format!("{refused} of {all} endpoints refuse the waypoint")).doubted(why));
        }
    }
    steps
}

/// What the proxy of `workload` decides about a tunnel of the waypoint; nothing when there is none before it.
pub(super) fn from_waypoint(
    state: &MeshState,
    around: &dyn Surroundings,
    waypoint: &Workload,
    workload: &Workload,
    port: u16,
) -> Option<Step> {
    if workload.tunnel != Tunnel::Hbone || workload.native_tunnel {
        return None;
    }
    let from = source_ip(waypoint, *workload.addresses.first()?);
    let destination = SocketAddr::new(*workload.addresses.first()?, port);
    let connection = || Ok(Connection { source: Some(waypoint.identity.clone()), source_ip: from, destination });
    // Whatever stops it there, the client's proxy does not see it.
    let last = decided(state, around, workload, Stage::Beyond, connection).pop();
    last.map(|step| Step { stage: Stage::Beyond, ..step })
}

/// Admission and policy at the proxy of `workload`.
fn decided(
    state: &MeshState,
    around: &dyn Surroundings,
    workload: &Workload,
    stage: Stage,
    admission: impl FnOnce() -> Result<Connection, Refusal>,
) -> Vec<Step> {
    let name = full_name(workload);
    if workload.native_tunnel {
        return vec![Step::new(Stage::Admission, format!("{name} takes the tunnel itself")).because("it speaks HBONE by itself")];
    }
    let identity = &workload.identity;
    let pod = Captured { cluster: &workload.cluster, name: &workload.name, identity };
    let admission_step = |says: String| Step::new(Stage::Admission, says);
    match around.capture(workload) {
        Capture::Served(other) if other != *identity => {
            let expected = Refusal::new(Reason::PeerIdentityMismatch, format!("{name} is {other} and not {identity}"));
            return vec![
                admission_step(format!("{name} is not who it is known as")).because(expected.to_string()).refused(expected),
            ];
        }
        Capture::Missing => {
            let doubt = "the node agent has not handed it over to the proxy of its node";
            return vec![admission_step(format!("{name} may have no proxy before it")).doubted(doubt)];
        }
        Capture::AsTold | Capture::Served(_) => {}
    }
    if !around.knowledge().can_authorize() {
        let refusal = destination_unknown(&pod);
        let step = admission_step(format!("{name} is not let to be reached yet"))
            .because("the control plane has not sent every policy yet");
        return vec![step.refused(refusal)];
    }
    match admission() {
        Ok(connection) => {
            let says = format!("{name} takes connections to {}", connection.destination);
            let step = admission_step(says).because("the address is its own, and the port none of the proxy's");
            vec![step, policies::step(state, stage, workload, &connection)]
        }
        Err(refusal) => vec![admission_step(format!("{name} does not take it")).because(refusal.to_string()).refused(refusal)],
    }
}
