//! The discovery client: one delta ADS stream, kept alive for as long as the program runs.

mod backoff;
mod run;
mod session;
mod subscriptions;
mod target;
#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use run::DeltaClient;
pub use session::{Batch, Interest, Session};
pub use subscriptions::Subscriptions;
pub use target::{Credentials, DEFAULT_SERVER_NAME, Target, channel};

use crate::{Rejected, Resource};

/// Takes the resources of one type into the program's state.
///
/// What is rejected is answered with a NACK that names it, and is not held: the version before it, if there was one, must stay in force.
pub trait Handler: Send {
    /// Applies a batch and says which resources it did not take. Runs between two messages of the stream: convert here, then write
    /// the state in one short lock.
    fn apply(&mut self, upserts: Vec<Resource>, removals: Vec<String>) -> Vec<Rejected>;
}

impl<F: FnMut(Vec<Resource>, Vec<String>) -> Vec<Rejected> + Send> Handler for F {
    fn apply(&mut self, upserts: Vec<Resource>, removals: Vec<String>) -> Vec<Rejected> {
        self(upserts, removals)
    }
}

/// One type to be discovered.
pub struct Subscription {
    /// The type.
    pub type_url: String,
    /// Every resource of the type, or the names set through [`Subscriptions`].
    pub interest: Interest,
    /// Who takes the resources.
    pub handler: Box<dyn Handler>,
}

impl Subscription {
    /// Every resource of the type.
    #[must_use]
    pub fn wildcard(type_url: &str, handler: impl Handler + 'static) -> Self {
        Self { type_url: type_url.to_owned(), interest: Interest::Wildcard, handler: Box::new(handler) }
    }

    /// Only the names that [`Subscriptions::set`] asks for; nothing until then.
    #[must_use]
    pub fn by_name(type_url: &str, handler: impl Handler + 'static) -> Self {
        Self { type_url: type_url.to_owned(), interest: Interest::Named, handler: Box::new(handler) }
    }
}
