//! What a proxy has itself seen of endpoints: the part of a decision that the control plane does not tell.

use std::{fmt, net::IpAddr, sync::Arc, time::Instant};

use crate::workload::Uid;

/// What a proxy has seen of endpoints and of host names. Decisions only ask; they change nothing in it.
pub trait Observed: fmt::Debug {
    /// How many connections of this proxy the endpoint carries now.
    fn open(&self, endpoint: &Uid) -> u32;

    /// When a connect to `port` of the endpoint failed last, if it is rested now because of that ([`Standing`](super::Standing)).
    fn rested(&self, endpoint: &Uid, port: u16) -> Option<Instant>;

    /// What this host name stands for.
    fn resolved(&self, hostname: &str) -> Name;

    /// The moment of the decision; nothing when it is decided as if all had been so for ever.
    fn now(&self) -> Option<Instant> {
        None
    }
}

/// What a host name stands for, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// It was not asked for yet.
    Unknown,
    /// Its addresses; never none.
    Addresses(Arc<[IpAddr]>),
    /// It was asked for in vain, a moment ago.
    Failed,
}

/// Nothing was seen yet: every endpoint is as free as another, none is rested, and no host name is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observed for Unobserved {
    fn open(&self, _: &Uid) -> u32 {
        0
    }

    fn rested(&self, _: &Uid, _: u16) -> Option<Instant> {
        None
    }

    fn resolved(&self, _: &str) -> Name {
        Name::Unknown
    }
}
