//! The record layer: a TLS 1.3 connection after its handshake, sealed and opened in place (RFC 8446, section 5).
//!
//! rustls makes the handshake ([`driver`]) and derives the keys, also those of later key updates. The records are ours, so that the
//! bytes of a tunnel are not copied: what arrives is opened in the buffer into which it was read ([`inbox`], [`open`]), what leaves
//! is sealed where the caller has put it together ([`seal`]).
//!
//! Rules that hold everywhere here: a sequence number is used up before its record is sealed, whatever becomes of the record; a
//! connection that has failed has no keys any more; nothing that a peer sends makes memory grow beyond the one read buffer.

mod driver;
mod fault;
mod inbox;
mod incoming;
mod io;
mod keys;
mod open;
mod post;
mod receive;
mod seal;
mod send;
mod transport;

#[cfg(test)]
mod tests;

pub(crate) use driver::{client, server};
pub use transport::Stream;

/// Content types of records (RFC 8446, section 5.1).
const ALERT: u8 = 21;
/// See [`ALERT`].
const HANDSHAKE: u8 = 22;
/// See [`ALERT`]. Also what every protected record calls itself on the wire.
const APPLICATION_DATA: u8 = 23;

/// Length of a record's head on the wire.
const HEAD: usize = 5;
/// Length of the tag of AES-GCM.
const TAG: usize = 16;
/// The content type and the tag, which follow the plaintext.
const TAIL: usize = 1 + TAG;
/// Most plaintext in a record (RFC 8446, section 5.1).
const MOST: usize = 1 << 14;
/// Most ciphertext in a record (RFC 8446, section 5.2).
const MOST_SEALED: usize = MOST + 256;
