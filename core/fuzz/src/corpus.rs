//! Inputs to begin with.

use std::path::Path;

/// An input, and what it is.
#[derive(Debug, Clone)]
pub(crate) struct Seed {
    pub(crate) what: String,
    pub(crate) bytes: Vec<u8>,
}

/// Inputs to begin with.
#[derive(Debug, Clone, Default)]
pub struct Corpus(pub(crate) Vec<Seed>);

impl Corpus {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Those of a file: lines of hexadecimal digits, each input below a line `# what it is`.
    ///
    /// # Panics
    /// When the file cannot be read or is not of that form: it is part of a test.
    #[must_use]
    pub fn read(file: impl AsRef<Path>) -> Self {
        let file = file.as_ref();
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut seeds = Vec::<Seed>::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match (line.strip_prefix('#'), seeds.last_mut()) {
                (Some(what), _) => seeds.push(Seed { what: what.trim().to_owned(), bytes: Vec::new() }),
                (None, Some(seed)) => seed.bytes.extend(bytes(line).unwrap_or_else(|| panic!("{line:?} is not hexadecimal"))),
                (None, None) => panic!("{line:?} is of no seed"),
            }
        }
        Self(seeds)
    }

    /// With one more, made by the test.
    #[must_use]
    pub fn with(mut self, what: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.0.push(Seed { what: what.into(), bytes: bytes.into() });
        self
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each with what it is.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|seed| (seed.what.as_str(), seed.bytes.as_slice()))
    }

    /// One of them, by chance; nothing when there are none.
    #[must_use]
    pub fn any(&self, dice: &mut fastrand::Rng) -> &[u8] {
        if self.0.is_empty() { &[] } else { self.0.get(dice.usize(..self.0.len())).map_or(&[], |seed| &seed.bytes) }
    }
}

fn bytes(line: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = line.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// Bytes as they are written in a file of seeds.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(64).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_a_file_is_read_again() {
        let some: Vec<u8> = (0..=255).collect();
        let file = std::env::temp_dir().join(format!("ambit-corpus-{}", std::process::id()));
        std::fs::write(&file, format!("# all bytes\n{}\n# nothing\n\n# one\nff\n", hex(&some))).unwrap();
        let corpus = Corpus::read(&file).with("made", b"by code");
        std::fs::remove_file(&file).unwrap();
        let all: Vec<_> = corpus.iter().collect();
        assert_eq!(all, [("all bytes", &some[..]), ("nothing", &[]), ("one", &[0xff]), ("made", b"by code")]);
    }
}
