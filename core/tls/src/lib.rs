//! Certificates of the mesh: where they come from, how they are renewed, and how a peer's is checked.
//!
//! - [`Svid`]: a workload's certificate and key, held in memory only. [`SvidSource`] issues one: [`CaClient`] asks the mesh's certificate
//!   authority, [`authority::LocalSource`] signs with an authority of this process, and [`source`] has those that somebody else renews.
//! - [`SvidStore`]: keeps one per identity, renews it in the background, goes on with a valid one while the authority is away.
//! - [`handshake`]: TLS 1.3 with mutual SPIFFE verification; [`PeerError`] says in one sentence why a peer was refused.
//! - [`hello`]: the server name that somebody else's client begins with.
//! - [`Stream`]: an established connection, whose records are sealed and opened in place.
//! - [`authority`] and [`token`]: the authority's own side, and the service-account tokens it trusts.
//! - [`Served`]: a certificate that somebody else has issued, for clients outside of the mesh.
//! - [`control_plane`]: a verified gRPC channel to the control plane, and the token that goes with each call.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented
    )
)]

pub mod authority;
mod ca;
mod clock;
pub mod control_plane;
mod error;
mod files;
mod flags;
#[cfg(test)]
mod fuzz;
pub mod handshake;
pub mod hello;
mod keeper;
mod peer;
mod provider;
mod request;
mod retire;
pub mod revocation;
mod rotation;
mod served;
pub mod source;
mod store;
mod stream;
mod svid;
pub mod token;
mod trust;
mod verify;

pub use ca::{CaClient, CaConfig};
pub use clock::{SystemClock, WallClock};
pub use error::TlsError;
pub use flags::ControlPlaneFlags;
pub use handshake::{client_config, server_config};
pub use peer::{PeerError, Presented, peer_identity};
pub use provider::provider;
pub use request::{CertificateRequest, PemSvid};
pub use retire::{Retired, Retirements, follow_roots};
pub use served::{Certificates, Served, edge_config};
pub use source::SvidSource;
pub use store::{StoreConfig, SvidStatus, SvidStore};
pub use stream::Stream;
pub use svid::Svid;
pub use trust::Trust;
