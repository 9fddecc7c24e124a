//! Torture: what tunnels must stand, with random scripts over real TCP connections of both families, with TLS and without.
//!
//! Every byte that arrives is compared with what was sent, and how each tunnel ends with how it was ended. Scripts are derived from one
//! seed, which is random unless `TORTURE_SEED` is set, and printed by a test that fails.

#![allow(missing_docs)]
#![allow(clippy::large_futures, reason = "tests have the stack for them")]

mod alone;
mod bed;
mod cases;
mod noise;
mod pipe;
mod pipes;
mod raw;
mod relay;
mod script;
mod talk;
mod wire;
