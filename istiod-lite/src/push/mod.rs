//! Changed keys become resources in the cache that the xDS server serves.

mod authenticate;
mod clients;
mod resources;
mod run;
#[cfg(test)]
mod tests;
mod translated;
mod waypoints;

pub use authenticate::XdsAuthenticator;
pub use clients::{CLIENT_VIEW, Clients};
pub use resources::{NODE_VIEW, Pusher, waypoint_view};
pub use run::{Batch, follow, read};
pub use waypoints::Waypoints;
