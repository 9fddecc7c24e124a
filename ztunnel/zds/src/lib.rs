//! The handover of pods from a node agent to node proxies (wire contract, section 5): its packets and its socket. Both ends use it.
//!
//! A proxy that leaves ends its side of the connection, and its last connections go on for a while. Until it closes the other side, too, it is
//! told of each pod whose network namespace is another pod's by then, as if that pod were taken away once more; it answers nothing.
//!
//! | module | purpose |
//! |---|---|
//! | [`mod@file`] | the file at which a Unix socket listens |
//! | [`protocol`] | the packets, as requests and answers |
//! | [`seqpacket`] | the Unix socket that carries them, with the descriptors of namespaces |

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented
    )
)]

mod error;
pub mod file;
pub mod protocol;
pub mod seqpacket;

pub use error::Error;
