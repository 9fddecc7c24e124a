//! Subsets: parts of a service by the labels of its endpoints, as the DestinationRule of its host names them. VirtualServices lead to them.

use super::endpoint::{Endpoint, selects};
use super::external::{ExternalKey, entry_labels};
use super::service::ServiceRef;
use super::{Index, ServicePort};
use crate::source::NamespacedName;
use crate::source::crd::destination::Subset;

impl Index {
    /// The subsets of a service, each by a name of its own.
    pub fn subsets_of(&self, service: &ServiceRef) -> Vec<&Subset> {
        self.destination_rule_of(service).map(|rule| rule.spec.usable_subsets().collect()).unwrap_or_default()
    }

    /// The subset of a service that has this name.
    ///
    /// # Errors
    /// Why there is none.
    pub fn subset(&self, service: &ServiceRef, name: &str) -> Result<&Subset, String> {
        let Some(rule) = self.destination_rule_of(service) else {
            let host = service.hostname(self.config());
            return Err(format!("there is no subset {name:?}, as no DestinationRule of its namespace has the host {host}"));
        };
        let found = rule.spec.usable_subsets().find(|subset| subset.name == name);
        found.ok_or_else(|| format!("DestinationRule {} has no subset {name:?}", NamespacedName::of(&rule.metadata)))
    }

    /// Whether requests can be led to a subset, at this port.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn leads_to_subset(&self, service: &ServiceRef, port: &ServicePort, name: &str) -> Result<(), String> {
        let subset = self.subset(service, name)?;
        let rule = self.destination_rule_of(service);
        let begins = rule.and_then(|rule| rule.spec.settings(Some(subset), port.port).tls).is_some_and(|tls| tls.begins());
        if begins { Err(format!("its subset {name:?} asks for TLS, which a waypoint does not begin")) } else { Ok(()) }
    }

    /// Whether an endpoint of a service belongs to a subset of it. What is neither a pod nor a WorkloadEntry has no labels.
    #[must_use]
    pub fn is_in_subset(&self, endpoint: &Endpoint, subset: &Subset) -> bool {
        let (name, config) = (&endpoint.workload, self.config());
        if endpoint.uid == config.pod_uid(name) {
            let pod = self.objects().pods.get(name);
            return selects(&subset.labels, pod.and_then(|pod| pod.metadata.labels.as_ref()));
        }
        let is_entry = endpoint.uid == ExternalKey::Entry(name.clone()).uid(config);
        let entry = self.objects().workload_entries.get(name).filter(|_| is_entry);
        selects(&subset.labels, entry.map(|entry| entry_labels(entry)).as_ref())
    }
}
