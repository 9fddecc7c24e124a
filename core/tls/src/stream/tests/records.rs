//! Which records are opened and which are refused.

use std::{io, pin::Pin};

use rustls::{AlertDescription, Error, PeerMisbehaved};
use tokio::io::{AsyncRead, ReadBuf};

use super::support::{Pair, Peer, Read};
use crate::stream::{APPLICATION_DATA, HEAD, MOST, inbox::Inbox};

#[test]
fn records_are_opened_in_order_however_they_arrive() {
    for at_once in [1, 2, 3, 7, 22, 100, usize::MAX] {
        let mut pair = Pair::client();
        pair.stream.io.at_once = at_once;
        let wire =
            [pair.peer.data(b"one"), pair.peer.data(b""), pair.peer.data(&[7; 300]), pair.peer.record(21, &[1, 0])].concat();
        pair.arrives(&wire).ends();
        assert_eq!(pair.read().data(), b"one".as_slice());
        assert_eq!(pair.read().data(), [7; 300].as_slice());
        assert!(matches!(pair.read(), Read::End));
        assert!(matches!(pair.read(), Read::End));
    }
}

#[test]
fn a_flip_of_any_bit_is_refused_with_bad_record_mac() {
    let length = Peer::new().data(b"twelve bytes").len();
    for bit in 0..length * 8 {
        let mut pair = Pair::client();
        let mut record = pair.peer.data(b"twelve bytes");
        record[bit / 8] ^= 1 << (bit % 8);
        // Enough for any length that the flip may have made.
        let more = pair.peer.data(&[0; MOST]);
        pair.arrives(&record).arrives(&more).arrives(&more).arrives(&more);
        let error = pair.read().tls();
        let alert = match bit / 8 {
            0 => AlertDescription::UnexpectedMessage,
            3 if error == Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
            _ => AlertDescription::BadRecordMac,
        };
        if alert == AlertDescription::BadRecordMac {
            assert_eq!(error, Error::DecryptError, "bit {bit}");
        }
        pair.assert_dead(Some(alert));
    }
}

#[test]
fn a_record_of_another_place_is_refused() {
    let mut pair = Pair::client();
    let (first, second) = (pair.peer.data(b"first"), pair.peer.data(b"second"));
    pair.arrives(&second).arrives(&first);
    assert_eq!(pair.read().tls(), Error::DecryptError);
    pair.assert_dead(Some(AlertDescription::BadRecordMac));

    let mut pair = Pair::client();
    let first = pair.peer.data(b"first");
    pair.arrives(&first).arrives(&first);
    assert_eq!(pair.read().data(), b"first".as_slice());
    assert_eq!(pair.read().tls(), Error::DecryptError);
    pair.assert_dead(Some(AlertDescription::BadRecordMac));
}

#[test]
fn an_end_at_any_byte_is_told_from_close_notify() {
    let mut peer = Peer::new();
    let (data, close) = (peer.data(b"hello"), peer.record(21, &[1, 0]));
    let whole = [data.as_slice(), &close].concat();
    for cut in 0..whole.len() {
        let mut pair = Pair::client();
        pair.arrives(&whole[..cut]).ends();
        if cut >= data.len() {
            assert_eq!(pair.read().data(), b"hello".as_slice());
        }
        assert_eq!(pair.read().error().kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
        pair.assert_dead(None);
    }
    let mut pair = Pair::client();
    pair.arrives(&whole).ends();
    assert_eq!(pair.read().data(), b"hello".as_slice());
    assert!(matches!(pair.read(), Read::End));
}

#[test]
fn what_comes_after_close_notify_is_ignored_and_we_may_go_on_sending() {
    let mut pair = Pair::client();
    let wire = [pair.peer.record(21, &[1, 0]), b"rubbish".to_vec()].concat();
    pair.arrives(&wire);
    assert!(matches!(pair.read(), Read::End));
    let mut piece = super::support::piece(b"still here");
    pair.stream.seal(&mut piece).unwrap();
    assert!(pair.stream.poll_write(&mut super::support::context(), &piece).is_ready());
    assert_eq!(pair.sent(), Some((APPLICATION_DATA, b"still here".to_vec())));
}

#[test]
fn a_record_that_is_too_long_is_refused() {
    // By its head alone.
    let mut pair = Pair::client();
    pair.arrives(&[APPLICATION_DATA, 3, 3, 0x41, 0x01]);
    assert_eq!(pair.read().tls(), Error::PeerSentOversizedRecord);
    pair.assert_dead(Some(AlertDescription::RecordOverflow));

    // By what is in it, padding included.
    for inner in [[vec![1; MOST + 1], vec![APPLICATION_DATA]].concat(), [vec![1, APPLICATION_DATA], vec![0; MOST]].concat()] {
        let mut pair = Pair::client();
        let record = pair.peer.inner(&inner);
        pair.arrives(&record);
        assert_eq!(pair.read().tls(), Error::PeerSentOversizedRecord);
        pair.assert_dead(Some(AlertDescription::RecordOverflow));
    }
}

#[test]
fn a_record_may_be_as_long_as_allowed() {
    let mut pair = Pair::client();
    let wire = [pair.peer.data(&[1; MOST]), pair.peer.inner(&[vec![1, APPLICATION_DATA], vec![0; MOST - 1]].concat())].concat();
    pair.arrives(&wire);
    assert_eq!(pair.read().data(), [1; MOST].as_slice());
    assert_eq!(pair.read().data(), [1].as_slice());
}

#[test]
fn a_record_that_is_too_short_to_be_sealed_is_refused() {
    for length in 0..17 {
        let mut pair = Pair::client();
        pair.arrives(&[APPLICATION_DATA, 3, 3, 0, length]).arrives(&vec![0; usize::from(length)]);
        assert_eq!(pair.read().tls(), Error::DecryptError);
        pair.assert_dead(Some(AlertDescription::BadRecordMac));
    }
}

#[test]
fn padding_is_taken_off_and_a_record_of_nothing_else_is_refused() {
    let mut pair = Pair::client();
    let padded = pair.peer.inner(&[b"zero at the end\0".as_slice(), &[APPLICATION_DATA], &[0; 1000]].concat());
    let only = pair.peer.inner(&[0; 1000]);
    pair.arrives(&padded).arrives(&only);
    assert_eq!(pair.read().data(), b"zero at the end\0".as_slice());
    assert_eq!(pair.read().tls(), Error::PeerMisbehaved(PeerMisbehaved::IllegalTlsInnerPlaintext));
    pair.assert_dead(Some(AlertDescription::UnexpectedMessage));
}

#[test]
fn empty_records_are_bounded() {
    let mut pair = Pair::client();
    for _ in 0..3 {
        for _ in 0..32 {
            let empty = pair.peer.inner(&[&[APPLICATION_DATA], [0; 50].as_slice()].concat());
            pair.arrives(&empty);
        }
        let data = pair.peer.data(b"!");
        pair.arrives(&data);
        assert_eq!(pair.read().data(), b"!".as_slice());
    }
    for _ in 0..33 {
        let empty = pair.peer.data(b"");
        pair.arrives(&empty);
    }
    assert_eq!(pair.read().tls(), Error::PeerMisbehaved(PeerMisbehaved::TooManyEmptyFragments));
    pair.assert_dead(Some(AlertDescription::UnexpectedMessage));
}

#[test]
fn records_in_the_clear_are_refused() {
    for kind in (0..=255).filter(|kind| *kind != APPLICATION_DATA) {
        let mut pair = Pair::client();
        // A close_notify in the clear must not pass for an end.
        pair.arrives(&[kind, 3, 3, 0, 2, 1, 0]);
        assert!(matches!(pair.read().tls(), Error::General(_)));
        pair.assert_dead(Some(AlertDescription::UnexpectedMessage));
    }
}

#[test]
fn unknown_content_types_are_refused() {
    for kind in (1..=255).filter(|kind| !(21..=23).contains(kind)) {
        let mut pair = Pair::client();
        let record = pair.peer.record(kind, &[1]);
        pair.arrives(&record);
        assert!(matches!(pair.read().tls(), Error::General(_)));
        pair.assert_dead(Some(AlertDescription::UnexpectedMessage));
    }
}

#[test]
fn the_buffer_grows_with_the_traffic_and_is_given_back() {
    let mut pair = Pair::client();
    assert_eq!(pair.stream.inbox.capacity(), 0);
    let mut largest = 0;
    for _ in 0..400 {
        let record = pair.peer.data(&[5; MOST]);
        pair.arrives(&record);
    }
    for _ in 0..400 {
        assert_eq!(pair.read().data().len(), MOST);
        largest = largest.max(pair.stream.inbox.capacity());
    }
    assert!((200 << 10..600 << 10).contains(&largest), "{largest}");
    assert!(matches!(pair.read(), Read::Waiting));
    assert_eq!(pair.stream.inbox.capacity(), 0);

    // Small reads make it small again.
    for _ in 0..20 {
        let record = pair.peer.data(b"small");
        pair.arrives(&record);
        let _small = pair.read().data();
        largest = pair.stream.inbox.capacity();
        assert!(matches!(pair.read(), Read::Waiting));
    }
    assert!(largest <= 16 << 10, "{largest}");

    // A record that has begun keeps only what it needs.
    let record = pair.peer.data(&[5; MOST]);
    pair.arrives(&record[..HEAD + 10]);
    assert!(matches!(pair.read(), Read::Waiting));
    assert!(pair.stream.inbox.capacity() <= 20 << 10);
}

#[test]
fn a_buffer_whose_pieces_are_gone_is_used_again() {
    let mut inbox = Inbox::from(bytes::BytesMut::new());
    let mut io = Pair::client().stream.io;
    let mut peer = Peer::new();
    let mut grown = 0;
    for turn in 0..2000 {
        let record = peer.data(&[1; 1000]);
        io.input.extend_from_slice(&record);
        assert!(inbox.poll_fill(&mut io, &mut super::support::context()).is_ready());
        assert_eq!(inbox.next_record().unwrap().unwrap().len(), 1000 + 22);
        if turn == 10 {
            grown = inbox.capacity();
        }
    }
    assert!(inbox.capacity() <= grown.max(8 << 10), "{} after {grown}", inbox.capacity());
}

#[test]
fn copying_reads_do_not_keep_the_buffer() {
    let mut pair = Pair::client();
    let record = pair.peer.data(b"four");
    pair.arrives(&record);
    for (room, expected) in [(3, b"fou".as_slice()), (3, b"r")] {
        let mut space = vec![0; room];
        let mut buffer = ReadBuf::new(&mut space);
        assert!(Pin::new(&mut pair.stream).poll_read(&mut super::support::context(), &mut buffer).is_ready());
        assert_eq!(buffer.filled(), expected);
    }
    assert!(matches!(pair.read(), Read::Waiting));
    assert_eq!(pair.stream.inbox.capacity(), 0);
    assert!(!pair.stream.rest.is_unique(), "the buffer lives on in an empty rest");
}
