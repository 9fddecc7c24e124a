//! Addresses that pods of the mesh have left, and that nobody is known to have now.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::address::NetworkAddress;

/// How long an address that a pod of the mesh has left is nobody's, unless the control plane says whose it is. The next to get it may be
/// a pod of the mesh too, which answers before the control plane has told of it; who was told the address earlier would reach it in clear.
pub const VACANT: Duration = Duration::from_secs(60);

/// So many are not worth a look for those that were left long ago.
const FEW: usize = 64;

/// When each was left. Bounded by twice the number of those that leave within [`VACANT`].
#[derive(Debug, Default, Clone)]
pub(super) struct Vacant {
    left: HashMap<NetworkAddress, Instant>,
    /// How many there were after the last look.
    recent: usize,
}

impl Vacant {
    /// Notes that these are left now, and forgets those that were left long ago.
    pub(super) fn note(&mut self, addresses: impl Iterator<Item = NetworkAddress>, now: Instant) {
        // Not each time: when all pods of a large mesh go, all that went before them would be looked at for each.
        if self.left.len() > FEW.max(2 * self.recent) {
            self.left.retain(|_, left| now.saturating_duration_since(*left) < VACANT);
            self.left.shrink_to_fit();
            self.recent = self.left.len();
        }
        self.left.extend(addresses.map(|address| (address, now)));
    }

    /// Whether it was left a short while before `now`.
    pub(super) fn holds(&self, address: &NetworkAddress, now: Instant) -> bool {
        self.left.get(address).is_some_and(|left| now.saturating_duration_since(*left) < VACANT)
    }
}
