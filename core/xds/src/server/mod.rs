//! The discovery server: a cache of views, and sessions that read from it what their peer lacks.

mod ads;
mod bell;
mod cache;
mod calls;
mod connection;
mod delta;
mod encoded;
mod gathered;
mod held;
mod latest;
mod order;
mod request;
mod response;
mod seen;
mod serve;
mod sotw;
mod status;
mod stream;
mod subscription;
#[cfg(test)]
mod tests;
mod turns;
mod view;
mod whole;
mod wire;

pub use ads::{AdsServer, Authenticate, ServerConfig};
pub use cache::{Cache, Change, Writer};
pub use delta::DeltaSession;
pub use request::DeltaRequest;
pub use response::DeltaResponse;
pub use seen::{seen_by_all, seen_from};
pub use sotw::SotwSession;
pub use status::{Nack, Protocol, SessionStatus, Status, TypeStatus};
pub use view::{Entry, View};
pub use wire::AdsService;
