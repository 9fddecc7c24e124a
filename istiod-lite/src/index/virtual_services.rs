//! VirtualServices: whose requests they route, and where to. There are few, so that they have no reverse index.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::objects::in_namespace;
use super::service::ServiceRef;
use super::{ChangedKey, Index};
use crate::source::NamespacedName;
use crate::source::crd::virtual_service::{Destination, HttpRule, VirtualService};

impl Index {
    /// The VirtualService that routes requests for a Service, where no HTTPRoute does: of those of its namespace that name it the oldest.
    #[must_use]
    pub fn virtual_service_of(&self, service: &NamespacedName) -> Option<&Arc<VirtualService>> {
        let own = in_namespace(&self.objects().virtual_services, &service.namespace).map(|(_, object)| object);
        let naming = own.filter(|object| {
            let spec = &object.spec;
            let names = |host: &String| self.service_of_host(&service.namespace, host).is_ok_and(|named| named == *service);
            spec.is_for_mesh() && !spec.http.is_empty() && spec.hosts.iter().any(names)
        });
        naming.min_by_key(|object| {
            let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created.is_none(), created, NamespacedName::of(&object.metadata))
        })
    }

    /// The Service that a host means in a VirtualService of `namespace`, whether there is one or not.
    ///
    /// # Errors
    /// Why it can mean none.
    pub fn service_of_host(&self, namespace: &str, host: &str) -> Result<NamespacedName, String> {
        let host = host.to_ascii_lowercase();
        let suffix = format!(".svc.{}", self.config().cluster_domain);
        let Some(whole) = host.strip_suffix(&suffix) else {
            return match host.contains(['.', '*']) || host.is_empty() {
                true => Err(format!("{host:?} is no Service: write its name, or NAME.{namespace}{suffix}")),
                false => Ok(NamespacedName::new(namespace, host.as_str())),
            };
        };
        match whole.split_once('.') {
            Some((name, of)) if of == namespace && !name.contains('*') => Ok(NamespacedName::new(namespace, name)),
            _ => Err(format!(
                "{host:?} is of another namespace: write a VirtualService there, or an HTTPRoute with a ReferenceGrant"
            )),
        }
    }

    /// Where a destination leads to from a port of a Service: a Service and its port.
    ///
    /// # Errors
    /// Why it leads nowhere.
    pub fn destination(&self, namespace: &str, from: u16, destination: &Destination) -> Result<(ServiceRef, u16), String> {
        let name = self.service_of_host(namespace, &destination.host)?;
        if !self.objects().services.contains_key(&name) {
            return Err(format!("Service {name} does not exist"));
        }
        let service = ServiceRef::Kubernetes(name.clone());
        let ports = self.service_ports(&service);
        let found = match &destination.port {
            Some(asked) => ports.iter().find(|port| i64::from(port.port) == asked.number),
            None => ports.iter().find(|port| port.port == from).or(match ports.as_slice() {
                [only] => Some(only),
                _ => None,
            }),
        };
        let Some(found) = found else { return Err(format!("Service {name} has no such port, or several: write port.number")) };
        if let Some(asks) = self.asks_for_tls(&service, found) {
            return Err(format!("{asks} asks for TLS to it, which a waypoint does not begin"));
        }
        if let Some(subset) = destination.named_subset() {
            self.leads_to_subset(&service, found, subset)?;
        }
        Ok((service, found.port))
    }

    /// What a VirtualService can change: who routes requests for its hosts.
    pub(super) fn virtual_service_affected(&self, object: &VirtualService, changed: &mut BTreeSet<ChangedKey>) {
        for service in self.hosts_of(object) {
            // What it leads to is new, or is not sent to any more.
            self.waypoint_of_service(&service, changed);
            changed.insert(ChangedKey::Clients(service));
        }
    }

    /// The Services that a VirtualService may be about.
    pub(crate) fn hosts_of(&self, object: &VirtualService) -> Vec<NamespacedName> {
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        object.spec.hosts.iter().filter_map(|host| self.service_of_host(namespace, host).ok()).collect()
    }

    /// The same for those that lead to this Service.
    pub(super) fn virtual_services_to(&self, service: &NamespacedName, changed: &mut BTreeSet<ChangedKey>) {
        for (_, object) in in_namespace(&self.objects().virtual_services, &service.namespace) {
            let leads =
                |to: &Destination| self.service_of_host(&service.namespace, &to.host).is_ok_and(|named| named == *service);
            if object.spec.http.iter().flat_map(destinations).any(leads) {
                self.virtual_service_affected(object, changed);
            }
        }
    }
}

/// All that a rule sends to, copies included.
pub fn destinations(rule: &HttpRule) -> impl Iterator<Item = &Destination> {
    let sent = rule.route.iter().map(|weighted| &weighted.destination);
    sent.chain(&rule.mirror).chain(rule.mirrors.iter().map(|mirror| &mirror.destination))
}
