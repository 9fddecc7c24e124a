//! Fields to header blocks (RFC 7541, section 6).

use bytes::Bytes;

use super::{Field, TABLE_SIZE, dynamic::Table, fixed, integer};

/// What the tables do with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Indexing {
    /// It will come again: kept in the dynamic table.
    Keep,
    /// It will not come again.
    Once,
    /// It is secret: nobody on the way may keep it (RFC 7541, section 7.1.3).
    Never,
}

/// Encodes what we send in one connection. Strings are sent as they are, without the Huffman code.
#[derive(Debug)]
pub(crate) struct Encoder {
    table: Table,
    /// The smallest size that the table was set to since the last block. The peer has to be told (RFC 7541, section 4.2).
    resized: Option<usize>,
}

impl Encoder {
    /// With the table that the peer keeps unless it said otherwise.
    pub(crate) fn new() -> Self {
        Self { table: Table::new(TABLE_SIZE), resized: None }
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE. We use no more than 4096 bytes of it.
    pub(crate) fn set_table_size(&mut self, size: u32) {
        let size = usize::try_from(size).unwrap_or(TABLE_SIZE).min(TABLE_SIZE);
        if size != self.table.most() {
            self.resized = Some(self.resized.map_or(size, |smallest| smallest.min(size)));
            self.table.resize(size);
        }
    }

    /// Call it before the first field of a block.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(smallest) = self.resized.take() {
            let size = self.table.most();
            if smallest < size {
                integer::encode(out, smallest, 5, 0x20);
            }
            integer::encode(out, size, 5, 0x20);
        }
    }

    /// Appends one field; its name is in lower case.
    pub(crate) fn field(&mut self, out: &mut Vec<u8>, name: &str, value: &[u8], indexing: Indexing) {
        if let Some(index) = fixed::field(name, value) {
            return integer::encode(out, index, 7, 0x80);
        }
        let keep = indexing == Indexing::Keep;
        if keep && let Some(index) = self.table.find(|field| field.value == value && field.name == name) {
            return integer::encode(out, index, 7, 0x80);
        }
        let known = fixed::name(name).or_else(|| self.table.find(|field| field.name == name));
        let (bits, pattern) = match indexing {
            Indexing::Keep => (6, 0x40),
            Indexing::Once => (4, 0x00),
            Indexing::Never => (4, 0x10),
        };
        integer::encode(out, known.unwrap_or(0), bits, pattern);
        if known.is_none() {
            string(out, name.as_bytes());
        }
        string(out, value);
        if keep {
            self.table.insert(Field { name: Bytes::copy_from_slice(name.as_bytes()), value: Bytes::copy_from_slice(value) });
        }
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &Table {
        &self.table
    }
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    integer::encode(out, text.len(), 7, 0);
    out.extend_from_slice(text);
}
