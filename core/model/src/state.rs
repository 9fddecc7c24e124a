//! What the control plane sent, with the lookups that decisions need.
//!
//! Values are shared by reference count, so a decision takes what it needs out and holds no lock.

mod few;
mod shared;
mod vacant;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Instant,
};

use ambit_identity::{Namespace, SpiffeId};
use ipnet::IpNet;

use crate::{
    address::{Network, NetworkAddress, ServiceKey},
    convert::Entry,
    plan::Ranked,
    policy::{
        Policy, PolicyKey, Scope,
        index::PolicySet,
        table::{Named, Policies},
    },
    service::Service,
    workload::{Tunnel, Uid, Workload},
};
use few::Few;
use shared::Shared;
pub use vacant::VACANT;
use vacant::Vacant;

/// The state of the mesh as this proxy knows it.
#[derive(Debug, Default, Clone)]
pub struct MeshState {
    workloads: HashMap<Uid, Arc<Workload>>,
    /// Several workloads share an address when they are on the host's network, or for a moment when an address is used again.
    by_address: HashMap<NetworkAddress, Few<Arc<Workload>>>,
    services: HashMap<ServiceKey, Arc<Service>>,
    by_vip: HashMap<NetworkAddress, Few<Arc<Service>>>,
    /// In the order of their namespaces.
    by_hostname: HashMap<Arc<str>, Few<Arc<Service>>>,
    /// Kept by what workloads say, so that a service may come before or after its endpoints.
    endpoints: HashMap<ServiceKey, Endpoints>,
    /// By name, of which there is one in each namespace.
    by_name: HashMap<Arc<str>, Few<Arc<Workload>>>,
    policies: Policies,
    /// By resource name, what workloads and services that could not be read speak for.
    unreadable_addresses: BTreeMap<Box<str>, Vec<(Network, IpNet)>>,
    vacant: Vacant,
    /// What workloads have in common.
    shared: Shared,
}

/// The endpoints of one service.
#[derive(Debug, Default, Clone)]
struct Endpoints {
    by_uid: BTreeMap<Uid, Arc<Workload>>,
    /// Made for the first connection after a change, so that only what is dialled here has it.
    ranked: OnceLock<Ranked>,
}

impl MeshState {
    /// An empty state.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a workload or a service, in place of the one with the same key.
    pub fn insert(&mut self, entry: Entry) {
        if !self.unreadable_addresses.is_empty() {
            self.unreadable_addresses.remove(entry.name().as_str());
        }
        match entry {
            Entry::Workload(workload) => self.insert_workload(*workload),
            Entry::Service(service) => self.insert_service(*service),
        }
    }

    /// Notes the addresses that a pod of the mesh leaves `now` because `new` takes its place: whoever has them next may be a pod of the mesh
    /// too, as after its removal.
    pub fn note_moved(&mut self, new: &Workload, now: Instant) {
        let Some(old) = self.workloads.get(&new.uid).filter(|old| has_its_own_addresses(old)) else { return };
        let stays = |ip: &IpAddr| old.network == new.network && new.addresses.contains(ip);
        let left: Vec<_> =
            old.addresses.iter().filter(|ip| !stays(ip)).map(|ip| NetworkAddress::new(old.network.clone(), *ip)).collect();
        self.vacant.note(left.into_iter(), now);
    }

    /// Takes a workload, in place of the one with the same uid.
    pub fn insert_workload(&mut self, mut workload: Workload) {
        self.remove_workload(workload.uid.as_str());
        self.shared.share(&mut workload);
        let workload = Arc::new(workload);
        for ip in &workload.addresses {
            let address = NetworkAddress::new(workload.network.clone(), *ip);
            few::add(&mut self.by_address, address, Arc::clone(&workload));
        }
        few::add(&mut self.by_name, Arc::clone(&workload.name), Arc::clone(&workload));
        for key in workload.services.keys() {
            let endpoints = self.endpoints.entry(key.clone()).or_default();
            endpoints.ranked = OnceLock::new();
            endpoints.by_uid.insert(workload.uid.clone(), Arc::clone(&workload));
        }
        self.workloads.insert(workload.uid.clone(), workload);
        self.shared.tidy();
    }

    /// Takes a service, in place of the one with the same key.
    pub fn insert_service(&mut self, mut service: Service) {
        self.remove_service(&service.key);
        service.vips.shrink_to_fit();
        service.ports.shrink_to_fit();
        let service = Arc::new(service);
        for vip in &service.vips {
            few::add(&mut self.by_vip, vip.clone(), Arc::clone(&service));
        }
        few::add(&mut self.by_hostname, Arc::clone(&service.key.hostname), Arc::clone(&service));
        few::sort(&mut self.by_hostname, &service.key.hostname, |one, other| one.key.cmp(&other.key));
        self.services.insert(service.key.clone(), service);
    }

    /// Takes a policy, in place of the one with the same key.
    pub fn insert_policy(&mut self, policy: Policy) {
        self.policies.insert(policy);
    }

    /// Notes that a policy exists but could not be read. When no earlier version of it is held, everything in its scope is denied
    /// until it can be read or is removed.
    pub fn insert_unreadable_policy(&mut self, key: PolicyKey, scope: Scope) {
        self.policies.insert_unreadable(key, scope);
    }

    /// Notes that a workload or a service exists but could not be read, and what it speaks for. An earlier version stays in force for what
    /// that one speaks for; to any other of these addresses nothing goes until it can be read or is removed: whether it asks for a waypoint
    /// is not known.
    pub fn insert_unreadable_address(&mut self, name: &str, claims: Vec<(Network, IpNet)>) {
        if !claims.is_empty() {
            self.unreadable_addresses.insert(name.into(), claims);
        }
    }

    /// The name of a workload or a service that speaks for this address and could not be read.
    #[must_use]
    pub fn unreadable_at(&self, address: &NetworkAddress) -> Option<&str> {
        let claims = |(network, net): &(Network, IpNet)| *network == address.network && net.contains(&address.ip);
        self.unreadable_addresses.iter().find(|(_, nets)| nets.iter().any(claims)).map(|(name, _)| &**name)
    }

    /// Removes the workload or the service with this resource name (`uid` or `namespace/hostname`), read or not. Unknown names are no
    /// error.
    pub fn remove_address(&mut self, name: &str) {
        self.unreadable_addresses.remove(name);
        if self.remove_workload(name) {
            return;
        }
        if let Some(key) = self.service_called(name).cloned() {
            self.remove_service(&key);
        }
    }

    /// As [`MeshState::remove_address`], and notes which addresses a pod of the mesh leaves `now`.
    pub fn vacate_address(&mut self, name: &str, now: Instant) {
        if let Some(workload) = self.workloads.get(name).filter(|gone| has_its_own_addresses(gone)) {
            self.vacant.note(workload.addresses.iter().map(|ip| NetworkAddress::new(workload.network.clone(), *ip)), now);
        }
        self.remove_address(name);
    }

    /// Whether a pod of the mesh has left this address less than [`VACANT`] before `now`. Whoever has it now may be known all the same.
    #[must_use]
    pub fn is_vacant(&self, address: &NetworkAddress, now: Instant) -> bool {
        self.vacant.holds(address, now)
    }

    /// The key of the service with this resource name.
    fn service_called(&self, name: &str) -> Option<&ServiceKey> {
        let (namespace, hostname) = name.split_once('/')?;
        let mut named = self.services_named(hostname).map(|service| &service.key);
        named.find(|key| key.namespace.as_str() == namespace)
    }

    fn remove_workload(&mut self, uid: &str) -> bool {
        let Some(workload) = self.workloads.remove(uid) else { return false };
        self.policies.forget(uid);
        for ip in &workload.addresses {
            let address = NetworkAddress::new(workload.network.clone(), *ip);
            few::remove(&mut self.by_address, &address, |held| held.uid == workload.uid);
        }
        few::remove(&mut self.by_name, &workload.name, |held| held.uid == workload.uid);
        for key in workload.services.keys() {
            if let Some(endpoints) = self.endpoints.get_mut(key) {
                endpoints.ranked = OnceLock::new();
                endpoints.by_uid.remove(&workload.uid);
                if endpoints.by_uid.is_empty() {
                    self.endpoints.remove(key);
                }
            }
        }
        few::fit(&mut self.workloads);
        few::fit(&mut self.by_address);
        few::fit(&mut self.by_name);
        few::fit(&mut self.endpoints);
        true
    }

    fn remove_service(&mut self, key: &ServiceKey) {
        let Some(service) = self.services.remove(key) else { return };
        if let Some(endpoints) = self.endpoints.get_mut(key) {
            endpoints.ranked = OnceLock::new();
        }
        for vip in &service.vips {
            few::remove(&mut self.by_vip, vip, |held| held.key == *key);
        }
        few::remove(&mut self.by_hostname, &key.hostname, |held| held.key == *key);
    }

    /// Removes a policy, read or not. Unknown keys are no error.
    pub fn remove_policy(&mut self, key: &PolicyKey) {
        self.policies.remove(key);
    }

    /// The workload with this uid.
    #[must_use]
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The workload at this address: one with an address of its own before one on the host's network, then the one that came last.
    #[must_use]
    pub fn workload_at(&self, address: &NetworkAddress) -> Option<&Arc<Workload>> {
        let at = || few::under(&self.by_address, address).iter().rev();
        at().find(|workload| !workload.host_network).or_else(|| at().next())
    }

    /// The service with this key.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// The service with this virtual address; the canonical one before others.
    #[must_use]
    pub fn service_at(&self, vip: &NetworkAddress) -> Option<&Arc<Service>> {
        let at = || few::under(&self.by_vip, vip).iter();
        at().find(|service| service.canonical).or_else(|| at().next())
    }

    /// The service with this virtual address for clients of a namespace: of those that they may know of the canonical one before others,
    /// then one of their own namespace, then the first by its key.
    #[must_use]
    pub fn service_for(&self, client: &Namespace, vip: &NetworkAddress) -> Option<&Arc<Service>> {
        let visible = few::under(&self.by_vip, vip).iter().filter(|service| service.is_visible_to(client));
        let rank = |service: &Arc<Service>| (!service.canonical, service.key.namespace != *client);
        visible.min_by(|one, other| rank(one).cmp(&rank(other)).then_with(|| one.key.cmp(&other.key)))
    }

    /// The services with this host name, in the order of their namespaces.
    pub fn services_named(&self, hostname: &str) -> impl Iterator<Item = &Arc<Service>> {
        few::under(&self.by_hostname, hostname).iter()
    }

    /// The workloads that say they are endpoints of this service, in the order of their uids.
    pub fn endpoints(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<Workload>> {
        self.endpoints.get(key).into_iter().flat_map(|endpoints| endpoints.by_uid.values())
    }

    /// The endpoints of a service of this state that may be used, in the order in which they are chosen.
    pub(crate) fn ranked(&self, service: &Service) -> Option<&Ranked> {
        let endpoints = self.endpoints.get(&service.key)?;
        Some(endpoints.ranked.get_or_init(|| Ranked::new(&service.load_balancing, endpoints.by_uid.values())))
    }

    /// The policy with this key.
    #[must_use]
    pub fn policy(&self, key: &PolicyKey) -> Option<&Arc<Policy>> {
        self.policies.get(key)
    }

    /// Which workloads the policy with this key holds for now, be it read or not; nothing when there is none.
    #[must_use]
    pub fn scope_of_policy(&self, key: &PolicyKey) -> Option<Scope> {
        self.policies.scope(key)
    }

    /// The policies of the mesh and of the namespace of `workload`.
    pub(crate) fn policies_around(&self, workload: &Workload) -> [Option<Arc<PolicySet>>; 2] {
        self.policies.around(workload)
    }

    /// The policies that `workload` names.
    pub(crate) fn policies_named_by(&self, workload: &Workload) -> Option<Arc<Named>> {
        let current = || self.workloads.get(&workload.uid).is_some_and(|held| std::ptr::eq(&**held, workload));
        self.policies.named(workload, current)
    }

    /// A policy whose scope holds `workload` and that could not be read.
    #[must_use]
    pub fn unreadable_policy_for<'a>(&'a self, workload: &'a Workload) -> Option<&'a PolicyKey> {
        self.policies.unreadable_for(workload)
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// All policies that could be read, in no order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.all()
    }

    /// The workload of a pod, found by what the node knows of it. The identity must agree, so that an older pod of the same name
    /// is not taken for it.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str, identity: &SpiffeId) -> Option<&Arc<Workload>> {
        few::under(&self.by_name, name)
            .iter()
            .find(|workload| workload.namespace.as_str() == namespace && workload.identity == *identity)
    }
}

/// Whether it is a pod of the mesh whose addresses another one can get after it.
fn has_its_own_addresses(workload: &Workload) -> bool {
    workload.tunnel == Tunnel::Hbone && !workload.host_network
}

#[cfg(test)]
mod tests;
