//! The discovery server: a cache of views, and sessions that read from it what their peer lacks.

mod ads;
mod cache;
mod delta;
mod held;
mod order;
mod sotw;
mod status;
#[cfg(test)]
mod tests;
mod turns;
mod wire;

pub use ads::{AdsServer, Authenticate, ServerConfig};
pub use cache::{Cache, Change, Entry, View, Writer};
pub use delta::DeltaSession;
pub use sotw::SotwSession;
pub use status::{Nack, Protocol, SessionStatus, Status, TypeStatus};
pub use wire::AdsService;
