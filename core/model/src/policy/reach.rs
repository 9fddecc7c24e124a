//! Whom a change of policies may concern, so that connections to all others need not be decided about again.

use std::{collections::HashSet, sync::Arc};

use super::{PolicyKey, Scope};
use crate::{
    state::MeshState,
    workload::{Uid, Workload},
};

/// The workloads for which other policies may hold than before.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    everyone: bool,
    namespaces: HashSet<Arc<str>>,
    /// Those that name one of these.
    policies: HashSet<PolicyKey>,
    workloads: HashSet<Uid>,
}

impl Reach {
    /// Every workload.
    #[must_use]
    pub fn everyone() -> Self {
        Self { everyone: true, ..Self::default() }
    }

    /// The workloads as well that a policy of this scope holds for. To be called with its scope before the change and the one after it.
    pub fn add_policy(&mut self, key: &PolicyKey, scope: Scope) {
        match scope {
            Scope::Global => self.everyone = true,
            Scope::Namespace => {
                self.namespaces.insert(Arc::clone(&key.namespace));
            }
            Scope::Selector => {}
        }
        self.policies.insert(key.clone());
    }

    /// This workload as well: it names other policies.
    pub fn add_workload(&mut self, uid: Uid) {
        self.workloads.insert(uid);
    }

    /// Whether nobody is concerned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.everyone && self.namespaces.is_empty() && self.policies.is_empty() && self.workloads.is_empty()
    }

    /// Whether the workload with this uid is concerned. One that is not in `state` may be.
    #[must_use]
    pub fn concerns(&self, state: &MeshState, uid: &Uid) -> bool {
        if self.everyone || self.workloads.contains(uid) {
            return true;
        }
        let holds_for = |workload: &Arc<Workload>| {
            self.namespaces.contains(workload.namespace.as_str())
                || !self.policies.is_empty() && workload.policies.iter().any(|key| self.policies.contains(key))
        };
        state.workload(uid.as_str()).map_or(!self.is_empty(), holds_for)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::workload;

    #[test]
    fn a_change_concerns_those_for_whom_the_policy_holds_and_no_others() {
        let key = PolicyKey::new("shop", "p");
        let mut state = MeshState::new();
        state.insert_workload(workload("plain", "10.0.0.1"));
        state.insert_workload(Workload { policies: vec![key.clone()], ..workload("naming", "10.0.0.2") });
        state.insert_workload(Workload { namespace: "other".parse().unwrap(), ..workload("far", "10.0.0.3") });
        let concerned = |reach: &Reach| {
            ["plain", "naming", "far", "gone"].map(|name| reach.concerns(&state, &workload(name, "10.0.0.9").uid))
        };
        assert_eq!(concerned(&Reach::default()), [false; 4]);
        assert_eq!(concerned(&Reach::everyone()), [true; 4]);
        for (scope, whom) in [
            (Scope::Global, [true; 4]),
            (Scope::Namespace, [true, true, false, true]),
            (Scope::Selector, [false, true, false, true]),
        ] {
            let mut reach = Reach::default();
            reach.add_policy(&key, scope);
            assert_eq!((concerned(&reach), reach.is_empty()), (whom, false), "{scope:?}");
        }
        let mut reach = Reach::default();
        reach.add_workload(workload("far", "10.0.0.3").uid);
        assert_eq!(concerned(&reach), [false, false, true, true]);
    }
}
