//! From xDS into the shared state. Resources are read off-lock, and a bad one is rejected alone.

use std::{collections::HashSet, sync::Arc, time::Instant};

use ambit_model::{
    convert::{Entry, claimed_addresses, decode_policy},
    policy::{PolicyKey, Reach},
    state::MeshState,
    workload::Uid,
};
use ambit_xds::{Rejected, Resource, client::Handler};

use super::Shared;

/// So many names of extensions are remembered, not to warn of them again.
const EXTENSIONS: usize = 64;

/// Takes `istio.workload.Address`.
pub fn addresses(shared: Arc<Shared>) -> impl Handler + 'static {
    let mut heard = HashSet::new();
    move |upserts: Vec<Resource>, removals: Vec<String>| {
        let mut rejected = Vec::new();
        let mut entries = Vec::with_capacity(upserts.len());
        let mut unreadable = Vec::new();
        for resource in upserts {
            match Entry::decode(&resource.name, &resource.body.value) {
                Ok(entry) => {
                    for name in unheard(&mut heard, &entry) {
                        tracing::warn!("{} comes with the extension {name:?}, for which nothing is done", resource.name);
                    }
                    entries.push(entry);
                }
                Err(error) => {
                    unreadable.push((resource.name.clone(), claimed_addresses(&resource.body.value)));
                    rejected.push(Rejected { name: resource.name, reason: error.to_string() });
                }
            }
        }
        let now = Instant::now();
        shared.change(|mesh| {
            // Which policies hold for a workload is said by the workload.
            let mut reach = Reach::default();
            entries.iter().filter_map(|entry| names_other_policies(&shared, mesh, entry)).for_each(|uid| reach.add_workload(uid));
            removals.iter().for_each(|name| mesh.vacate_address(name, now));
            for entry in entries {
                if let Entry::Workload(new) = &entry {
                    mesh.note_moved(new, now);
                }
                mesh.insert(entry);
            }
            unreadable.into_iter().for_each(|(name, claims)| mesh.insert_unreadable_address(&name, claims));
            reach
        });
        rejected
    }
}

/// The extensions of `entry` that none came with before.
fn unheard(heard: &mut HashSet<Box<str>>, entry: &Entry) -> Vec<Box<str>> {
    let names = match entry {
        Entry::Workload(workload) => &workload.extensions,
        Entry::Service(service) => &service.extensions,
    };
    names.iter().filter(|name| heard.len() < EXTENSIONS && heard.insert((*name).clone())).cloned().collect()
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

#[cfg(test)]
mod tests {
    use ambit_api::workload as wire;

    use super::*;

    #[test]
    fn the_names_of_extensions_are_kept_and_warned_of_once() {
        let extensions =
            |names: &[&str]| names.iter().map(|name| wire::Extension { name: (*name).into(), config: None }).collect();
        let workload = |names: &[&str]| {
            let named = wire::Workload { uid: "web".into(), namespace: "shop".into(), ..Default::default() };
            Entry::Workload(Box::new(wire::Workload { extensions: extensions(names), ..named }.try_into().unwrap()))
        };
        let service = |names: &[&str]| {
            let named = wire::Service { hostname: "web.shop".into(), namespace: "shop".into(), ..Default::default() };
            Entry::Service(Box::new(wire::Service { extensions: extensions(names), ..named }.try_into().unwrap()))
        };
        let mut heard = HashSet::new();
        let mut check = |entry: Entry, new: &[&str]| {
            let dump = match &entry {
                Entry::Workload(workload) => serde_json::to_string(workload).unwrap(),
                Entry::Service(service) => serde_json::to_string(service).unwrap(),
            };
            let told = unheard(&mut heard, &entry);
            assert_eq!(told.iter().map(|name| &**name).collect::<Vec<_>>(), new);
            assert!(told.iter().all(|name| dump.contains(&**name)), "{dump}");
        };
        check(workload(&[]), &[]);
        check(workload(&["a", "b"]), &["a", "b"]);
        check(service(&["b", "c"]), &["c"]);
        check(workload(&["a", "b", "c"]), &[]);
        for number in 0..2 * EXTENSIONS {
            unheard(&mut heard, &workload(&[&number.to_string()]));
        }
        assert_eq!(heard.len(), EXTENSIONS);
    }
}
