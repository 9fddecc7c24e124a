//! Names of functions, from the symbols of a file.

use super::modules::{number, text};

/// Functions, sorted by address.
pub(super) struct Symbols {
    functions: Vec<Function>,
    texts: Vec<u8>,
}

struct Function {
    start: u64,
    size: u64,
    name: u64,
}

/// Bytes of a symbol in a 64-bit file, and the type of one that is a function (System V ABI, "Symbol Table").
const SYMBOL: usize = 24;
const FUNCTION: u64 = 2;

impl Symbols {
    /// The functions in a table of symbols, which is added `bias` to.
    pub(super) fn parse(symbols: &[u8], texts: Vec<u8>, bias: u64) -> Self {
        let function = |symbol: &[u8]| {
            let (name, kind) = (number(symbol, 0, 4)?, number(symbol, 4, 1)? & 0xf);
            let (start, size) = (number(symbol, 8, 8)?, number(symbol, 16, 8)?);
            (kind == FUNCTION && start != 0).then(|| Function { start: start.wrapping_add(bias), size, name })
        };
        let mut functions: Vec<Function> = symbols.chunks_exact(SYMBOL).filter_map(function).collect();
        functions.sort_by_key(|function| function.start);
        Self { functions, texts }
    }

    /// Where the function at `address` begins, and its name as the linker knows it.
    pub(super) fn at(&self, address: u64) -> Option<(u64, &str)> {
        let after = self.functions.partition_point(|function| function.start <= address);
        let function = self.functions.get(after.checked_sub(1)?)?;
        // Some that are written in assembly have no size.
        let within = function.size == 0 || address - function.start < function.size;
        within.then(|| (function.start, text(&self.texts, function.name)))
    }
}
