//! From the index to the resources that the proxies are sent.

pub mod authorization;
pub mod external;
pub mod grpc;
mod origin;
pub mod peer_authentication;
pub mod waypoint;
pub mod workload;
