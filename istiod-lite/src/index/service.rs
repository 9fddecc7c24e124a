//! Services of the mesh: those of Kubernetes, and the hosts of ServiceEntries.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::port::{ServicePort, TargetPort, protocol_named};
use super::{Index, MeshConfig};
use crate::source::NamespacedName;
use crate::source::crd::networking::{AllocatedAddress, EntryPort, ServiceEntry};

/// A service of the mesh.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceRef {
    /// A Service of Kubernetes.
    Kubernetes(NamespacedName),
    /// A host of ServiceEntries, by their namespace and the host name.
    Host(NamespacedName),
}

impl ServiceRef {
    /// Its DNS name.
    #[must_use]
    pub fn hostname(&self, config: &MeshConfig) -> String {
        match self {
            Self::Kubernetes(name) => config.hostname(name),
            Self::Host(host) => host.name.to_string(),
        }
    }

    /// Its key in the address table: `namespace/hostname`.
    #[must_use]
    pub fn key(&self, config: &MeshConfig) -> String {
        format!("{}/{}", self.namespace(), self.hostname(config))
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        match self {
            Self::Kubernetes(name) | Self::Host(name) => &name.namespace,
        }
    }
}

impl fmt::Debug for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kubernetes(name) => write!(f, "service {name}"),
            Self::Host(host) => write!(f, "host {host}"),
        }
    }
}

impl Index {
    /// The ServiceEntry that says what a host is: of those of the namespace that name it the oldest, then the first by name. A host
    /// that is the name of a Service of the namespace is that Service, and no entry's.
    #[must_use]
    pub fn entry_of_host(&self, host: &NamespacedName) -> Option<&Arc<ServiceEntry>> {
        if self.service_named(host).is_some() {
            return None;
        }
        let entries = self.links.entries_by_host.get(host).filter_map(|name| self.objects().service_entries.get(name));
        entries.min_by_key(|entry| {
            let created = entry.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created.is_none(), created, NamespacedName::of(&entry.metadata))
        })
    }

    /// The Service of the namespace that has this DNS name.
    #[must_use]
    pub fn service_named(&self, host: &NamespacedName) -> Option<NamespacedName> {
        let name = host.name.strip_suffix(&format!(".{}.svc.{}", host.namespace, self.config().cluster_domain))?;
        let name = NamespacedName::new(host.namespace.clone(), name);
        self.objects().services.contains_key(&name).then_some(name)
    }

    /// The virtual addresses of a host. Those of Services and pods are not among them: what is sent to these is not for an entry of any
    /// namespace to take.
    #[must_use]
    pub fn host_addresses(&self, entry: &ServiceEntry, host: &NamespacedName) -> Vec<IpAddr> {
        let mut addresses = said_addresses(entry, host);
        addresses
            .retain(|address| self.links.services_by_address.count(address) == 0 && self.pod_with_address(*address).is_none());
        addresses
    }

    /// Whether an entry is the one that says what this host is.
    #[must_use]
    pub fn owns_host(&self, entry: &ServiceEntry, host: &NamespacedName) -> bool {
        self.entry_of_host(host).is_some_and(|owner| NamespacedName::of(&owner.metadata) == NamespacedName::of(&entry.metadata))
    }

    /// The hosts of an entry that it says the meaning of; those of its others are another entry's or a Service's.
    #[must_use]
    pub fn hosts_of_entry(&self, entry: &ServiceEntry) -> Vec<NamespacedName> {
        entry_hosts(entry).filter(|host| self.owns_host(entry, host)).collect()
    }

    /// The TCP ports of a service, in the order written; none when it does not exist.
    #[must_use]
    pub fn service_ports(&self, service: &ServiceRef) -> Vec<ServicePort> {
        match service {
            ServiceRef::Kubernetes(name) => {
                self.objects().services.get(name).map(|service| ServicePort::all_of(service)).unwrap_or_default()
            }
            ServiceRef::Host(host) => self.entry_of_host(host).map(|entry| entry_ports(entry)).unwrap_or_default(),
        }
    }
}

/// The hosts that an entry names, by their keys. Names are compared in lower case.
pub(crate) fn entry_hosts(entry: &ServiceEntry) -> impl Iterator<Item = NamespacedName> + '_ {
    let namespace: Arc<str> = entry.metadata.namespace.as_deref().unwrap_or_default().into();
    entry.spec.hosts.iter().map(move |host| NamespacedName::new(namespace.clone(), host.to_ascii_lowercase()))
}

/// The ports of an entry that TCP carries.
pub(super) fn entry_ports(entry: &ServiceEntry) -> Vec<ServicePort> {
    let number = |port: i32| u16::try_from(port).ok().filter(|port| *port > 0);
    let read = |port: &EntryPort| {
        if port.protocol.eq_ignore_ascii_case("udp") {
            return None;
        }
        Some(ServicePort {
            name: Some(port.name.clone()),
            port: number(port.number)?,
            target: TargetPort::Number(number(port.target_port.unwrap_or(port.number))?),
            protocol: protocol_named(&port.protocol.to_ascii_lowercase()),
        })
    };
    entry.spec.ports.iter().filter_map(read).collect()
}

/// The virtual addresses that an entry says a host has: those that it gives all its hosts, else those that were allocated for this one.
fn said_addresses(entry: &ServiceEntry, host: &NamespacedName) -> Vec<IpAddr> {
    let of_host = |one: &&AllocatedAddress| one.host.is_empty() || one.host.eq_ignore_ascii_case(&host.name);
    if entry.spec.addresses.is_empty() {
        distinct(allocated(entry).filter(of_host).map(|one| one.value.as_str()))
    } else {
        distinct(entry.spec.addresses.iter().map(String::as_str))
    }
}

/// All virtual addresses that an entry says any of its hosts has.
pub(super) fn all_said_addresses(entry: &ServiceEntry) -> Vec<IpAddr> {
    distinct(entry.spec.addresses.iter().map(String::as_str).chain(allocated(entry).map(|one| one.value.as_str())))
}

/// Whether an entry gives its hosts a virtual address, or somebody allocated one.
#[must_use]
pub fn entry_has_addresses(entry: &ServiceEntry) -> bool {
    !all_said_addresses(entry).is_empty()
}

fn allocated(entry: &ServiceEntry) -> impl Iterator<Item = &AllocatedAddress> {
    entry.status.iter().flat_map(|status| &status.addresses)
}

fn distinct<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in texts.filter_map(single_address) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// An address, or a network of one address.
pub(crate) fn single_address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    let network: ipnet::IpNet = text.parse().ok()?;
    (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
}
