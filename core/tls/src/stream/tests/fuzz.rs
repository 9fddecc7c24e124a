//! Against chance: records and messages, mutated before and after they are sealed.

use super::support::{Pair, Read};
use crate::stream::{ALERT, APPLICATION_DATA, HANDSHAKE};

const INPUTS: u64 = 20_000;
const KINDS: [u8; 10] = [23, 23, 23, 23, 23, 22, 22, 22, 21, 99];

/// Something a peer might send, not always well.
fn record(pair: &mut Pair, random: &mut fastrand::Rng, generation: &mut u8) -> Vec<u8> {
    let kind = *random.choice(KINDS.as_slice()).unwrap();
    let mut content = match kind {
        HANDSHAKE => {
            random.choice([&[24, 0, 0, 1, 0][..], &[24, 0, 0, 1, 1], &[4, 0, 0, 3, 1, 2, 3], &[4, 0, 9, 9]]).unwrap().to_vec()
        }
        ALERT => vec![random.u8(1..=2), *random.choice([0, 40, 48, 90].as_slice()).unwrap()],
        _ => {
            let most = if random.u8(..20) == 0 { 16_500 } else { 100 };
            let mut content = vec![0; random.usize(..=most)];
            random.fill(&mut content);
            content
        }
    };
    // Mutated before it is sealed: the peer itself lies.
    if random.u8(..8) == 0 {
        mutate(&mut content, random);
    }
    content.push(kind);
    if random.u8(..4) == 0 {
        content.resize(content.len() + random.usize(..50), 0);
    }
    let sealed = pair.peer.inner(&content);
    // The honest thing to do after an honest update.
    if content.starts_with(&[24, 0, 0, 1]) && content.get(5) == Some(&HANDSHAKE) {
        *generation = generation.wrapping_add(1);
        pair.peer.rekey(*generation);
    }
    sealed
}

fn mutate(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    for _ in 0..random.usize(1..4) {
        let at = random.usize(..=bytes.len());
        match random.u8(..6) {
            0 => bytes.insert(at, random.u8(..)),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => bytes.truncate(at),
            3 => {
                let copy = bytes[at..].to_vec();
                bytes.extend(copy.iter().take(300));
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.u8(..8);
                }
            }
        }
    }
}

#[test]
fn nothing_that_a_peer_sends_makes_it_panic_or_hold_much_memory_or_read_what_was_not_sealed() {
    let mut random = fastrand::Rng::with_seed(20_26_11);
    let (mut opened, mut failed, mut ended) = (0, 0, 0);
    for input in 0..INPUTS {
        let mut pair = if random.bool() { Pair::client() } else { Pair::server() };
        pair.stream.io.at_once = *random.choice([1, 5, 100, usize::MAX].as_slice()).unwrap();
        let mut generation = 0;
        let mut wire = Vec::new();
        for _ in 0..random.usize(1..12) {
            wire.extend(record(&mut pair, &mut random, &mut generation));
        }
        let tampered = random.bool();
        if tampered {
            mutate(&mut wire, &mut random);
        }
        let bytes = wire.len();
        pair.arrives(&wire);
        if random.bool() {
            pair.ends();
        }
        let mut total = 0;
        loop {
            assert!(pair.stream.inbox.capacity() <= 64 << 10, "input {input}");
            match pair.read() {
                Read::Data(data) => {
                    assert!(!data.is_empty());
                    total += data.len();
                    opened += 1;
                }
                Read::Waiting => break,
                Read::End => {
                    ended += 1;
                    break;
                }
                Read::Failed(_) => {
                    failed += 1;
                    assert_eq!(pair.stream.inbox.capacity(), 0);
                    pair.stream.begin().unwrap_err();
                    break;
                }
            }
        }
        assert!(total <= bytes, "input {input}");
        // At most one alert.
        if let Some((kind, content)) = pair.sent() {
            assert_eq!((kind, content.len(), content[0]), (ALERT, 2, 2), "input {input}");
            assert_eq!(pair.sent(), None);
        }
    }
    assert!(
        opened > INPUTS / 2 && failed > INPUTS / 3 && ended > INPUTS / 50,
        "{opened} {failed} {ended}: the inputs say little"
    );
}

#[test]
fn chance_alone_is_refused() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..2000 {
        let mut pair = Pair::client();
        let mut wire = vec![0; random.usize(1..600)];
        random.fill(&mut wire);
        // Half of them look like records.
        if random.bool() && wire.len() > 4 {
            wire[..4].copy_from_slice(&[APPLICATION_DATA, 3, 3, 0]);
        }
        pair.arrives(&wire).ends();
        assert!(matches!(pair.read(), Read::Failed(_)));
    }
}
