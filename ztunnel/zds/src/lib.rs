//! The handover of pods from a node agent to node proxies (wire contract, section 5): its packets and its socket. Both ends use it.
//!
//! | module | purpose |
//! |---|---|
//! | [`file`] | the file at which a Unix socket listens |
//! | [`protocol`] | the packets, as requests and answers |
//! | [`seqpacket`] | the Unix socket that carries them, with the descriptors of namespaces |

#![forbid(unsafe_code)]

mod error;
pub mod file;
pub mod protocol;
pub mod seqpacket;

pub use error::Error;
