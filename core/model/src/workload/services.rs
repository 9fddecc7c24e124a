//! The services of a workload: many workloads have the same ones, and share them.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Serialize, Serializer};

use crate::{address::ServiceKey, service::Port};

/// The services that a workload is an endpoint of, in the order of their keys, with the ports it serves there. Cloning it is a reference
/// count.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Services(Arc<[(ServiceKey, Box<[Port]>)]>);

impl Services {
    /// The ports that it serves of a service; nothing when it is no endpoint of it.
    #[must_use]
    pub fn get(&self, key: &ServiceKey) -> Option<&[Port]> {
        let at = self.0.binary_search_by(|(held, _)| held.cmp(key)).ok()?;
        self.0.get(at).map(|(_, ports)| &**ports)
    }

    /// Whether it is an endpoint of this service.
    #[must_use]
    pub fn contains_key(&self, key: &ServiceKey) -> bool {
        self.get(key).is_some()
    }

    /// The services.
    pub fn keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.0.iter().map(|(key, _)| key)
    }

    /// The services with their ports.
    pub fn iter(&self) -> impl Iterator<Item = (&ServiceKey, &[Port])> {
        self.0.iter().map(|(key, ports)| (key, &**ports))
    }

    /// Whether there is a clone of it somewhere.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// The same with one service more, or with other ports of it.
    #[must_use]
    pub fn with(&self, key: ServiceKey, ports: Vec<Port>) -> Self {
        let held = self.iter().map(|(key, ports)| (key.clone(), ports.to_vec()));
        held.chain([(key, ports)]).collect()
    }
}

impl FromIterator<(ServiceKey, Vec<Port>)> for Services {
    fn from_iter<T: IntoIterator<Item = (ServiceKey, Vec<Port>)>>(services: T) -> Self {
        let sorted: BTreeMap<ServiceKey, Vec<Port>> = services.into_iter().collect();
        Self(sorted.into_iter().map(|(key, ports)| (key, ports.into())).collect())
    }
}

impl Serialize for Services {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(key, ports)| (key.to_string(), ports)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_found_by_their_keys_whatever_order_they_came_in() {
        let key = |name: &str| ServiceKey { namespace: "shop".parse().unwrap(), hostname: name.into() };
        let port = |service_port| Port { service_port, target_port: 8080, app_protocol: Default::default() };
        let services: Services = ["c", "a", "b"].map(|name| (key(name), vec![port(80)])).into_iter().collect();
        assert_eq!(services.keys().map(|key| &*key.hostname).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(services.get(&key("b")), Some(&[port(80)][..]));
        assert!(services.get(&key("d")).is_none() && !Services::default().contains_key(&key("a")));
        let more = services.with(key("b"), vec![port(81)]).with(key("d"), Vec::new());
        assert_eq!((more.get(&key("b")), more.get(&key("d"))), (Some(&[port(81)][..]), Some(&[][..])));
        assert_eq!(more.keys().map(ToString::to_string).collect::<Vec<_>>(), ["shop/a", "shop/b", "shop/c", "shop/d"]);
    }
}
