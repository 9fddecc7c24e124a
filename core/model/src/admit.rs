//! Whether the address that a tunnel asks for is this pod's own (wire contract, sections 1 and 4).

use std::net::{IpAddr, SocketAddr};

use crate::{
    address::port,
    reason::{Reason, Refusal},
    workload::Workload,
};

/// What the authority of a CONNECT names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An address.
    Address(SocketAddr),
    /// A host name and a port, as used across networks.
    Host(String, u16),
}

/// Where an admitted connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// What was asked for; policies are evaluated on it.
    pub destination: SocketAddr,
    /// What to connect to in the pod.
    pub upstream: SocketAddr,
    /// Whether the PROXY protocol goes before the bytes.
    pub proxy_protocol: bool,
}

/// Decides whether a tunnel to `pod` may reach `target`.
///
/// # Errors
/// `authority_not_this_pod` when the address is another's, `loop_guard` when the port is the proxy's, `authority_invalid` when the
/// target is a name (only gateways take names) or port 0.
pub fn admit(pod: &Workload, target: &Target) -> Result<Admitted, Refusal> {
    let destination = match target {
        Target::Address(address) => SocketAddr::new(address.ip().to_canonical(), address.port()),
        Target::Host(host, port) => {
            return Err(Refusal::new(Reason::AuthorityInvalid, format!("{host}:{port} is a name, and this is not a gateway")));
        }
    };
    if destination.port() == 0 {
        return Err(Refusal::new(Reason::AuthorityInvalid, "port 0"));
    }
    if let Some(tunnel) = pod.application_tunnel {
        return through_application_tunnel(pod, destination, tunnel.port, tunnel.proxy_protocol);
    }
    own(pod, destination)?;
    Ok(Admitted { destination, upstream: destination, proxy_protocol: false })
}

/// Decides whether a plain-text connection that was captured on its way to `destination` may be passed on.
///
/// # Errors
/// As [`admit`].
pub fn admit_plaintext(pod: &Workload, destination: SocketAddr) -> Result<SocketAddr, Refusal> {
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    own(pod, destination)?;
    Ok(destination)
}

fn own(pod: &Workload, destination: SocketAddr) -> Result<(), Refusal> {
    if port::is_proxy(destination.port()) {
        return Err(Refusal::new(Reason::LoopGuard, destination.to_string()));
    }
    if !pod.addresses.contains(&destination.ip()) {
        return Err(Refusal::new(Reason::AuthorityNotThisPod, format!("{destination} is not an address of {}", pod.uid)));
    }
    Ok(())
}

fn through_application_tunnel(
    pod: &Workload,
    destination: SocketAddr,
    port: u16,
    proxy_protocol: bool,
) -> Result<Admitted, Refusal> {
    let same_family = |ip: &&IpAddr| ip.is_ipv4() == destination.is_ipv4();
    let ip = pod.addresses.iter().find(same_family).or_else(|| pod.addresses.first());
    let Some(ip) = ip else {
        return Err(Refusal::new(Reason::DestinationUnknown, format!("{} has no address", pod.uid)));
    };
    if port::is_proxy(port) {
        return Err(Refusal::new(Reason::LoopGuard, format!("the application tunnel of {} is port {port}", pod.uid)));
    }
    Ok(Admitted { destination, upstream: SocketAddr::new(*ip, port), proxy_protocol })
}

#[cfg(test)]
mod tests;
