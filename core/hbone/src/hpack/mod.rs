//! HPACK, the compression of HTTP/2 header fields (RFC 7541), without I/O.
//!
//! - [`Decoder`] and [`Encoder`] hold the state of one direction of one connection.
//! - [`integer`] and [`huffman`] are the primitives, [`fixed`] and [`dynamic`] the two tables.

mod decoder;
mod dynamic;
mod encoder;
mod fixed;
mod huffman;
mod integer;
#[cfg(test)]
pub(crate) mod tests;

use bytes::Bytes;
pub(crate) use decoder::{BadBlock, Decoder};
pub(crate) use encoder::{Encoder, Indexing};

/// Size of the dynamic table on both sides before any SETTINGS (RFC 9113, section 6.5.2), and the most that we use.
pub(crate) const TABLE_SIZE: usize = 4096;

/// What a field costs beside its text, in the tables and in a header list (RFC 7541, section 4.1).
pub(crate) const FIELD_OVERHEAD: usize = 32;

/// A header field as it stands in a table or in a block: not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: Bytes,
    pub(crate) value: Bytes,
}

impl Field {
    /// The size that tables and limits count (RFC 7541, section 4.1).
    pub(crate) fn size(&self) -> usize {
        self.name.len().saturating_add(self.value.len()).saturating_add(FIELD_OVERHEAD)
    }
}
