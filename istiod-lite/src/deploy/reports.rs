//! What became of each Gateway's waypoint, for the status of the Gateway.

use std::collections::BTreeMap;

use crate::source::NamespacedName;

/// What became of the waypoint of one Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deployed {
    /// All its objects are as they should be.
    Applied,
    /// It is not deployed, for the Gateway says itself why it cannot be.
    Unusable,
    /// Its parameters cannot be used; a sentence.
    Refused(String),
    /// An object of its name is in the way; a sentence.
    Conflict(String),
    /// The API server refused an object, or there is no image; a sentence.
    Failed(String),
}

/// The waypoints that the deployer has looked at, by the name of their Gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reports(BTreeMap<NamespacedName, Deployed>);

impl Reports {
    /// What became of a Gateway's waypoint; `None` until the deployer has looked at it.
    #[must_use]
    pub fn get(&self, gateway: &NamespacedName) -> Option<&Deployed> {
        self.0.get(gateway)
    }

    /// Notes what became of one; `false` when that is known already.
    pub fn set(&mut self, gateway: NamespacedName, report: Deployed) -> bool {
        self.0.insert(gateway, report.clone()) != Some(report)
    }

    /// Forgets all Gateways but those for which `keep` holds; `false` when there are none to forget.
    pub fn retain(&mut self, keep: impl Fn(&NamespacedName) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|name, _| keep(name));
        self.0.len() != before
    }
}
