//! Header blocks to fields (RFC 7541, section 6).

use bytes::Bytes;

use super::{Field, TABLE_SIZE, dynamic::Table, huffman, integer};

/// Why a block cannot be decoded. The connection's state is lost then: COMPRESSION_ERROR (RFC 9113, section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadBlock(pub(crate) &'static str);

const CUT: BadBlock = BadBlock("a header block ends within a field");
const INDEX: BadBlock = BadBlock("a header field has an index beyond the tables");
const MISCODED: BadBlock = BadBlock("a header string does not follow the Huffman code");
const TABLE: BadBlock = BadBlock("the peer's header table is larger than allowed");
const UNWANTED: BadBlock = BadBlock("a header block that was given up");
const LATE: BadBlock = BadBlock("a header table's size changes within a block");

/// Decodes what one peer sends in one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table,
}

impl Decoder {
    /// With the table that a peer may use unless it is told otherwise: 4096 bytes, which is also what we tell.
    pub(crate) fn new() -> Self {
        Self { table: Table::new(TABLE_SIZE) }
    }

    /// Hands each field of `block` to `each`, which says whether it wants the next. What it costs is bounded by the block's length: 1.6 bytes for a byte, and no more for
    /// fields of the tables, which are shared.
    ///
    /// # Errors
    /// When the block is not as it must be; nothing can be decoded after that.
    pub(crate) fn decode(&mut self, mut block: &[u8], mut each: impl FnMut(Field) -> bool) -> Result<(), BadBlock> {
        let input = &mut block;
        let mut plain = Vec::new();
        let mut begun = false;
        while let Some(&first) = input.first() {
            let wanted = match first {
                // Indexed.
                0x80.. => each(self.table.get(index(input, 7)?).ok_or(INDEX)?),
                // Literal, and into the table with it.
                0x40.. => {
                    let field = self.literal(input, 6, &mut plain)?;
                    self.table.insert(field.clone());
                    each(field)
                }
                // The table's size.
                0x20.. => {
                    let size = index(input, 5)?;
                    if begun {
                        return Err(LATE);
                    }
                    if size > TABLE_SIZE {
                        return Err(TABLE);
                    }
                    self.table.resize(size);
                    continue;
                }
                // Literal, not into the table: this time, or (0x10) by anybody on the way.
                _ => each(self.literal(input, 4, &mut plain)?),
            };
            if !wanted {
                return Err(UNWANTED);
            }
            begun = true;
        }
        Ok(())
    }

    fn literal(&self, input: &mut &[u8], bits: u8, plain: &mut Vec<u8>) -> Result<Field, BadBlock> {
        let name = match index(input, bits)? {
            0 => string(input, plain)?,
            index => self.table.get(index).ok_or(INDEX)?.name,
        };
        Ok(Field { name, value: string(input, plain)? })
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &Table {
        &self.table
    }
}

fn index(input: &mut &[u8], bits: u8) -> Result<usize, BadBlock> {
    integer::decode(input, bits).ok_or(CUT)
}

/// A string of its own, so that what is kept of a block does not keep the buffer it came in.
fn string(input: &mut &[u8], plain: &mut Vec<u8>) -> Result<Bytes, BadBlock> {
    let coded = input.first().is_some_and(|first| first & 0x80 != 0);
    let length = index(input, 7)?;
    let (text, rest) = input.split_at_checked(length).ok_or(CUT)?;
    *input = rest;
    if !coded {
        return Ok(Bytes::copy_from_slice(text));
    }
    plain.clear();
    huffman::decode(text, plain).map_err(|_| MISCODED)?;
    Ok(Bytes::copy_from_slice(plain))
}
