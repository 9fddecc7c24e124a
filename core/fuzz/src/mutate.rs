//! Inputs that are like one of a corpus.

use fastrand::Rng;

use crate::Corpus;

/// Values that often mean something in a format: ends, borders of lengths, signs.
const TELLING: [u8; 14] = [0, 1, 2, 4, 8, 12, 16, 63, 64, 0x7f, 0x80, 0xc0, 0xfe, 0xff];

/// Changes a seed a few times. At most `longest` bytes.
pub(crate) fn mutant(corpus: &Corpus, tokens: &[Vec<u8>], longest: usize, dice: &mut Rng) -> Vec<u8> {
    let mut bytes = corpus.any(dice).to_vec();
    for _ in 0..dice.usize(1..6) {
        let at = dice.usize(..=bytes.len());
        match dice.u8(..11) {
            0 => set(&mut bytes, at, |_| dice.u8(..)),
            1 => set(&mut bytes, at, |_| TELLING[dice.usize(..TELLING.len())]),
            2 => set(&mut bytes, at, |byte| byte ^ (1 << dice.u8(..8))),
            3 => set(&mut bytes, at, |byte| byte.wrapping_add(if dice.bool() { 1 } else { 0xff })),
            4 => bytes.truncate(at),
            5 => {
                let end = (at + dice.usize(..16)).min(bytes.len());
                bytes.drain(at..end);
            }
            6 => {
                let noise: Vec<u8> = (0..dice.usize(..8)).map(|_| dice.u8(..)).collect();
                bytes.splice(at..at, noise);
            }
            // What means something in the format, put in or put over what is there.
            7 | 8 if !tokens.is_empty() => {
                let token = &tokens[dice.usize(..tokens.len())];
                let over = if dice.bool() { (at + token.len()).min(bytes.len()) } else { at };
                bytes.splice(at..over, token.iter().copied());
            }
            // The beginning of one and the end of another.
            9 => {
                let other = corpus.any(dice);
                let from = dice.usize(..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let end = (at + dice.usize(..256)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                for _ in 0..dice.usize(..8) {
                    bytes.extend_from_slice(&again);
                }
            }
        }
        bytes.truncate(longest);
    }
    bytes
}

fn set(bytes: &mut [u8], at: usize, value: impl FnOnce(u8) -> u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = value(*byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_differ_from_their_seeds_and_are_no_longer_than_they_may_be() {
        let corpus = Corpus::new().with("a", [7; 100]).with("b", [9; 30]);
        let mut dice = Rng::with_seed(1);
        let all: Vec<_> = (0..1000).map(|_| mutant(&corpus, &[b"token".to_vec()], 120, &mut dice)).collect();
        assert!(all.iter().all(|bytes| bytes.len() <= 120));
        assert!(all.iter().filter(|bytes| **bytes != [7; 100] && **bytes != [9; 30]).count() > 900);
        assert!(all.iter().any(|bytes| bytes.windows(5).any(|window| window == b"token")));
        assert!(mutant(&Corpus::new(), &[], 10, &mut dice).len() <= 10);
    }
}
