//! The control plane: Kubernetes objects in, workload discovery, Envoy resources and certificates out.
//!
//! A change walks `source` → `index` → `translate` → `push` → the xDS server's cache; see `ARCHITECTURE.md`.

#![forbid(unsafe_code)]

mod accept;
mod authority;
pub mod ca;
mod config;
pub mod deploy;
mod error;
pub mod index;
pub mod jwks;
pub mod leader;
mod mesh;
mod monitoring;
pub mod push;
mod retry;
pub mod roots;
mod serve;
mod share;
pub mod source;
pub mod status;
pub mod translate;
pub mod validation;

pub use config::{Account, ClusterConfig, Config};
pub use error::Error;
pub use mesh::Mesh;
pub use serve::{ControlPlane, run};
