//! What every Ambit program needs around its logic: start-up, readiness, drain, the admin server, telemetry, sockets and
//! network namespaces. Nothing in here knows about workloads, policies or certificates.
//!
//! | module | purpose |
//! |---|---|
//! | [`clock`] | the processor time of the process and of its threads |
//! | [`netns`] | hold a network namespace by file descriptor, run a closure in it |
//! | [`socket`] | listeners and connections with a mark, a foreign source address, inside a namespace; the original destination |
//! | [`drain`] | tell every task to finish, wait for them with a deadline |
//! | [`signal`] | wait for SIGTERM or SIGINT |
//! | [`profile`] | where processor time goes and who allocates, in the format of `pprof` |
//! | [`readiness`] | named start-up tasks that must finish before the program is ready |
//! | [`rest`] | give memory back when there is nothing to do |
//! | [`admin`] | a small HTTP/1.1 server for readiness, metrics and debug pages |
//! | [`sysctl`] | settings of a network namespace, also from within a container |
//! | [`telemetry`] | logging, the metrics recorder, label names, bounded series, the access log |
//! | [`workers`] | threads that carry connections, each with a runtime of its own |
//! | [`sys`] | the one place of the workspace with unsafe code |

#![deny(unsafe_code)]

pub mod admin;
pub mod clock;
pub mod drain;
mod error;
pub mod netns;
pub mod profile;
pub mod readiness;
pub mod rest;
pub mod signal;
pub mod socket;
#[allow(unsafe_code)]
pub mod sys;
pub mod sysctl;
pub mod telemetry;
pub mod workers;

pub use error::Error;
