//! Header compression against the RFC's examples, against itself, and against garbage.

mod examples;
pub(crate) mod fuzz;
mod random;

use super::{BadBlock, Decoder};

/// Fields as text.
fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, BadBlock> {
    let mut fields = Vec::new();
    decoder.decode(block, |field| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        fields.push((text(&field.name), text(&field.value)));
        true
    })?;
    Ok(fields)
}

/// Bytes written as in the RFC.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
