//! Integers with a prefix (RFC 7541, section 5.1).

/// Appends `value` with a prefix of `bits` bits; `pattern` holds the bits above the prefix.
pub(super) fn encode(out: &mut Vec<u8>, value: usize, bits: u8, pattern: u8) {
    let most = (1_usize << bits) - 1;
    if value < most {
        out.push(pattern | low_byte(value));
        return;
    }
    out.push(pattern | low_byte(most));
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(low_byte(rest) | 0x80);
        rest >>= 7;
    }
    out.push(low_byte(rest));
}

/// Takes an integer with a prefix of `bits` bits off `input`. `None` when it is cut off, or larger than any that has a meaning here.
pub(super) fn decode(input: &mut &[u8], bits: u8) -> Option<usize> {
    /// Larger than every index and length in a block that is accepted; the value stays within 32 bits.
    const LONGEST: u32 = 28;
    let most = (1_usize << bits) - 1;
    let (&first, mut rest) = input.split_first()?;
    let mut value = usize::from(first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (&byte, after) = rest.split_first()?;
            rest = after;
            if shift >= LONGEST {
                return None;
            }
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *input = rest;
    Some(value)
}

fn low_byte(value: usize) -> u8 {
    u8::try_from(value & 0xff).unwrap_or(0)
}
