//! From xDS into the shared state. Resources are read off-lock, and a bad one is rejected alone.

use std::sync::Arc;

use ambit_model::{
    convert::{Entry, claimed_addresses, decode_policy},
    policy::{PolicyKey, Reach},
    state::MeshState,
    workload::Uid,
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
            let mut reach = Reach::default();
            entries.iter().filter_map(|entry| names_other_policies(&shared, mesh, entry)).for_each(|uid| reach.add_workload(uid));
            removals.iter().for_each(|name| mesh.remove_address(name));
            entries.into_iter().for_each(|entry| mesh.insert(entry));
            unreadable.into_iter().for_each(|(name, claims)| mesh.insert_unreadable_address(&name, claims));
            reach
        });
        rejected
    }
}

fn names_other_policies(shared: &Shared, mesh: &MeshState, entry: &Entry) -> Option<Uid> {
    let Entry::Workload(new) = entry else { return None };
    let other = match mesh.workload(new.uid.as_str()) {
        Some(old) => old.policies != new.policies || old.namespace != new.namespace,
        // It comes back, and which policies it named before is not known any more. There may be connections to it.
        None => shared.is_watched(&new.uid),
    };
    other.then(|| new.uid.clone())
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
        let removals: Vec<PolicyKey> = removals.iter().map(|name| PolicyKey::of_resource(name)).collect();
        shared.change(|mesh| {
            let mut reach = Reach::default();
            for key in &removals {
                before(&mut reach, mesh, key);
                mesh.remove_policy(key);
            }
            for policy in read {
                if mesh.policy(&policy.key).is_some_and(|held| **held == policy) {
                    continue;
                }
                before(&mut reach, mesh, &policy.key);
                reach.add_policy(&policy.key, policy.scope);
                mesh.insert_policy(policy);
            }
            for bad in unreadable {
                before(&mut reach, mesh, &bad.key);
                reach.add_policy(&bad.key, bad.scope);
                mesh.insert_unreadable_policy(bad.key, bad.scope);
            }
            reach
        });
        rejected
    }
}

/// Whom a policy concerned that is about to change.
fn before(reach: &mut Reach, mesh: &MeshState, key: &PolicyKey) {
    if let Some(scope) = mesh.scope_of_policy(key) {
        reach.add_policy(key, scope);
    }
}
