//! External authorizers: whom policies of action CUSTOM have asked, and where.

use std::collections::BTreeSet;

use super::{ChangedKey, Index, ServicePort, ServiceRef};
use crate::source::NamespacedName;
use crate::source::crd::mesh::{self, Authorizer};
use crate::source::crd::{AuthorizationPolicy, PolicyAction};

/// Whom a policy has asked.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// The name of the extension provider.
    pub provider: &'a str,
    /// What is said of it.
    pub authorizer: &'a Authorizer,
    /// Its service.
    pub service: ServiceRef,
    /// The port there.
    pub port: ServicePort,
}

impl Index {
    /// Whom a policy of action CUSTOM has asked.
    ///
    /// # Errors
    /// Why nobody can be.
    pub fn asked_by<'a>(&'a self, policy: &'a AuthorizationPolicy) -> Result<Asked<'a>, String> {
        let Some(provider) = policy.spec.provider.as_ref().map(|provider| provider.name.as_str()) else {
            return Err("it names no extension provider".into());
        };
        let key = NamespacedName::new(self.config().root_namespace.as_str(), mesh::NAME);
        let known = self.objects().mesh_settings.get(&key).and_then(|settings| settings.providers.get(provider));
        let authorizer = match known {
            Some(Ok(authorizer)) => authorizer,
            Some(Err(why)) => return Err(format!("the extension provider {provider} cannot be asked: {why}")),
            None => return Err(format!("the ConfigMap {key} has no extension provider {provider}")),
        };
        let Authorizer { service: written, port: number, .. } = authorizer;
        let place = format!("{written}:{number} of the extension provider {provider}");
        let Some(service) = self.service_of_authorizer(written) else {
            return Err(format!("there is no service {place}; it is to be the whole host name"));
        };
        // A waypoint is told where endpoints are.
        if let ServiceRef::Host(host) = &service
            && self.entry_of_host(host).is_some_and(|entry| entry.spec.resolution.by_name())
        {
            return Err(format!("the service {place} is found by DNS; give its endpoints with resolution STATIC"));
        }
        let port = self.service_ports(&service).into_iter().find(|port| port.port == *number);
        let port = port.ok_or_else(|| format!("there is no port {place}"))?;
        Ok(Asked { provider, authorizer, service, port })
    }

    /// The service of this host name, before which there may be a namespace (`namespace/host`).
    fn service_of_authorizer(&self, written: &str) -> Option<ServiceRef> {
        let (namespace, host) = written.split_once('/').map_or((None, written), |(namespace, host)| (Some(namespace), host));
        let host = host.to_ascii_lowercase();
        let of_services =
            host.strip_suffix(&format!(".svc.{}", self.config().cluster_domain)).and_then(|name| name.split_once('.'));
        if let Some((name, of)) = of_services {
            let service = NamespacedName::new(of, name);
            let there = self.objects().services.contains_key(&service);
            if there && namespace.is_none_or(|namespace| namespace == of) {
                return Some(ServiceRef::Kubernetes(service));
            }
        }
        let entries = self.objects().service_entries.iter();
        let mut hosts = entries
            .filter(|(_, entry)| entry.spec.hosts.iter().any(|named| named.eq_ignore_ascii_case(&host)))
            .map(|(name, _)| NamespacedName::new(name.namespace.clone(), host.as_str()))
            .filter(|key| namespace.is_none_or(|namespace| *key.namespace == *namespace));
        // Without a namespace it must be clear whose it is.
        let first = hosts.next()?;
        let other = hosts.any(|host| host != first);
        (!other && self.entry_of_host(&first).is_some()).then_some(ServiceRef::Host(first))
    }

    /// Adds the waypoints that ask an authorizer which is, or may be, this service.
    pub(super) fn waypoints_asking(&self, service: &ServiceRef, changed: &mut BTreeSet<ChangedKey>) {
        let host = service.hostname(self.config());
        let is_this = |authorizer: &Authorizer| {
            let written = authorizer.service.rsplit('/').next().unwrap_or_default();
            written.eq_ignore_ascii_case(&host)
        };
        let providers = self.objects().mesh_settings.values().flat_map(|settings| &settings.providers);
        let asked: BTreeSet<&str> =
            providers.filter(|(_, known)| known.as_ref().is_ok_and(is_this)).map(|(name, _)| name.as_str()).collect();
        if asked.is_empty() {
            return;
        }
        for (name, policy) in &self.objects().authorization_policies {
            let spec = &policy.spec;
            let asks = spec.action == PolicyAction::Custom
                && spec.provider.as_ref().is_some_and(|provider| asked.contains(provider.name.as_str()));
            if asks && spec.targets().next().is_some() {
                self.policy_affected(policy, name, changed);
            }
        }
    }
}
