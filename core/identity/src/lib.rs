//! Who a workload is: SPIFFE identities, parsed once at the edge and compared by value everywhere else.
//!
//! The form is the mesh's own: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`
//! (SPIFFE-ID standard, section 2; the path layout is the ambient wire contract's).

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

mod name;
mod spiffe;

pub use name::{Namespace, ServiceAccount, TrustDomain};
pub use spiffe::SpiffeId;

/// Why a text is not an identity or a part of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The part is empty.
    #[error("{part} is empty")]
    Empty {
        /// Which part: "trust domain", "namespace" or "service account".
        part: &'static str,
    },
    /// The part is longer than its standard allows.
    #[error("{part} has {length} characters, more than {limit}")]
    TooLong {
        /// Which part.
        part: &'static str,
        /// How long it is, in bytes.
        length: usize,
        /// How long it may be, in bytes.
        limit: usize,
    },
    /// The part has a character outside its alphabet.
    #[error("{part} has the character {character:?}, which is not allowed there")]
    Character {
        /// Which part.
        part: &'static str,
        /// The first character that is not allowed.
        character: char,
    },
    /// The text is not of the form `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    #[error("not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Form,
}
