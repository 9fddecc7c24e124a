//! What a name resolves to (wire contract, section 6): the addresses of a mesh service as its client means it. Everything else is for
//! the node's resolvers to answer.

use std::{net::IpAddr, sync::Arc};

use ambit_identity::Namespace;

use crate::{address::Network, service::Service, state::MeshState, workload::Workload};

mod names;

/// How long an answer of the mesh may be kept, seconds (wire contract, section 6).
pub const TTL: u32 = 30;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// The namespace of its pod: short names are of this one, and of several services with one name its own is preferred.
    pub namespace: &'a Namespace,
    /// The network of its pod: addresses of other networks cannot be reached from there.
    pub network: &'a Network,
    /// The domain below which Kubernetes names services, without dots around it (`cluster.local`).
    pub domain: &'a str,
}

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// What is to be done with a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Answer with these addresses, in the order of their value and each once; there is at least one.
    Addresses(Vec<IpAddr>),
    /// The name is one of the mesh, but has no address of this family now.
    NoData,
    /// The mesh does not know the name: ask the node's resolvers.
    Forward,
}

/// Decides a question for the addresses of `name`, which is in presentation format, in any case, with or without the dot at its end.
/// A name that no service can have is forwarded.
#[must_use]
pub fn resolve(state: &MeshState, client: Client<'_>, name: &str, family: Family) -> Answer {
    let Some(name) = names::normal(name) else { return Answer::Forward };
    // The name of a pod of a headless service looks like that of a service of another namespace, with a search domain behind.
    let above = names::parent(&name).and_then(|parent| find(state, client, parent));
    if let Some(service) = above.filter(|service| service.canonical) {
        return match find(state, client, &name) {
            Some(service) => of_service(state, client, service, family),
            None => of_pod(state, client, service, &name, family),
        };
    }
    let candidates = names::meant(&name, client.namespace.as_str(), client.domain);
    let exact = candidates.iter().find_map(|name| find(state, client, name));
    let wildcard = || {
        let parents = candidates.iter().flat_map(|name| names::parents(name));
        parents.map(|parent| format!("*.{parent}")).find_map(|name| find(state, client, &name))
    };
    match exact.or_else(wildcard) {
        Some(service) => of_service(state, client, service, family),
        None => Answer::Forward,
    }
}

/// The service of this name for the client: of its own namespace, else the one that is the authority on the name, else the first one.
/// One of which the mesh has no address at all (an `ExternalName`, one whose host is looked up) is none.
fn find<'a>(state: &'a MeshState, client: Client<'_>, hostname: &str) -> Option<&'a Arc<Service>> {
    let usable = |service: &&Arc<Service>| service.is_visible_to(client.namespace) && has_addresses(state, client, service);
    let rank = |service: &&Arc<Service>| match service {
        own if own.key.namespace == *client.namespace => 0,
        canonical if canonical.canonical => 1,
        _ => 2,
    };
    state.services_named(hostname).filter(usable).min_by_key(rank)
}

fn has_addresses(state: &MeshState, client: Client<'_>, service: &Service) -> bool {
    match service.vips.is_empty() {
        true => endpoints(state, client, service).any(|endpoint| !endpoint.addresses.is_empty()),
        false => service.vips.iter().any(|vip| vip.network == *client.network),
    }
}

/// Its virtual addresses; those of its endpoints when it is headless.
fn of_service(state: &MeshState, client: Client<'_>, service: &Service, family: Family) -> Answer {
    if service.vips.is_empty() {
        let usable = |endpoint: &&Arc<Workload>| endpoint.healthy || service.load_balancing.allow_unhealthy;
        let endpoints = endpoints(state, client, service).filter(usable);
        return answer(service, endpoints.flat_map(|endpoint| endpoint.addresses.iter().copied()), family);
    }
    let vips = service.vips.iter().filter(|vip| vip.network == *client.network);
    answer(service, vips.map(|vip| vip.ip), family)
}

/// The addresses of a pod that has a host name of its own below its headless service.
fn of_pod(state: &MeshState, client: Client<'_>, service: &Service, name: &str, family: Family) -> Answer {
    let host = name.split('.').next().unwrap_or_default();
    let is_meant = |endpoint: &&Arc<Workload>| endpoint.hostname.eq_ignore_ascii_case(host) && !endpoint.addresses.is_empty();
    let mut pods = endpoints(state, client, service).filter(is_meant).peekable();
    // What else Kubernetes has below the names of services (`_http._tcp`, pods by address) is for its own server to say.
    if !service.vips.is_empty() || pods.peek().is_none() {
        return Answer::Forward;
    }
    let usable = pods.filter(|pod| pod.healthy || service.load_balancing.allow_unhealthy);
    answer(service, usable.flat_map(|pod| pod.addresses.iter().copied()), family)
}

fn endpoints<'a>(state: &'a MeshState, client: Client<'a>, service: &Service) -> impl Iterator<Item = &'a Arc<Workload>> {
    state.endpoints(&service.key).filter(move |endpoint| endpoint.network == *client.network)
}

fn answer(service: &Service, addresses: impl Iterator<Item = IpAddr>, family: Family) -> Answer {
    let asked_for = |ip: &IpAddr| ip.is_ipv4() == (family == Family::V4) && service.families.include(ip);
    let mut addresses: Vec<IpAddr> = addresses.filter(asked_for).collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() { Answer::NoData } else { Answer::Addresses(addresses) }
}

#[cfg(test)]
mod tests;
