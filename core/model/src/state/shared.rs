//! What many workloads have in common: names, identities, services. Each is held once, however many workloads have it.

use std::{collections::HashSet, hash::Hash, sync::Arc};

use ambit_identity::{Namespace, SpiffeId, TrustDomain};

use crate::{
    address::{GatewayAddress, Network},
    workload::{Services, Workload},
};

/// So many values are not worth a look for those that nobody has any more.
const FEW: usize = 256;

/// The values that workloads have now, and some that they had.
#[derive(Debug, Default)]
pub(super) struct Shared {
    texts: HashSet<Arc<str>>,
    namespaces: HashSet<Namespace>,
    trust_domains: HashSet<TrustDomain>,
    identities: HashSet<SpiffeId>,
    networks: HashSet<Network>,
    gateways: HashSet<Arc<GatewayAddress>>,
    services: HashSet<Services>,
    /// How many there were when only those were held that a workload had.
    needed: usize,
}

impl Clone for Shared {
    /// What a copy of a state comes to hold is shared among itself.
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Puts the value that is held in place of an equal one, and holds one that is new.
fn share<T: Clone + Eq + Hash>(held: &mut HashSet<T>, value: &mut T) {
    match held.get(value) {
        Some(known) => value.clone_from(known),
        None => _ = held.insert(value.clone()),
    }
}

impl Shared {
    /// Has `workload` share with the others whatever it has in common with them.
    pub(super) fn share(&mut self, workload: &mut Workload) {
        // What has no room to spare is given back: these lists were made one by one.
        workload.addresses.shrink_to_fit();
        workload.policies.shrink_to_fit();
        let Workload { hostname, node, canonical_name, canonical_revision, workload_name, cluster, locality, .. } = workload;
        let place = [&mut locality.region, &mut locality.zone, &mut locality.subzone];
        let names = [hostname, node, canonical_name, canonical_revision, workload_name, cluster];
        let policies = workload.policies.iter_mut().flat_map(|key| [&mut key.namespace, &mut key.name]);
        names.into_iter().chain(place).chain(policies).for_each(|text| share(&mut self.texts, text));
        share(&mut self.networks, &mut workload.network);
        share(&mut self.namespaces, &mut workload.namespace);
        self.share_identity(&mut workload.identity);
        let gateways = [&mut workload.waypoint, &mut workload.network_gateway];
        gateways.into_iter().flatten().for_each(|gateway| share(&mut self.gateways, gateway));
        share(&mut self.services, &mut workload.services);
    }

    fn share_identity(&mut self, identity: &mut SpiffeId) {
        if !self.identities.contains(identity) {
            let (mut domain, mut namespace) = (identity.trust_domain().clone(), identity.namespace().clone());
            share(&mut self.trust_domains, &mut domain);
            share(&mut self.namespaces, &mut namespace);
            *identity = SpiffeId::new(domain, namespace, identity.service_account().clone());
        }
        share(&mut self.identities, identity);
    }

    fn len(&self) -> usize {
        let Self { texts, namespaces, trust_domains, identities, networks, gateways, services, needed: _ } = self;
        let names = texts.len() + namespaces.len() + trust_domains.len() + networks.len();
        names + identities.len() + gateways.len() + services.len()
    }

    /// Forgets what nobody has any more, once that may be as much as what somebody has.
    pub(super) fn tidy<'a>(&mut self, workloads: impl Iterator<Item = &'a Arc<Workload>>) {
        if self.len() <= FEW.max(2 * self.needed) {
            return;
        }
        *self = Self::default();
        workloads.for_each(|workload| self.share(&mut Workload::clone(workload)));
        self.needed = self.len();
    }
}
