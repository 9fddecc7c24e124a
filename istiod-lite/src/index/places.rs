//! What follows from where nodes are.

use std::collections::BTreeSet;

use super::{ChangedKey, Index, label};
use crate::source::{NamespacedName, Pod};

impl Index {
    /// Where a node is says how near the endpoints on it are, and to waypoints on it all others.
    pub(super) fn places_affected(&self, node: &str, changed: &mut BTreeSet<ChangedKey>) {
        let pods = self.links.pods_by_node.get(&node.to_owned()).filter_map(|name| self.objects().pods.get(name));
        for pod in pods {
            self.services_with_pod(pod).keys().for_each(|service| self.endpoints_affected(service, changed));
            self.own_waypoint_affected(pod, changed);
        }
        for key in self.links.externals_by_node.get(&node.to_owned()) {
            self.services_with_external(key).keys().for_each(|service| self.endpoints_affected(service, changed));
        }
    }

    /// The waypoint that a pod itself runs, which is told by where it does.
    pub(super) fn own_waypoint_affected(&self, pod: &Pod, changed: &mut BTreeSet<ChangedKey>) {
        let labels = pod.metadata.labels.as_ref();
        let gateway = labels.and_then(|labels| labels.get(label::GATEWAY_NAME));
        let gateway =
            gateway.map(|name| NamespacedName::new(pod.metadata.namespace.as_deref().unwrap_or_default(), name.as_str()));
        changed.extend(gateway.filter(|name| self.objects().gateways.contains_key(name)).map(ChangedKey::Waypoint));
    }
}
