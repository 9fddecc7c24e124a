//! HBONE: TCP carried in HTTP/2 CONNECT tunnels over mutual TLS (wire contract, section 4).
//!
//! - [`Pool`] opens tunnels, many to a connection; the caller brings the way to dial and the TLS.
//! - [`server::serve`] hands each CONNECT of one accepted connection to a handler.
//! - [`TunnelStream`] is the tunnel, on both sides: bytes each way, half-close, reset.
//! - [`aside`] hands bulk to a thread of its own.
//! - [`copy::pump`] joins a tunnel with a TCP connection (or a tunnel with a tunnel) and counts.
//!
//! Nothing here shows which HTTP/2 framing is used below.

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

pub mod aside;
mod authority;
mod connection;
pub mod copy;
mod driver;
mod error;
mod frame;
#[cfg(test)]
mod fuzz;
mod hpack;
mod mux;
mod pace;
mod pool;
mod refused;
pub mod server;
mod settings;
mod stream;
mod transport;

pub use authority::{Authority, AuthorityError, Host};
pub use error::{ConnectError, ServeError};
pub use mux::limit_unread;
pub use pool::{ConnectRequest, Pool, PoolConfig, PoolKey, PoolStatus, Spread};
pub use refused::{OnRefused, Refused};
pub use server::{Incoming, ServerConfig};
pub use settings::Settings;
pub use stream::{Carrier, TunnelStream};
pub use transport::{Plain, Transport};
