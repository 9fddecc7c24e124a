//! The demonstration: a small business system as ordinary programs that know nothing of the mesh.
//!
//! `client → web → api → {orders, billing, permissions, notifications} → storage`; permissions and notifications speak gRPC, the
//! others HTTP/1.1. Each program counts what it sees of the programs it calls (see [`stats`]), from the outside, as any user would.

pub mod config;
mod dial;
mod downstream;
mod grpc;
mod http;
mod load;
mod pool;
mod roles;
pub mod stats;

pub use config::DemoArgs;

use crate::error::Result;

/// Present in every payload of the demonstration, so that a capture of the wire can prove that nothing crosses it in clear.
pub const MARKER: &str = "AMBIT-PLAINTEXT-MARKER";

/// Header that carries [`MARKER`] where a message has no body.
pub const MARKER_HEADER: &str = "x-ambit-marker";

/// Header that carries the name of the program that answered.
pub const SERVED_BY_HEADER: &str = "x-served-by";

/// Header that carries the version of the program that answered.
pub const VERSION_HEADER: &str = "x-version";

/// Messages and services of `demo.proto`.
pub(crate) mod proto {
    #![allow(missing_docs, unused_qualifications, clippy::all)]
    tonic::include_proto!("ambit.demo.v1");
}

/// Runs one demonstration program until SIGTERM or SIGINT.
///
/// # Errors
/// If the listening address or the statistics socket cannot be bound, or a downstream address is malformed.
pub async fn run(args: DemoArgs) -> Result<()> {
    roles::run(args).await
}
