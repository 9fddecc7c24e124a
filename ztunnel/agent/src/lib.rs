//! The node agent: gets the traffic of labelled pods captured, and sees that it stays captured.
//!
//! TCP is captured; other UDP is left alone, and so are pods on the host's network, which have no namespace of their own.
//!
//! | module | purpose |
//! |---|---|
//! | [`agent`] | pods come and go |
//! | `shared` | which pods are kept, and what is said of them |
//! | [`rules`] | what captures a pod: one description, two packet filters, routing; verified against what the kernel shows |
//! | `keeper` | looks after one pod: verifies, repairs, cuts off |
//! | `changes` | hears when somebody changes a pod's packet filter |
//! | [`verdict`] | what is said of a pod, decided from what was observed |
//! | [`listeners`] | whether the proxy listens in a pod |
//! | `proxies` | the handover to node proxies, old and new at once |
//! | [`node`] | the sandboxes of the node: what the CNI plugin asks for |
//! | `follow` | what the labels ask for, and pods that nobody told of |
//! | [`cni`] | the socket at which the CNI plugin asks |
//! | [`discover`] | pods that ran before the agent |
//! | [`source`] | which pods there are, and which are in the mesh |
//! | [`kubernetes`] | the same from the API server, and what it is told of pods |
//! | [`records`] | the sandboxes on disk, for a restarted agent |
//! | [`probes`] | the node's own rules, so that the kubelet's probes pass |
//! | [`status`] | the capture of each pod, as others read it |

#![forbid(unsafe_code)]

pub mod agent;
mod changes;
pub mod cni;
mod config;
pub mod discover;
mod error;
mod follow;
mod keeper;
pub mod kubernetes;
pub mod listeners;
pub mod node;
pub mod probes;
mod proxies;
pub mod records;
pub mod rules;
mod run;
mod shared;
pub mod source;
pub mod status;
pub mod verdict;

pub use agent::{Agent, Handover, PodInfo};
pub use config::Config;
pub use error::Error;
pub use run::{program, run};
