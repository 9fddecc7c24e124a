//! Extension providers: whom policies of action CUSTOM have asked, and where; and whom limits of RequestPolicies have.

use std::collections::BTreeSet;

use super::{ChangedKey, Index, ServicePort, ServiceRef};
use crate::source::NamespacedName;
use crate::source::crd::mesh::{self, Authorizer, Limiter, MeshSettings};
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

/// Whom a limit has asked.
#[derive(Debug, Clone)]
pub struct Limited<'a> {
    /// What is said of the server.
    pub limiter: &'a Limiter,
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
        let authorizer = self.provider(provider, |settings| settings.providers.get(provider))?;
        let (service, port) = self.place_of(provider, &authorizer.service, authorizer.port)?;
        Ok(Asked { provider, authorizer, service, port })
    }

    /// The server that is asked about a limit which names this provider.
    ///
    /// # Errors
    /// Why nobody can be.
    pub fn limiter(&self, provider: &str) -> Result<Limited<'_>, String> {
        let limiter = self.provider(provider, |settings| settings.limiters.get(provider))?;
        let (service, port) = self.place_of(provider, &limiter.service, limiter.port)?;
        Ok(Limited { limiter, service, port })
    }

    /// What is said of that server, whether it can be asked or not; nothing where that is not to be read.
    #[must_use]
    pub fn known_limiter(&self, provider: &str) -> Option<&Limiter> {
        self.provider(provider, |settings| settings.limiters.get(provider)).ok()
    }

    /// What the mesh says of a provider.
    fn provider<'a, T: 'a>(
        &'a self,
        provider: &str,
        find: impl FnOnce(&'a MeshSettings) -> Option<&'a Result<T, String>>,
    ) -> Result<&'a T, String> {
        let key = NamespacedName::new(self.config().root_namespace.as_str(), mesh::NAME);
        match self.objects().mesh_settings.get(&key).and_then(|settings| find(settings)) {
            Some(Ok(known)) => Ok(known),
            Some(Err(why)) => Err(format!("the extension provider {provider} cannot be asked: {why}")),
            None => Err(format!("the ConfigMap {key} has no extension provider {provider}")),
        }
    }

    /// The service of a provider, and the port there.
    pub(super) fn place_of(&self, provider: &str, written: &str, number: u16) -> Result<(ServiceRef, ServicePort), String> {
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
        let port = self.service_ports(&service).into_iter().find(|port| port.port == number);
        let port = port.ok_or_else(|| format!("there is no port {place}"))?;
        Ok((service, port))
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
            .filter(|key| namespace.is_none_or(|namespace| *key.namespace == *namespace))
            // While a Service is not there nobody else takes its place.
            .filter(|key| of_services.is_none_or(|(_, of)| *key.namespace == *of));
        // Without a namespace it must be clear whose it is.
        let first = hosts.next()?;
        let other = hosts.any(|host| host != first);
        (!other && self.entry_of_host(&first).is_some()).then_some(ServiceRef::Host(first))
    }

    /// Adds the waypoints that ask an authorizer, or a server of limits, which is, or may be, this service.
    pub(super) fn waypoints_asking(&self, service: &ServiceRef, changed: &mut BTreeSet<ChangedKey>) {
        let host = service.hostname(self.config());
        let is_this = |written: &str| written.rsplit('/').next().unwrap_or_default().eq_ignore_ascii_case(&host);
        let settings = || self.objects().mesh_settings.values();
        let providers = settings().flat_map(|settings| &settings.providers);
        let providers = providers.filter(|(_, known)| known.as_ref().is_ok_and(|authorizer| is_this(&authorizer.service)));
        let asked: BTreeSet<&str> = providers.map(|(name, _)| name.as_str()).collect();
        let limiters = settings().flat_map(|settings| &settings.limiters);
        let limiters = limiters.filter(|(_, known)| known.as_ref().is_ok_and(|limiter| is_this(&limiter.service)));
        let limiters: BTreeSet<&str> = limiters.map(|(name, _)| name.as_str()).collect();
        if asked.is_empty() && limiters.is_empty() {
            return;
        }
        for (name, policy) in &self.objects().request_policies {
            let global = policy.spec.rate_limit.as_ref().and_then(|limit| limit.global.as_ref());
            if global.is_some_and(|limit| limiters.contains(limit.provider.as_str())) {
                self.request_policy_affected(policy, name, changed);
            }
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
