//! Values of ServiceEntries and WorkloadEntries (the rules of the public Istio API reference, and what the mesh cannot do).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Errors, is_label, is_subdomain};
use crate::index::{label, single_address};
use crate::source::crd::networking::{Resolution, ServiceEntry, ServiceEntrySpec, WorkloadEntry, WorkloadEntrySpec};

/// Hosts, addresses or ports of one entry (limits of Istio's schema).
const MAX_ITEMS: usize = 256;
/// Endpoints of one entry: those of one EndpointSlice.
const MAX_ENDPOINTS: usize = 1_000;
/// Endpoints of all hosts of an entry together: each endpoint is one of every host, and its workload names them all.
const MAX_PAIRS: usize = 10_000;
/// The greatest weight an endpoint may have, so that the sum stays within what proxies add up (32 bits).
const MAX_WEIGHT: u32 = 1_000_000;

/// What may be said to be spoken on a port.
const PROTOCOLS: [&str; 9] = ["HTTP", "HTTPS", "HTTP2", "GRPC", "MONGO", "TCP", "TLS", "UDP", ""];

pub(super) fn service(entry: &ServiceEntry, errors: &mut Errors) {
    let spec = &entry.spec;
    let before = errors.0.len();
    errors.at_most(MAX_ITEMS, "spec.hosts", spec.hosts.len());
    errors.at_most(MAX_ITEMS, "spec.addresses", spec.addresses.len());
    errors.at_most(MAX_ITEMS, "spec.ports", spec.ports.len());
    errors.at_most(MAX_ENDPOINTS, "spec.endpoints", spec.endpoints.len());
    let pairs = spec.hosts.len() * spec.endpoints.len();
    errors.check(pairs <= MAX_PAIRS, "spec.endpoints", || {
        format!("each is one of every host, and {pairs} are more than {MAX_PAIRS}; write several entries")
    });
    let allocated = entry.status.as_ref().map_or(0, |status| status.addresses.len());
    errors.at_most(2 * MAX_ITEMS, "status.addresses", allocated);
    if errors.0.len() > before {
        // Each endpoint is held against each port: of what is too much the items are not looked at.
        return;
    }
    errors.check(!spec.hosts.is_empty(), "spec.hosts", || "at least one is required".into());
    for (index, host) in spec.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        errors.check(is_host(host), &path, || format!("{host:?} is no DNS name, nor one with the first label \"*\""));
        errors.check(!host.starts_with('*') || spec.resolution == Resolution::None, &path, || {
            "a wildcard can only be passed on as it is: use resolution NONE".into()
        });
    }
    for (index, address) in spec.addresses.iter().enumerate() {
        errors.check(single_address(address).is_some(), &format!("spec.addresses[{index}]"), || {
            format!("{address:?} is no IP address; networks of several addresses are not supported")
        });
        if let Some(ip) = single_address(address) {
            errors.elsewhere(&format!("spec.addresses[{index}]"), ip);
        }
    }
    ports(spec, errors);
    endpoints(spec, errors);
    for (index, namespace) in spec.export_to.iter().enumerate() {
        errors.check(matches!(namespace.as_str(), "*" | "."), &format!("spec.exportTo[{index}]"), || {
            format!("{namespace:?} is not supported: an entry is seen by all namespaces (\"*\") or by its own (\".\")")
        });
    }
    errors.check(spec.resolution != Resolution::DynamicDns, "spec.resolution", || {
        "DYNAMIC_DNS is not supported; DNS looks up names that are given, NONE passes on what is dialled".into()
    });
}

fn ports(spec: &ServiceEntrySpec, errors: &mut Errors) {
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in spec.ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        errors.port(&format!("{path}.number"), port.number);
        errors.check(numbers.insert(port.number), &format!("{path}.number"), || format!("{} is given twice", port.number));
        errors.check(is_label(&port.name), &format!("{path}.name"), || format!("{:?} is no name for a port", port.name));
        errors.check(names.insert(&port.name), &format!("{path}.name"), || format!("{:?} is given twice", port.name));
        if let Some(target) = port.target_port {
            errors.port(&format!("{path}.targetPort"), target);
        }
        let protocol = port.protocol.to_ascii_uppercase();
        errors.check(PROTOCOLS.contains(&protocol.as_str()), &format!("{path}.protocol"), || {
            format!("{:?} is none of HTTP, HTTPS, HTTP2, GRPC, MONGO, TCP, TLS, UDP", port.protocol)
        });
    }
}

fn endpoints(spec: &ServiceEntrySpec, errors: &mut Errors) {
    if let Some(selector) = &spec.workload_selector {
        errors.check(!selector.labels.is_empty(), "spec.workloadSelector.labels", || "at least one is required".into());
        errors.check(spec.resolution == Resolution::Static, "spec.workloadSelector", || {
            "what it selects has addresses: use resolution STATIC".into()
        });
        errors.check(spec.endpoints.is_empty(), "spec.endpoints", || {
            "only one of workloadSelector and endpoints may be given".into()
        });
    }
    errors.check(spec.resolution != Resolution::None || spec.endpoints.is_empty(), "spec.endpoints", || {
        "with resolution NONE nothing is sent to endpoints; use STATIC or DNS".into()
    });
    let mut seen = BTreeSet::new();
    for (index, endpoint) in spec.endpoints.iter().enumerate() {
        let path = format!("spec.endpoints[{index}]");
        described(endpoint, &path, errors);
        let address = format!("{path}.address");
        errors.check(seen.insert(endpoint.address.to_ascii_lowercase()), &address, || {
            format!("{:?} is given twice", endpoint.address)
        });
        let named = endpoint.address.parse::<IpAddr>().is_err();
        errors.check(!named || spec.resolution != Resolution::Static, &address, || {
            format!("{:?} is no IP address; names are looked up with resolution DNS", endpoint.address)
        });
        for name in endpoint.ports.keys() {
            errors.check(spec.ports.iter().any(|port| port.name == *name), &format!("{path}.ports.{name}"), || {
                "the entry has no port of this name".into()
            });
        }
    }
}

pub(super) fn workload(entry: &WorkloadEntry, errors: &mut Errors) {
    described(&entry.spec, "spec", errors);
    let labels = entry.metadata.labels.as_ref();
    let asks = labels.and_then(|labels| labels.get(label::USE_WAYPOINT)).is_some_and(|waypoint| waypoint != "none");
    errors.check(!asks, "metadata.labels", || {
        format!("{} has no effect on a WorkloadEntry; label the services that select it", label::USE_WAYPOINT)
    });
}

/// A workload as it is described in either kind.
fn described(spec: &WorkloadEntrySpec, path: &str, errors: &mut Errors) {
    let good = spec.address.parse::<IpAddr>().is_ok() || is_subdomain(&spec.address.to_ascii_lowercase());
    errors.check(good, &format!("{path}.address"), || format!("{:?} is neither an IP address nor a DNS name", spec.address));
    if let Ok(ip) = spec.address.parse() {
        errors.elsewhere(&format!("{path}.address"), ip);
    }
    for (name, port) in &spec.ports {
        errors.port(&format!("{path}.ports.{name}"), *port);
    }
    errors.check(spec.weight.is_none_or(|weight| weight <= MAX_WEIGHT), &format!("{path}.weight"), || {
        format!("{} is more than {MAX_WEIGHT}", spec.weight.unwrap_or_default())
    });
    errors.check(spec.locality.split('/').count() <= 3, &format!("{path}.locality"), || {
        format!("{:?} is not of the form region/zone/subzone", spec.locality)
    });
    let account = &spec.service_account;
    errors.check(account.is_empty() || is_subdomain(account), &format!("{path}.serviceAccount"), || {
        format!("{account:?} is not a valid name")
    });
}

/// A DNS name in any case, perhaps with `*` for its first label.
fn is_host(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    is_subdomain(host.strip_prefix("*.").unwrap_or(&host))
}
