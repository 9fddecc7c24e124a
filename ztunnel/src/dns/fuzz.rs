//! Random messages, made from a corpus of seeds (`tests/corpus/dns.txt`): whatever a pod or a resolver sends, nothing panics or takes long,
//! and nothing that is said is longer than its reader takes.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use ambit_fuzz::{Corpus, Target, processor_time};
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

/// What one message may take of a processor: far more than it does.
const PATIENCE: Duration = Duration::from_secs(5);

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

/// Lengths, types of labels and of records, pointers.
fn tokens() -> Vec<Vec<u8>> {
    let pointers = (0..64).map(|to| vec![0xc0, to]);
    let records =
        [&[0, 1, 0, 1][..], &[0, 28, 0, 1], &[0, 41, 4, 0xd0], &[0, 5, 0, 1], &[63], &[64], &[0x80], &[3, b'a', b'p', b'i', 0]];
    pointers.chain(records.map(Vec::from)).collect()
}

fn corpus() -> Corpus {
    Corpus::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/dns.txt"))
}

fn addresses(count: u32) -> Vec<IpAddr> {
    (0..count).map(|number| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))).collect()
}

#[test]
fn no_message_panics_or_takes_long_or_is_answered_with_more_than_its_reader_takes() {
    let (corpus, few, many) = (corpus(), addresses(3), addresses(300));
    assert!(corpus.len() >= 60);
    let target = Target::new("DNS messages", corpus.clone()).tokens(tokens()).longest(LONGEST);
    target.run(|bytes, dice| {
        check(bytes, if dice.bool() { &few } else { &many });
        check_answer(bytes, corpus.any(dice));
        check_framing(bytes, dice);
        Query::read(bytes).is_ok()
    });
}

#[test]
fn the_messages_of_the_corpus_are_read_refused_or_dropped_with_any_number_of_addresses() {
    let corpus = corpus();
    for (what, bytes) in corpus.iter() {
        println!("{what}");
        for count in [0, 1, 100, 5000] {
            check(bytes, &addresses(count));
        }
        corpus.iter().for_each(|(_, query)| check_answer(bytes, query));
    }
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
    let begun = processor_time();
    check(&bytes, &addresses(5000));
    check_answer(&bytes, &bytes);
    let took = processor_time().saturating_sub(begun);
    assert!(took < PATIENCE, "it took {took:?}");
    assert_eq!(read(&bytes).header().opcode(), Opcode::QUERY);
}
