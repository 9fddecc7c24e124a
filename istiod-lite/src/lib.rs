//! The control plane: Kubernetes objects in, workload discovery, Envoy resources and certificates out.
//!
//! A change walks `source` → `index` → `translate` → `push` → the xDS server's cache; see `ARCHITECTURE.md`.

#![forbid(unsafe_code)]

pub mod ca;
pub mod index;
pub mod push;
pub mod source;
pub mod status;
pub mod translate;
