//! The handover of pods from a node agent to node proxies (wire contract, section 5): its packets and its socket. Both ends use it.
//!
//! | module | purpose |
//! |---|---|
//! | [`protocol`] | the packets, as requests and answers |
//! | [`seqpacket`] | the Unix socket that carries them, with the descriptors of namespaces |

#![forbid(unsafe_code)]

mod error;
pub mod protocol;
pub mod seqpacket;

pub use error::Error;
