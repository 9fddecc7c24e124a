//! What runs where, for those who read logs and counts and want to know whose they are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use istiod_lite::source::NamespacedName;

/// One pod that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// What people call it: its `app` label, else its owner's name, else its own.
    pub workload: String,
    /// Service account.
    pub service_account: String,
    /// Node.
    pub node: String,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Socket on which a demonstration program tells what it sees, if it does so on this machine.
    pub stats: Option<PathBuf>,
    /// Whether it serves, as its probes say.
    pub ready: bool,
    /// Whether the mesh is to carry its traffic.
    pub enrolled: bool,
    /// Whether its node's proxy has it.
    pub captured: bool,
    /// Whether the rules are known to be in force that let nothing out of it in clear; also if there is nothing yet that could go out.
    pub guarded: bool,
    /// Whether it is a waypoint of the mesh, not a program of the user.
    pub waypoint: bool,
    /// Services that select it.
    pub services: Vec<NamespacedName>,
}

/// One proxy, whose access log is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyFacts {
    /// Its name in the mesh: `ztunnel/node-1`, `waypoint/billing/waypoint`.
    pub name: String,
    /// Its access log, if that lies on this machine.
    pub access_log: Option<PathBuf>,
}

/// What runs where at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// Nodes by name.
    pub nodes: Vec<String>,
    /// Pods by name.
    pub pods: BTreeMap<NamespacedName, PodFacts>,
    /// What made pods of other names, by the name that proxies have for them, with one of the pods.
    pub owners: BTreeMap<NamespacedName, NamespacedName>,
    /// Services with their addresses.
    pub services: BTreeMap<NamespacedName, Vec<IpAddr>>,
    /// Proxies.
    pub proxies: Vec<ProxyFacts>,
    /// Waypoints that take traffic, `namespace/name`.
    pub waypoints: Vec<NamespacedName>,
}

impl Topology {
    /// What people call the pod.
    pub fn workload(&self, pod: &NamespacedName) -> Option<NamespacedName> {
        let facts = self.pods.get(pod)?;
        Some(NamespacedName::new(pod.namespace.clone(), facts.workload.as_str()))
    }

    /// The pod that proxies call this: by its own name, or by that of what made it.
    pub fn pod_called<'a>(&'a self, name: &'a NamespacedName) -> Option<&'a NamespacedName> {
        if self.pods.contains_key(name) { Some(name) } else { self.owners.get(name) }
    }

    /// The pod with this address.
    pub fn pod_at(&self, address: IpAddr) -> Option<&NamespacedName> {
        self.pods.iter().find(|(_, facts)| facts.addresses.contains(&address.to_canonical())).map(|(name, _)| name)
    }

    /// The service with this address.
    pub fn service_at(&self, address: IpAddr) -> Option<&NamespacedName> {
        self.services.iter().find(|(_, addresses)| addresses.contains(&address.to_canonical())).map(|(name, _)| name)
    }

    /// A pod that proves this SPIFFE identity, if its namespace and account tell.
    pub fn pod_with_identity(&self, identity: &str) -> Option<&NamespacedName> {
        let (_, path) = identity.split_once("/ns/")?;
        let (namespace, account) = path.split_once("/sa/")?;
        let mut pods = self.pods.iter();
        let found =
            pods.find(|(name, facts)| *name.namespace == *namespace && facts.service_account == account && !facts.waypoint);
        found.map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_found_by_its_own_name_and_by_that_of_what_made_it() {
        let (pod, deployment) = (NamespacedName::new("shop", "web-5d8f-x2"), NamespacedName::new("shop", "web"));
        let facts = PodFacts {
            workload: "web".into(),
            service_account: "web".into(),
            node: "node-1".into(),
            addresses: Vec::new(),
            stats: None,
            ready: true,
            enrolled: true,
            captured: true,
            guarded: true,
            waypoint: false,
            services: Vec::new(),
        };
        let topology = Topology {
            pods: BTreeMap::from([(pod.clone(), facts)]),
            owners: BTreeMap::from([(deployment.clone(), pod.clone())]),
            ..Topology::default()
        };
        assert_eq!(topology.pod_called(&pod), Some(&pod));
        assert_eq!(topology.pod_called(&deployment), Some(&pod));
        assert_eq!(topology.pod_called(&NamespacedName::new("data", "web")), None);
    }
}
