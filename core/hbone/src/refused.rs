//! Requests that no handler sees, and tunnels that are cut for what their peer does: told to whoever serves the connection.

use std::{fmt, sync::Arc};

/// Why a tunnel was refused or cut by this side without its handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// There are as many tunnels in the connection as there may be.
    TooMany,
    /// The request is not a CONNECT.
    NotConnect,
    /// The headers are larger than they may be.
    HeadersTooLarge,
    /// The peer broke the protocol of one stream.
    Broken,
}

impl Refused {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::TooMany, Self::NotConnect, Self::HeadersTooLarge, Self::Broken];

    /// In words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::TooMany => "more tunnels in one connection than there may be",
            Self::NotConnect => "a request that is not a CONNECT",
            Self::HeadersTooLarge => "headers that are larger than they may be",
            Self::Broken => "a stream that breaks the protocol",
        }
    }

    const fn place(self) -> usize {
        match self {
            Self::TooMany => 0,
            Self::NotConnect => 1,
            Self::HeadersTooLarge => 2,
            Self::Broken => 3,
        }
    }
}

/// How many of each kind there were.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally([u32; Refused::ALL.len()]);

impl Tally {
    pub(crate) fn count(&mut self, refused: Refused) {
        if let Some(count) = self.0.get_mut(refused.place()) {
            *count = count.saturating_add(1);
        }
    }

    /// Those of which there were any.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (Refused, u32)> + use<> {
        let counts = std::mem::take(&mut self.0);
        Refused::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Who is told of what was refused, and how often since the last time. Called by the task that serves the connection.
#[derive(Clone)]
pub struct OnRefused(Arc<dyn Fn(Refused, u32) + Send + Sync>);

impl OnRefused {
    /// Tells `told`.
    pub fn new(told: impl Fn(Refused, u32) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    pub(crate) fn tell(&self, refused: Refused, count: u32) {
        (self.0)(refused, count);
    }
}

impl fmt::Debug for OnRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnRefused")
    }
}
