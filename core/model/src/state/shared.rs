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

    /// Forgets what nobody has any more, once that may be as much as what somebody has. Whoever waits for the state's lock waits for this too,
    /// so it only looks at what is held, and makes nothing.
    pub(super) fn tidy(&mut self) {
        if self.len() <= FEW.max(2 * self.needed) {
            return;
        }
        let Self { texts, namespaces, trust_domains, identities, networks, gateways, services, needed: _ } = self;
        // Identities before the names that they hold.
        identities.retain(SpiffeId::is_shared);
        texts.retain(|text| Arc::strong_count(text) > 1);
        namespaces.retain(Namespace::is_shared);
        trust_domains.retain(TrustDomain::is_shared);
        networks.retain(Network::is_shared);
        gateways.retain(|gateway| Arc::strong_count(gateway) > 1);
        services.retain(Services::is_shared);
        self.needed = self.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        state::MeshState,
        test_support::{endpoint_of, workload},
    };

    fn named(n: usize) -> Workload {
        let mut workload = endpoint_of(workload("web", "10.0.0.1"), &format!("service-{n}"));
        workload.node = format!("node-{n}").as_str().into();
        workload.network = format!("network-{n}").as_str().into();
        let [domain, namespace, account] = ["domain", "namespace", "account"].map(|name| format!("{name}-{n}"));
        workload.identity = format!("spiffe://{domain}/ns/{namespace}/sa/{account}").parse().unwrap();
        workload
    }

    #[test]
    fn what_workloads_had_is_forgotten_and_what_they_have_stays_shared() {
        let mut state = MeshState::new();
        let stays = Workload { uid: "stays".into(), ..named(0) };
        state.insert_workload(stays.clone());
        for n in 1..1000 {
            state.insert_workload(named(n));
            assert!(state.shared.len() <= FEW + 20, "{} values for two workloads", state.shared.len());
        }
        let held = state.workload("stays").unwrap();
        for (kept, is) in [
            (state.shared.texts.get(&held.node).is_some_and(|text| Arc::ptr_eq(text, &held.node)), "node"),
            (state.shared.identities.contains(&held.identity), "identity"),
            (state.shared.namespaces.contains(held.identity.namespace()), "namespace"),
            (state.shared.trust_domains.contains(held.identity.trust_domain()), "trust domain"),
            (state.shared.networks.contains(&held.network), "network"),
            (state.shared.services.contains(&held.services), "services"),
        ] {
            assert!(kept, "the {is} of a workload that is there was forgotten");
        }
        let mut others = Workload { uid: "other".into(), ..stays };
        others.node = "node-0".into();
        state.insert_workload(others);
        let [one, other] = ["stays", "other"].map(|uid| &state.workload(uid).unwrap().node);
        assert!(Arc::ptr_eq(one, other));
    }
}
