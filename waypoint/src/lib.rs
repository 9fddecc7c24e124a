//! The waypoint: the L7 proxy of the mesh.
//!
//! A connection: [`terminate`] accepts mutual TLS and HTTP/2 and decides on each CONNECT; the inner connection goes to [`http`] or
//! [`tcp`], as that of a client at a port of [`edge`] does, which proves no identity; [`upstream`] reaches an endpoint through a tunnel with the waypoint's own identity; [`observe`] writes what happened. [`health`] asks endpoints whether they are well, [`admin`] shows all of it.
//! All of that is done by the thread of the connection, of which [`carriers`] has one for each core.
//! A change: [`xds`] receives Envoy resources, compiles them into [`compiled`] configuration, and publishes it whole.

#![forbid(unsafe_code)]

pub mod admin;
mod authn;
mod authz;
pub mod carriers;
pub mod compiled;
mod config;
pub mod edge;
mod error;
pub mod explain;
pub mod health;
pub mod http;
pub mod observe;
pub mod proxy;
mod run;
pub mod tcp;
pub mod terminate;
pub mod upstream;
pub mod xds;

pub use config::Config;
pub use error::Error;
pub use run::{leave, run};

/// The port tunnels are opened to, on pods and waypoints alike.
pub const HBONE_PORT: u16 = 15008;
