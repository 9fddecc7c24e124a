//! The local mesh: everything that `ambit up` shows, as a library that suites and measurements use too.
//!
//! It is API server, scheduler, kubelet and node agent of the test bed's nodes: it follows a directory of ordinary Kubernetes YAML,
//! runs the pods' commands as processes in network namespaces, and writes what an API server would hold beside the user's objects
//! into a directory of its own, which the control plane reads laid over the user's (`overlay`). The mesh itself is made of the real
//! programs: one `istiod`, one `ztunnel` for each node, one `waypoint` for each Gateway of class `istio-waypoint`.
//!
//! | module | purpose |
//! |---|---|
//! | [`mesh`] | start, look at and disturb a mesh: [`LocalMesh`] |
//! | `kubelet` | the actor that makes what runs equal to what is asked for |
//! | `cluster`, `objects`, `overlay`, `vips`, `hosts`, `tokens` | the API server's part |
//! | `node`, `pod`, `process`, `probe`, `programs` | the node's part |
//! | `settled` | whether every proxy holds what runs |
//! | [`edges`], [`access`], [`topology`], `observer`, `scrape` | who talks to whom, from what programs and proxies saw |

pub mod access;
pub(crate) mod cluster;
pub mod edges;
mod hosts;
mod kubelet;
pub mod mesh;
mod node;
pub(crate) mod objects;
mod observer;
mod options;
pub(crate) mod overlay;
mod pod;
mod probe;
mod process;
mod programs;
mod scrape;
mod settled;
mod together;
mod tokens;
pub mod topology;
pub(crate) mod vips;

pub use mesh::{LocalMesh, ProcessUse, Wire};
pub use observer::{Observer, Totals};
pub use options::{LocalOptions, WaypointKind};
pub use process::{Process, ProcessState};
