//! The discovery server: a cache of views, and sessions that read from it what their peer lacks.

mod ads;
mod cache;
mod delta;
mod encoded;
mod held;
mod order;
mod request;
mod response;
mod sotw;
mod status;
mod subscription;
#[cfg(test)]
mod tests;
mod turns;
mod whole;
mod wire;

pub use ads::{AdsServer, Authenticate, ServerConfig};
pub use cache::{Cache, Change, Entry, View, Writer};
pub use delta::DeltaSession;
pub use request::DeltaRequest;
pub use response::DeltaResponse;
pub use sotw::SotwSession;
pub use status::{Nack, Protocol, SessionStatus, Status, TypeStatus};
pub use wire::{AdsService, WINDOW};
