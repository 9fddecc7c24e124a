//! The Huffman code for strings (RFC 7541, section 5.2 and appendix B).
//!
//! The code is canonical: codes of one length follow one another in the order of their symbols, and the first of a length follows the
//! last of the length before. So the lengths say everything, and the tables are made of them when this is compiled.

#![allow(clippy::indexing_slicing, reason = "all of it is in functions that run when this is compiled")]

const END: usize = 256;
const SYMBOLS: usize = END + 1;
const LONGEST: usize = 30;

/// Bits of each symbol's code; the last is the end of a string.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The codes of one length.
#[derive(Clone, Copy)]
struct Group {
    first: u32,
    count: u32,
    /// Where their symbols begin in [`Tables::symbols`].
    start: usize,
}

struct Tables {
    /// Symbols in the order of their codes.
    symbols: [u16; SYMBOLS],
    groups: [Group; LONGEST + 1],
    /// For every byte that input may begin with: the symbol and the bits of its code, 0 when eight bits do not tell.
    short: [(u8, u8); 256],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut tables =
        Tables { symbols: [0; SYMBOLS], groups: [Group { first: 0, count: 0, start: 0 }; LONGEST + 1], short: [(0, 0); 256] };
    let (mut code, mut placed, mut length) = (0_u32, 0_usize, 1_usize);
    while length <= LONGEST {
        let first = code;
        let start = placed;
        let mut symbol = 0_u16;
        while (symbol as usize) < SYMBOLS {
            if LENGTHS[symbol as usize] as usize == length {
                tables.symbols[placed] = symbol;
                if length <= 8 {
                    let shift = 8 - length;
                    let mut low = 0;
                    while low < 1 << shift {
                        tables.short[((code as usize) << shift) + low] = (symbol as u8, length as u8);
                        low += 1;
                    }
                }
                placed += 1;
                code += 1;
            }
            symbol += 1;
        }
        tables.groups[length] = Group { first, count: code - first, start };
        code <<= 1;
        length += 1;
    }
    tables
}

/// The string did not follow the code: the end symbol was in it, or its padding is wrong (RFC 7541, section 5.2).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Miscoded;

/// Appends what `coded` stands for: at most 8 bytes for 5.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), Miscoded> {
    let mut input = coded.iter();
    // The lowest `held` bits of `bits` are not decoded yet.
    let (mut bits, mut held) = (0_u64, 0_u32);
    loop {
        while held <= 56 {
            let Some(byte) = input.next() else { break };
            bits = bits << 8 | u64::from(*byte);
            held += 8;
        }
        if held == 0 {
            return Ok(());
        }
        // What comes next, from the top, and ones after it, as the padding has to be.
        let window = bits << (64 - held) | (u64::MAX.checked_shr(held).unwrap_or(0));
        let (symbol, length) = next(window).ok_or(Miscoded)?;
        if length > held {
            let padding = (1_u64 << held) - 1;
            return if held < 8 && bits & padding == padding { Ok(()) } else { Err(Miscoded) };
        }
        out.push(u8::try_from(symbol).map_err(|_| Miscoded)?);
        held -= length;
    }
}

/// The symbol that `window` begins with, and the length of its code.
fn next(window: u64) -> Option<(u16, u32)> {
    let byte = usize::try_from(window >> 56).ok()?;
    match TABLES.short.get(byte) {
        Some(&(symbol, length)) if length > 0 => return Some((symbol.into(), length.into())),
        _ => {}
    }
    (9_u32..).zip(TABLES.groups.get(9..)?).find_map(|(length, group)| {
        let code = u32::try_from(window >> (64 - length)).ok()?;
        let nth = code.checked_sub(group.first).filter(|nth| *nth < group.count)?;
        Some((*TABLES.symbols.get(group.start + usize::try_from(nth).ok()?)?, length))
    })
}

/// Appends `plain` in the code. We send strings as they are: within a cluster the bytes saved are worth less than the work.
#[cfg(test)]
pub(super) fn encode(plain: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut held) = (0_u64, 0_u32);
    for &byte in plain {
        let length = usize::from(LENGTHS[usize::from(byte)]);
        let group = TABLES.groups[length];
        let nth = TABLES.symbols[group.start..].iter().position(|s| *s == u16::from(byte)).unwrap();
        bits = bits << length | u64::from(group.first + u32::try_from(nth).unwrap());
        held += u32::try_from(length).unwrap();
        while held >= 8 {
            held -= 8;
            out.push((bits >> held & 0xff) as u8);
        }
    }
    if held > 0 {
        out.push(((bits << (8 - held) | (0xff >> held)) & 0xff) as u8);
    }
}
