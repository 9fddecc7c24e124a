//! Bytes that differ at every place, so that none can be lost, doubled or moved unseen.

use std::sync::LazyLock;

/// The longest message.
pub const MOST: usize = 16 << 20;
/// Messages begin anywhere in the first part.
pub const ORIGINS: usize = 3 << 20;

static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = vec![0; MOST + ORIGINS];
    fastrand::Rng::with_seed(4).fill(&mut bytes);
    bytes
});

/// The message that begins at `origin`.
pub fn noise(origin: usize, length: usize) -> &'static [u8] {
    &NOISE[origin..origin + length]
}

/// Where `heard`, at `offset` of the message that begins at `origin`, differs from it.
pub fn difference(origin: usize, offset: usize, heard: &[u8]) -> Option<usize> {
    let expected = NOISE.get(origin + offset..)?;
    if expected.starts_with(heard) {
        return None;
    }
    Some(offset + heard.iter().zip(expected).take_while(|(a, b)| a == b).count())
}

/// The seed of this run.
pub fn seed() -> u64 {
    let seed =
        std::env::var("TORTURE_SEED").map_or_else(|_| fastrand::u64(..), |text| text.parse().expect("TORTURE_SEED is a number"));
    eprintln!("TORTURE_SEED={seed}");
    seed
}
