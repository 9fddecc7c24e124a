//! Names of services for the programs in pods. Those of an enrolled pod ask a DNS server, as they would in a cluster, and the node proxy
//! answers; it knows no server to forward other names to. For pods that are not enrolled `/etc/hosts` says what a server would.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ambit_testbed::{Error, HostEntry, NO_RESOLVER, Place};
use istiod_lite::source::NamespacedName;

/// Where the DNS server of the cluster would be. Nobody is there: queries of enrolled pods are captured wherever they go.
fn server(pod: IpAddr) -> &'static str {
    if pod.is_ipv4() { "10.96.0.10" } else { "fd96::a" }
}

/// Writes how the programs of a pod in `namespace` find services, also for those that run.
///
/// # Errors
/// If its files cannot be written.
pub fn write(
    place: &Place,
    namespace: &str,
    enrolled: bool,
    services: &BTreeMap<NamespacedName, Vec<IpAddr>>,
) -> Result<(), Error> {
    if enrolled {
        place.set_resolv_conf(&resolv_conf(namespace, server(place.ip())))?;
        place.set_hosts(&[])
    } else {
        place.set_resolv_conf(NO_RESOLVER)?;
        place.set_hosts(&entries(namespace, services))
    }
}

/// As a kubelet writes it, but with less patience: a proxy that is killed takes the queries along that it had not answered.
fn resolv_conf(namespace: &str, server: &str) -> String {
    format!(
        "search {namespace}.svc.cluster.local svc.cluster.local cluster.local\nnameserver {server}\noptions ndots:5 timeout:1\n"
    )
}

/// The entries of a pod in `namespace`: every service under its Kubernetes names, the short one within its own namespace.
fn entries(namespace: &str, services: &BTreeMap<NamespacedName, Vec<IpAddr>>) -> Vec<HostEntry> {
    let mut entries = Vec::new();
    for (service, addresses) in services {
        let (of, name) = (&service.namespace, &service.name);
        let mut names = vec![format!("{name}.{of}.svc.cluster.local"), format!("{name}.{of}.svc"), format!("{name}.{of}")];
        if **of == *namespace {
            names.push(name.to_string());
        }
        entries.extend(addresses.iter().map(|address| HostEntry::new(*address, names.clone())));
    }
    entries
}

/// The service that a program in `namespace` means by `host`, if it is one's name.
pub fn service_of(host: &str, namespace: &str) -> Option<NamespacedName> {
    let host = host.trim_end_matches('.');
    let short = host.strip_suffix(".svc.cluster.local").or_else(|| host.strip_suffix(".svc")).unwrap_or(host);
    match short.split_once('.') {
        None => Some(NamespacedName::new(namespace, short)),
        Some((name, namespace)) if !namespace.contains('.') => Some(NamespacedName::new(namespace, name)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_name_is_for_the_pods_own_namespace_only() {
        let services = BTreeMap::from([
            (NamespacedName::new("data", "storage"), vec!["10.96.0.2".parse().unwrap(), "fd96::2".parse().unwrap()]),
            (NamespacedName::new("shop", "api"), vec!["10.96.0.1".parse().unwrap()]),
        ]);
        let entries = entries("shop", &services);
        let names: Vec<String> = entries.iter().map(|entry| format!("{} {}", entry.ip, entry.names.join(" "))).collect();
        assert_eq!(
            names,
            [
                "10.96.0.2 storage.data.svc.cluster.local storage.data.svc storage.data",
                "fd96::2 storage.data.svc.cluster.local storage.data.svc storage.data",
                "10.96.0.1 api.shop.svc.cluster.local api.shop.svc api.shop api",
            ]
        );
    }

    #[test]
    fn a_host_is_understood_as_a_program_in_the_namespace_means_it() {
        for (host, service) in [
            ("api", Some("shop/api")),
            ("storage.data", Some("data/storage")),
            ("storage.data.svc", Some("data/storage")),
            ("storage.data.svc.cluster.local", Some("data/storage")),
            ("www.example.com", None),
        ] {
            assert_eq!(service_of(host, "shop").map(|name| name.to_string()).as_deref(), service, "{host}");
        }
    }
}
