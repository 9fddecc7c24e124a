//! From xDS into the shared state. Resources are read off-lock, and a bad one is rejected alone.

use std::sync::Arc;

use ambit_model::{
    convert::{Entry, claimed_addresses, decode_policy},
    policy::PolicyKey,
    state::MeshState,
};
use ambit_xds::{Rejected, Resource, client::Handler};

use super::Shared;

/// Takes `istio.workload.Address`.
pub fn addresses(shared: Arc<Shared>) -> impl Handler + 'static {
    move |upserts: Vec<Resource>, removals: Vec<String>| {
        let mut rejected = Vec::new();
        let mut entries = Vec::with_capacity(upserts.len());
        let mut unreadable = Vec::new();
        for resource in upserts {
            match Entry::decode(&resource.name, &resource.body.value) {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    unreadable.push((resource.name.clone(), claimed_addresses(&resource.body.value)));
                    rejected.push(Rejected { name: resource.name, reason: error.to_string() });
                }
            }
        }
        shared.change(|mesh| {
            // Which policies hold for a workload is said by the workload.
            let policies = entries.iter().any(|entry| names_other_policies(&shared, mesh, entry));
            removals.iter().for_each(|name| mesh.remove_address(name));
            entries.into_iter().for_each(|entry| mesh.insert(entry));
            unreadable.into_iter().for_each(|(name, claims)| mesh.insert_unreadable_address(&name, claims));
            policies
        });
        rejected
    }
}

fn names_other_policies(shared: &Shared, mesh: &MeshState, entry: &Entry) -> bool {
    let Entry::Workload(new) = entry else { return false };
    match mesh.workload(new.uid.as_str()) {
        Some(old) => old.policies != new.policies,
        // It comes back, and which policies it named before is not known any more. There may be connections to it.
        None => shared.decided().contains(&new.uid),
    }
}

/// Takes `istio.security.Authorization`.
pub fn policies(shared: Arc<Shared>) -> impl Handler + 'static {
    move |upserts: Vec<Resource>, removals: Vec<String>| {
        let mut rejected = Vec::new();
        let mut read = Vec::with_capacity(upserts.len());
        let mut unreadable = Vec::new();
        for resource in upserts {
            match decode_policy(&resource.name, &resource.body.value) {
                Ok(policy) => read.push(policy),
                Err(bad) => {
                    rejected.push(Rejected { name: resource.name, reason: bad.error.to_string() });
                    unreadable.push(bad);
                }
            }
        }
        let removals: Vec<PolicyKey> = removals.iter().filter_map(|name| name.parse().ok()).collect();
        shared.write(true, |mesh| {
            removals.iter().for_each(|key| mesh.remove_policy(key));
            read.into_iter().for_each(|policy| mesh.insert_policy(policy));
            unreadable.into_iter().for_each(|bad| mesh.insert_unreadable_policy(bad.key, bad.scope));
        });
        rejected
    }
}
