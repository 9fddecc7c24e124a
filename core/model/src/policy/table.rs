//! All policies, by whom they hold for: what is decided for a workload looks at none that cannot hold for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use super::{Policy, PolicyKey, Scope, index::PolicySet};
use crate::workload::{Uid, Workload};

/// The policies of one scope.
#[derive(Debug, Clone, Default)]
struct Bucket {
    policies: BTreeMap<PolicyKey, Arc<Policy>>,
    /// Policies that could not be read.
    unreadable: BTreeSet<PolicyKey>,
    /// Made when it is decided on them, and again when they have changed.
    set: OnceLock<Arc<PolicySet>>,
}

impl Bucket {
    fn set(&self) -> Arc<PolicySet> {
        Arc::clone(self.set.get_or_init(|| Arc::new(PolicySet::of(self.policies.values()))))
    }

    fn is_empty(&self) -> bool {
        self.policies.is_empty() && self.unreadable.is_empty()
    }
}

/// The policies that one workload names.
#[derive(Debug, Default)]
pub(crate) struct Named {
    pub(crate) set: PolicySet,
    /// The first of them that was not delivered.
    pub(crate) undelivered: Option<PolicyKey>,
    keys: HashSet<PolicyKey>,
}

/// All policies.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    all: HashMap<PolicyKey, Arc<Policy>>,
    unreadable: HashMap<PolicyKey, Scope>,
    global: Bucket,
    by_namespace: HashMap<Arc<str>, Bucket>,
    /// What was made for the workloads that it was decided for; only of such as are in the state as they are.
    named: RwLock<HashMap<Uid, Arc<Named>>>,
}

impl Clone for Policies {
    fn clone(&self) -> Self {
        let Self { all, unreadable, global, by_namespace, named: _ } = self;
        let (all, unreadable) = (all.clone(), unreadable.clone());
        Self { all, unreadable, global: global.clone(), by_namespace: by_namespace.clone(), named: RwLock::default() }
    }
}

impl Policies {
    pub(crate) fn insert(&mut self, policy: Policy) {
        self.remove(&policy.key);
        let policy = Arc::new(policy);
        if let Some(bucket) = self.bucket(&policy.key, policy.scope) {
            bucket.policies.insert(policy.key.clone(), Arc::clone(&policy));
        }
        self.all.insert(policy.key.clone(), policy);
    }

    pub(crate) fn insert_unreadable(&mut self, key: PolicyKey, scope: Scope) {
        if self.all.contains_key(&key) {
            return;
        }
        self.remove(&key);
        if let Some(bucket) = self.bucket(&key, scope) {
            bucket.unreadable.insert(key.clone());
        }
        self.unreadable.insert(key, scope);
    }

    pub(crate) fn remove(&mut self, key: &PolicyKey) {
        let held = self.all.remove(key).map(|policy| policy.scope);
        for scope in held.into_iter().chain(self.unreadable.remove(key)) {
            if let Some(bucket) = self.bucket(key, scope) {
                bucket.policies.remove(key);
                bucket.unreadable.remove(key);
            }
        }
        if self.by_namespace.get(&key.namespace).is_some_and(Bucket::is_empty) {
            self.by_namespace.remove(&key.namespace);
        }
        self.cache().retain(|_, named| !named.keys.contains(key));
    }

    /// Where a policy of this scope is, to be changed; nothing when it holds for those only that name it.
    fn bucket(&mut self, key: &PolicyKey, scope: Scope) -> Option<&mut Bucket> {
        let bucket = match scope {
            Scope::Global => &mut self.global,
            Scope::Namespace => self.by_namespace.entry(Arc::clone(&key.namespace)).or_default(),
            Scope::Selector => return None,
        };
        bucket.set.take();
        Some(bucket)
    }

    fn cache(&mut self) -> &mut HashMap<Uid, Arc<Named>> {
        self.named.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// The workload with this uid is another one now, or no more.
    pub(crate) fn forget(&mut self, uid: &str) {
        self.cache().remove(uid);
    }

    pub(crate) fn get(&self, key: &PolicyKey) -> Option<&Arc<Policy>> {
        self.all.get(key)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.all.values()
    }

    /// The scope that a policy has now, read or not.
    pub(crate) fn scope(&self, key: &PolicyKey) -> Option<Scope> {
        self.all.get(key).map(|policy| policy.scope).or_else(|| self.unreadable.get(key).copied())
    }

    /// Those of the mesh and of the namespace of `workload`.
    pub(crate) fn around(&self, workload: &Workload) -> [Option<Arc<PolicySet>>; 2] {
        let namespace = self.by_namespace.get(workload.namespace.as_str());
        let global = (!self.global.policies.is_empty()).then(|| self.global.set());
        [global, namespace.filter(|bucket| !bucket.policies.is_empty()).map(Bucket::set)]
    }

    /// Those that `workload` names; nothing when it names none. `current` says that it is the one that the state holds, so that what is
    /// made for it can be kept until it, or one of them, changes.
    pub(crate) fn named(&self, workload: &Workload, current: impl FnOnce() -> bool) -> Option<Arc<Named>> {
        if workload.policies.is_empty() {
            return None;
        }
        if !current() {
            return Some(Arc::new(self.name(workload)));
        }
        let held = self.named.read().unwrap_or_else(PoisonError::into_inner).get(&workload.uid).cloned();
        Some(held.unwrap_or_else(|| {
            let named = Arc::new(self.name(workload));
            let mut held = self.named.write().unwrap_or_else(PoisonError::into_inner);
            held.insert(workload.uid.clone(), Arc::clone(&named));
            named
        }))
    }

    fn name(&self, workload: &Workload) -> Named {
        let keys: HashSet<PolicyKey> = workload.policies.iter().cloned().collect();
        // One that could not be read is found by `unreadable_for`, before this is asked.
        let delivered = |key: &PolicyKey| self.all.contains_key(key) || self.unreadable.contains_key(key);
        let undelivered = workload.policies.iter().find(|key| !delivered(key)).cloned();
        // What holds for it by its scope is asked there.
        let sorted: BTreeSet<&PolicyKey> = keys.iter().collect();
        let held = sorted.into_iter().filter_map(|key| self.all.get(key)).filter(|policy| !policy.holds_by_scope(workload));
        Named { set: PolicySet::of(held), undelivered, keys }
    }

    /// A policy whose scope holds `workload` and that could not be read.
    pub(crate) fn unreadable_for<'a>(&'a self, workload: &'a Workload) -> Option<&'a PolicyKey> {
        let namespace = self.by_namespace.get(workload.namespace.as_str());
        let by_scope = self.global.unreadable.first().or_else(|| namespace?.unreadable.first());
        let named = || workload.policies.iter().find(|key| !self.unreadable.is_empty() && self.unreadable.contains_key(key));
        by_scope.or_else(named)
    }
}

#[cfg(test)]
mod tests;
