//! The command people type: `ambit up` shows a whole mesh on this machine; `ambit ztunnel|waypoint|istiod` are its parts.
//!
//! | module | purpose |
//! |---|---|
//! | [`ca`] | `ambit ca`: the certificate authority on Kubernetes, seen and asked for another root |
//! | [`check`] | `ambit check`: whether YAML, or a cluster, is as it has to be |
//! | [`cli`] | the command line: one program that carries all parts |
//! | [`cluster`] | `ambit cluster`: a real Kubernetes on this machine; `ambit image` |
//! | [`demo`] | the demonstration's business programs, which know nothing of the mesh |
//! | [`envoy`] | `ambit envoy`: an unmodified Envoy as a waypoint |
//! | [`explain`] | `ambit explain`: why the mesh does what it does |
//! | [`install`] | `ambit install`: the chart in a cluster, and the CNI plugin on a node |
//! | [`local`] | the local mesh: API server, kubelet and node agent of the test bed |
//! | [`mod@print`] | how all of them print, also where nobody reads it |
//! | `stop` | why a command that goes on and on ends |
//! | [`up`] | `ambit up`: start the mesh, show it, report on it |
//! | [`waypoints`] | `ambit waypoint apply`, `list`, `status` and `delete`: the waypoints of a cluster |

#![forbid(unsafe_code)]

// First: its macros are those of all others.
#[macro_use]
pub mod print;

pub mod ca;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod demo;
pub mod envoy;
pub mod error;
pub mod explain;
pub mod install;
pub mod local;
mod stop;
pub mod up;
pub mod waypoints;
