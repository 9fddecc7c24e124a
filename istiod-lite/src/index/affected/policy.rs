//! What policies can change: where they are enforced, and the pods that they select.

use std::collections::BTreeMap;

use super::super::{ChangedKey, Index, selects};
use super::Changed;
use crate::source::NamespacedName;
use crate::source::crd::{AuthorizationPolicy, WorkloadSelector};

impl Index {
    pub(in crate::index) fn policy_affected(&self, policy: &AuthorizationPolicy, name: &NamespacedName, changed: &mut Changed) {
        changed.insert(ChangedKey::Policy(name.clone()));
        let mut targets = policy.spec.targets().peekable();
        if targets.peek().is_none() {
            if policy.spec.selector.is_some() {
                self.selected(name, policy.spec.selector.as_ref(), changed);
            }
            return;
        }
        for target in targets {
            let object = NamespacedName::new(name.namespace.clone(), target.name.as_str());
            match target.kind.as_str() {
                "Service" => self.waypoint_of_service(&object, changed),
                "Gateway" => _ = changed.insert(ChangedKey::Waypoint(object)),
                "GatewayClass" => changed.extend(self.waypoints().cloned().map(ChangedKey::Waypoint)),
                _ => {}
            }
            // What is enforced at a waypoint must not be gone around.
            changed.extend(self.ingresses().cloned().map(ChangedKey::Waypoint));
        }
    }

    /// The pods that a policy with this selector holds for; one of the root namespace reaches every namespace.
    pub(super) fn selected(&self, policy: &NamespacedName, selector: Option<&WorkloadSelector>, changed: &mut Changed) {
        let labels = selector.map(|selector| &selector.match_labels);
        let pods = &self.objects().pods;
        if *policy.namespace == *self.config().root_namespace {
            let pods = pods.iter().filter(|(_, pod)| labels.is_none_or(|labels| selects(labels, pod.metadata.labels.as_ref())));
            changed.extend(pods.map(|(name, _)| ChangedKey::Workload(name.clone())));
        } else {
            let pods = self.pods_selected(&policy.namespace, labels.unwrap_or(&BTreeMap::new()));
            changed.extend(pods.into_iter().map(|pod| ChangedKey::Workload(NamespacedName::of(&pod.metadata))));
        }
    }

    /// The PeerAuthentications that may inherit from one: those of its namespace, or all when it is the mesh's.
    pub(super) fn peer_authentications_under(&self, name: &NamespacedName) -> Vec<NamespacedName> {
        let all = self.objects().peer_authentications.keys();
        let mesh = *name.namespace == *self.config().root_namespace;
        all.filter(|other| mesh || other.namespace == name.namespace).cloned().collect()
    }
}
