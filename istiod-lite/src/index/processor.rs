//! External processors: by whom RequestPolicies have requests processed, and where.

use std::collections::BTreeSet;

use super::{ChangedKey, Index, ServicePort, ServiceRef};
use crate::source::NamespacedName;
use crate::source::crd::mesh::{self, Processor};

/// Who processes requests.
#[derive(Debug, Clone)]
pub struct Processes<'a> {
    /// The name of the extension provider.
    pub provider: &'a str,
    /// What is said of it.
    pub processor: &'a Processor,
    /// Its service.
    pub service: ServiceRef,
    /// The port there.
    pub port: ServicePort,
}

impl Index {
    /// Who an extension provider is that processes requests.
    ///
    /// # Errors
    /// Why nobody is.
    pub fn processor<'a>(&'a self, provider: &'a str) -> Result<Processes<'a>, String> {
        let key = NamespacedName::new(self.config().root_namespace.as_str(), mesh::NAME);
        let known = self.objects().mesh_settings.get(&key).and_then(|settings| settings.processors.get(provider));
        let processor = match known {
            Some(Ok(processor)) => processor,
            Some(Err(why)) => return Err(format!("the extension provider {provider} cannot process anything: {why}")),
            None => return Err(format!("the ConfigMap {key} has no extension provider {provider} of kind envoyExtProcGrpc")),
        };
        let (service, port) = self.place_of(provider, &processor.service, processor.port)?;
        Ok(Processes { provider, processor, service, port })
    }

    /// Adds the waypoints that have requests processed by whom this service is, or may be.
    pub(super) fn waypoints_processed_by(&self, service: &ServiceRef, changed: &mut BTreeSet<ChangedKey>) {
        let host = service.hostname(self.config());
        let is_this = |processor: &Processor| {
            let written = processor.service.rsplit('/').next().unwrap_or_default();
            written.eq_ignore_ascii_case(&host)
        };
        let known = self.objects().mesh_settings.values().flat_map(|settings| &settings.processors);
        let named: BTreeSet<&str> =
            known.filter(|(_, known)| known.as_ref().is_ok_and(is_this)).map(|(name, _)| name.as_str()).collect();
        if named.is_empty() {
            return;
        }
        for (name, policy) in &self.objects().request_policies {
            let processing = policy.spec.external_processing.as_ref();
            if processing.is_some_and(|processing| named.contains(processing.provider.as_str())) {
                self.request_policy_affected(policy, name, changed);
            }
        }
    }
}
