//! Status of ServiceEntries and WorkloadEntries: what of them counts, and whether hosts go through the waypoint that was asked for.

use std::net::IpAddr;

use super::{BOUND, Condition, waypoint_bound};
use crate::index::{Binding, Index, entry_hosts};
use crate::source::NamespacedName;

/// What is said of a ServiceEntry. One that says the meaning of no host is bound to no waypoint either.
pub(super) fn service(index: &Index, name: &NamespacedName) -> Vec<Condition> {
    let Some(entry) = index.objects().service_entries.get(name) else { return Vec::new() };
    let (mut held, mut taken) = (Vec::new(), Vec::new());
    for host in entry_hosts(entry) {
        match taken_by(index, name, &host) {
            Some(why) => taken.push(why),
            None => held.push(host),
        }
    }
    let accepted = if taken.is_empty() {
        Condition::new("Accepted", true, "Accepted", "Its hosts are services of the mesh")
    } else {
        let rest = if held.is_empty() { "so it has no effect" } else { "it holds for its other hosts" };
        Condition::new("Accepted", false, "Conflicted", format!("{}; {rest}", taken.join("; ")))
    };
    let reached = held.iter().any(|host| !index.host_addresses(entry, host).is_empty());
    let bound = match index.entry_binding(entry) {
        _ if held.is_empty() => None,
        Binding::Bound { waypoint, .. } | Binding::Unavailable { waypoint, .. } if !reached => {
            let message = format!(
                "Without a virtual address (spec.addresses) clients are told the addresses of the endpoints, and go to them around waypoint {waypoint}"
            );
            Some(Condition::new(BOUND, false, "NoVirtualAddress", message))
        }
        binding => waypoint_bound(binding, "its hosts"),
    };
    std::iter::once(accepted).chain(bound).collect()
}

/// Why a host that an entry names is not its own.
fn taken_by(index: &Index, name: &NamespacedName, host: &NamespacedName) -> Option<String> {
    let dns = &host.name;
    if let Some(service) = index.service_named(host) {
        return Some(format!("{dns} is the name of Service {service}, which comes before a ServiceEntry"));
    }
    let owner = NamespacedName::of(&index.entry_of_host(host)?.metadata);
    (owner != *name).then(|| format!("ServiceEntry {owner} has the host {dns} too and is older, and holds in its place"))
}

/// What is said of a WorkloadEntry.
pub(super) fn workload(index: &Index, name: &NamespacedName) -> Vec<Condition> {
    let Some(entry) = index.objects().workload_entries.get(name) else { return Vec::new() };
    let address = &entry.spec.address;
    let pod = address.parse::<IpAddr>().ok().and_then(|address| index.pod_with_address(address));
    let condition = match pod.map(|pod| NamespacedName::of(&pod.metadata)) {
        None => Condition::new("Accepted", true, "Accepted", "It is a workload of the mesh"),
        Some(pod) => {
            let message = format!("{address} is the address of pod {pod}, which says more of itself, so it has no effect");
            Condition::new("Accepted", false, "Conflicted", message)
        }
    };
    vec![condition]
}
