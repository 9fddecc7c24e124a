//! Random messages, made from a corpus of seeds: whatever a pod or a resolver sends, nothing panics or takes long, and nothing that is
//! said is longer than its reader takes. `AMBIT_FUZZ_SECONDS` says for how long, two seconds if not set. What once did harm belongs into the
//! corpus, in hexadecimal below what it is.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use domain::base::{
    Message,
    iana::{Opcode, Rcode},
};
use fastrand::Rng;

use super::{
    message::{self, LONGEST, Query, Transport, Unreadable},
    tcp,
};

const CORPUS: &str = include_str!("fuzz/corpus.txt");
/// What one message may take: far more than it does, for the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// A message to begin with, and what it is.
struct Seed {
    what: &'static str,
    bytes: Vec<u8>,
}

/// What the proxy does with the bytes of a client and of a resolver.
fn check(bytes: &[u8], addresses: &[IpAddr]) {
    let query = match Query::read(bytes) {
        Ok(query) => query,
        Err(Unreadable::Ignore) => return,
        Err(Unreadable::Refuse(code)) => {
            let refusal = message::refusal(bytes, code).unwrap();
            assert_eq!(read(&refusal).header().rcode(), code);
            assert!(refusal.len() == 12 && message::id(&refusal) == message::id(bytes));
            return;
        }
    };
    if let Some((name, _)) = &query.asked {
        assert!((1..=253).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
    }
    for transport in [Transport::Udp, Transport::Tcp] {
        let limit = query.limit(transport);
        let answer = query.answer(addresses, transport);
        let (found, written) = (read(&answer).header_counts().ancount(), read(&answer).header());
        assert!(answer.len() <= limit && answer.capacity() <= 4 * LONGEST);
        assert!(usize::from(found) <= addresses.len() && written.qr() && message::id(&answer) == message::id(bytes));
        assert!(query.asked.is_none() || message::answers(&answer, bytes));
        let whole = usize::from(found) == addresses.len() || read(&answer).opt_rcode().to_int() != 0;
        assert!(whole || query.asked.is_none() || written.tc() == (transport == Transport::Udp));
    }
    let limit = query.limit(Transport::Udp);
    assert!(query.error(Rcode::SERVFAIL).len() <= limit && query.truncated(bytes).len() <= limit);
}

/// What the proxy does with the bytes of a resolver.
fn check_answer(answer: &[u8], query: &[u8]) {
    let _either_way = message::is_failure(answer);
    if message::answers(answer, query) {
        assert!(read(answer).header().qr() && message::id(answer) == message::id(query));
    }
    if let Ok(query) = Query::read(query) {
        let cut = query.truncated(answer);
        assert!(cut.len() <= query.limit(Transport::Udp) && read(&cut).header().tc());
    }
}

/// Messages over TCP are taken out whole, however they arrive.
fn check_framing(bytes: &[u8], dice: &mut Rng) {
    let (mut received, mut rest, mut taken) = (BytesMut::new(), bytes, 0);
    while rest.has_remaining() {
        let (now, later) = rest.split_at(dice.usize(1..=rest.len()));
        received.extend_from_slice(now);
        rest = later;
        while let Some(message) = tcp::take(&mut received) {
            assert_eq!(message[..], bytes[taken + 2..][..message.len()]);
            taken += 2 + message.len();
        }
    }
    assert_eq!(received[..], bytes[taken..]);
    assert!(received.len() < 2 + LONGEST);
}

fn read(bytes: &[u8]) -> Message<&[u8]> {
    Message::from_octets(bytes).unwrap()
}

fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::<Seed>::new();
    for line in CORPUS.lines().filter(|line| !line.is_empty()) {
        match (line.strip_prefix("# "), seeds.last_mut()) {
            (Some(what), _) => seeds.push(Seed { what, bytes: Vec::new() }),
            (None, Some(seed)) => {
                let pairs = line.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
                seed.bytes.extend(pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()));
            }
            (None, None) => panic!("{line:?} is of no seed"),
        }
    }
    seeds
}

/// A message that is like one of the corpus.
fn mutant(seeds: &[Seed], dice: &mut Rng) -> Vec<u8> {
    let any = |dice: &mut Rng| seeds[dice.usize(..seeds.len())].bytes.clone();
    let mut bytes = any(dice);
    for _ in 0..dice.usize(1..6) {
        let at = dice.usize(..=bytes.len());
        match dice.u8(..8) {
            // A byte, by chance or one that means something: a length, a type of label, a pointer.
            0 | 1 => bytes[at..].iter_mut().take(1).for_each(|byte| *byte = dice.u8(..)),
            2 => {
                bytes[at..].iter_mut().take(1).for_each(|byte| *byte = [0, 1, 12, 41, 63, 64, 0x80, 0xc0, 0xff][dice.usize(..9)])
            }
            3 => bytes[at..].iter_mut().take(1).for_each(|byte| *byte ^= 1 << dice.u8(..8)),
            4 => bytes.truncate(at),
            5 => drop(bytes.splice(at..at, [0xc0 | dice.u8(..2), dice.u8(..)])),
            6 => {
                let other = any(dice);
                let from = dice.usize(..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let again = bytes[at..].to_vec();
                (0..dice.usize(..8)).for_each(|_| bytes.extend_from_slice(&again));
            }
        }
        bytes.truncate(LONGEST);
    }
    bytes
}

fn addresses(count: u32) -> Vec<IpAddr> {
    (0..count).map(|number| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))).collect()
}

#[test]
fn the_messages_of_the_corpus_are_read_refused_or_dropped() {
    let seeds = seeds();
    assert!(seeds.len() >= 60);
    for Seed { what, bytes } in &seeds {
        println!("{what}");
        for count in [0, 1, 100, 5000] {
            check(bytes, &addresses(count));
        }
        seeds.iter().for_each(|query| check_answer(bytes, &query.bytes));
    }
}

#[test]
fn no_message_panics_or_takes_long_or_is_answered_with_more_than_its_reader_takes() {
    let seconds = std::env::var("AMBIT_FUZZ_SECONDS").map_or(2, |seconds| seconds.parse().unwrap());
    let (seeds, mut dice) = (seeds(), Rng::new());
    let (few, many) = (addresses(3), addresses(300));
    let (until, mut count, mut queries) = (Instant::now() + Duration::from_secs(seconds), 0_u64, 0_u64);
    while Instant::now() < until {
        // A run that fails is run again with the number it says.
        let seed = dice.u64(..);
        let outcome = std::panic::catch_unwind(|| {
            let mut dice = Rng::with_seed(seed);
            let (bytes, begun) = (mutant(&seeds, &mut dice), Instant::now());
            check(&bytes, if dice.bool() { &few } else { &many });
            check_answer(&bytes, &seeds[dice.usize(..seeds.len())].bytes);
            check_framing(&bytes, &mut dice);
            assert!(begun.elapsed() < PATIENCE, "it took {:?}", begun.elapsed());
            Query::read(&bytes).is_ok()
        });
        match outcome {
            Ok(is_query) => (count, queries) = (count + 1, queries + u64::from(is_query)),
            Err(panic) => {
                let bytes = mutant(&seeds, &mut Rng::with_seed(seed));
                println!("number {seed}, {} bytes: {:02x?}", bytes.len(), &bytes[..bytes.len().min(512)]);
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{count} messages, {queries} of them queries");
    assert!(queries > count / 20, "only {queries} of {count} messages were queries: too little is tried");
}

#[test]
fn the_largest_messages_are_read_in_time_that_grows_with_their_length_alone() {
    let header = [0x47, 0x11, 1, 0, 0, 1, 0, 0, 0, 0, 0xff, 0xff];
    let question = [3, b'a', b'p', b'i', 0, 0, 1, 0, 1];
    // As many records as fit, each below a name that is a pointer to the one before: read from each anew, that would be quadratic.
    let mut bytes = [&header[..], &question].concat();
    let mut before = 12_usize;
    while bytes.len() + 14 <= LONGEST {
        let at = bytes.len();
        let pointer = u16::try_from(before.min(0x3fff)).unwrap() | 0xc000;
        bytes.extend_from_slice(&[1, b'a']);
        bytes.extend_from_slice(&pointer.to_be_bytes());
        bytes.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 1, 0, 0]);
        before = at;
    }
    let begun = Instant::now();
    check(&bytes, &addresses(5000));
    check_answer(&bytes, &bytes);
    assert!(begun.elapsed() < PATIENCE, "it took {:?}", begun.elapsed());
    assert_eq!(read(&bytes).header().opcode(), Opcode::QUERY);
}
