//! Addresses that pods of the mesh have left, and that nobody is known to have now.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::address::NetworkAddress;

/// How long an address that a pod of the mesh has left is nobody's, unless the control plane says whose it is. The next to get it may be
/// a pod of the mesh too, which answers before the control plane has told of it; who was told the address earlier would reach it in clear.
pub const VACANT: Duration = Duration::from_secs(60);

/// When each was left. Bounded by how many pods leave within [`VACANT`].
#[derive(Debug, Default, Clone)]
pub(super) struct Vacant(HashMap<NetworkAddress, Instant>);

impl Vacant {
    /// Notes that these are left now, and forgets those that were left long ago.
    pub(super) fn note(&mut self, addresses: impl Iterator<Item = NetworkAddress>, now: Instant) {
        self.0.retain(|_, left| now.saturating_duration_since(*left) < VACANT);
        self.0.extend(addresses.map(|address| (address, now)));
    }

    /// Whether it was left a short while before `now`.
    pub(super) fn holds(&self, address: &NetworkAddress, now: Instant) -> bool {
        self.0.get(address).is_some_and(|left| now.saturating_duration_since(*left) < VACANT)
    }
}
