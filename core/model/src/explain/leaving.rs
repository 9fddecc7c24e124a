//! The side of the client: whether the connection is captured, and where it goes when nothing captures it.

use std::net::SocketAddr;

use super::{Capture, Carriage, Stage, Step, Surroundings, Way, arriving, name::full_name};
use crate::{
    address::{NetworkAddress, port},
    arrive::{Captured, source_unknown},
    plan::target_port,
    service::Service,
    state::MeshState,
    workload::{Tunnel, Workload},
};

/// Who sends the connection on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Out {
    /// The node proxy.
    Proxy,
    /// Nobody: it does not leave the pod.
    Itself,
    /// The kernel of the node, since nothing captures it.
    Kernel,
}

/// Whether what `source` opens is captured, and who sends it on.
pub(super) fn capture(around: &dyn Surroundings, source: &Workload, destinations: &[SocketAddr]) -> (Step, Out) {
    let name = full_name(source);
    let step = |says: String| Step::new(Stage::Source, says);
    let uncaptured = |why: &str| step(format!("{name} is not captured")).because(why);
    if source.host_network {
        return (uncaptured("it is on the network of its node, where nothing is captured"), Out::Kernel);
    }
    if source.native_tunnel {
        return (uncaptured("it speaks HBONE by itself, as waypoints do"), Out::Kernel);
    }
    let known = around.capture(source);
    // Who is served is captured, whatever the control plane has heard of it.
    if source.tunnel == Tunnel::None && !matches!(known, Capture::Served(_)) {
        let why = "it is not in the mesh: no label enrols it, or the node has not captured it yet";
        return (uncaptured(why), Out::Kernel);
    }
    if destinations.iter().all(|to| to.ip().is_loopback() || source.addresses.contains(&to.ip())) {
        let itself = step(format!("{name} connects to itself, which is not captured"));
        return (itself.because("what a pod sends to its own addresses does not leave it"), Out::Itself);
    }
    let identity = &source.identity;
    let told = Captured { cluster: &source.cluster, name: &source.name, identity };
    let captured = step(format!("{name} is captured, as {identity}"));
    let step = match known {
        Capture::AsTold => captured.because(format!("the control plane says that it is in the mesh, on {}", on(source))),
        Capture::Served(served) if served == *identity => captured.because("the node proxy serves it"),
        Capture::Served(other) => step(format!("{name} is captured, as {other}"))
            .because(format!("the node agent says so, and the control plane knows it as {identity}"))
            .refused(source_unknown(&Captured { identity: &other, ..told })),
        Capture::Missing => step(format!("{name} is not served by the proxy of its node"))
            .because("the control plane says that it is in the mesh, and the node agent has not handed it over")
            .doubted("until it is, its connections fail or are not captured"),
    };
    if step.refusal.is_none() && !around.knowledge().can_plan() {
        return (step.because("the control plane has not sent every address yet").refused(source_unknown(&told)), Out::Proxy);
    }
    (step, Out::Proxy)
}

fn on(workload: &Workload) -> String {
    if workload.node.is_empty() { "no node yet".to_owned() } else { workload.node.to_string() }
}

/// What comes of a connection that no proxy sends on: the node sends it to the address itself, or to an endpoint of the service.
pub(super) fn by_the_kernel(
    state: &MeshState,
    around: &dyn Surroundings,
    source: &Workload,
    destination: SocketAddr,
) -> Vec<Way> {
    let address = NetworkAddress::new(source.network.clone(), destination.ip());
    let Some(service) = state.service_for(&source.namespace, &address) else {
        let step = Step::new(Stage::Way, format!("to {destination} in plain text")).because("nothing sends it another way");
        let mut steps = vec![step];
        steps.extend(arriving::in_plain_text(state, around, source, destination));
        let at = state.workload_at(&address).map(|workload| &**workload);
        return vec![Way::of(at, Some(destination), Carriage::PlainText, steps)];
    };
    let ready = |workload: &&std::sync::Arc<Workload>| workload.healthy || service.load_balancing.allow_unhealthy;
    let served = |workload: &Workload| at_endpoint(service, workload, destination);
    let mut ways: Vec<Way> = Vec::new();
    for (workload, dial) in state.endpoints(&service.key).filter(ready).filter_map(|workload| Some((workload, served(workload)?)))
    {
        let step = Step::new(Stage::Way, format!("to {} in plain text, at {dial}", full_name(workload)))
            .because(format!("the node picks an endpoint of {} by itself", service.key.hostname));
        let mut steps = vec![step];
        steps.extend(arriving::in_plain_text(state, around, source, dial));
        ways.push(Way::of(Some(workload), Some(dial), Carriage::PlainText, steps));
    }
    if ways.is_empty() {
        let step = Step::new(Stage::Way, "it goes nowhere").doubted(format!(
            "{} has no ready endpoint for port {}: the node refuses it or lets it wait",
            service.key.hostname,
            destination.port()
        ));
        ways.push(Way::of(None, None, Carriage::Nothing, vec![step]));
    }
    ways
}

/// Where an endpoint serves a port of a service.
fn at_endpoint(service: &Service, workload: &Workload, dialled: SocketAddr) -> Option<SocketAddr> {
    let port = target_port(workload, service, dialled.port())?;
    let ip = workload.addresses.iter().find(|ip| ip.is_ipv4() == dialled.is_ipv4())?;
    Some(SocketAddr::new(*ip, port))
}

/// Whether this is a port at which a captured pod's proxy listens for tunnels, which are not redirected.
pub(super) const fn is_tunnel_port(number: u16) -> bool {
    number == port::HBONE
}
