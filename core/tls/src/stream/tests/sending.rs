//! What leaves, and what must never leave.

use std::{collections::HashSet, io, pin::Pin, task::Poll};

use rustls::AlertDescription;
use tokio::io::AsyncWrite;

use super::support::{Pair, context, piece};
use crate::stream::{ALERT, APPLICATION_DATA, HANDSHAKE, MOST, Stream};

#[test]
fn pieces_are_sealed_in_place_from_empty_to_the_longest() {
    let mut pair = Pair::client();
    assert_eq!((pair.stream.head(), pair.stream.tail(), pair.stream.most()), (5, 17, MOST));
    for length in [0, 1, 1000, MOST] {
        let plaintext = vec![9; length];
        let mut sealed = piece(&plaintext);
        pair.stream.begin().unwrap();
        pair.stream.seal(&mut sealed).unwrap();
        assert!(matches!(Stream::poll_write(&mut pair.stream, &mut context(), &sealed), Poll::Ready(Ok(_))));
        assert_eq!(pair.sent(), Some((APPLICATION_DATA, plaintext)));
    }
}

#[test]
fn a_piece_of_the_wrong_length_is_not_sealed() {
    for length in [0, 5, 21, 5 + MOST + 1 + 17] {
        let mut pair = Pair::client();
        let mut wrong = vec![9; length];
        pair.stream.seal(&mut wrong).unwrap_err();
        assert_eq!(wrong, vec![9; length]);
    }
}

#[test]
fn no_nonce_is_used_twice_whatever_becomes_of_the_records() {
    let mut pair = Pair::client();
    let mut seen = HashSet::new();
    for _ in 0..100 {
        let mut sealed = piece(b"the same");
        pair.stream.begin().unwrap();
        pair.stream.seal(&mut sealed).unwrap();
        assert!(seen.insert(sealed), "two records were sealed alike");
    }
}

#[test]
fn a_connection_whose_write_has_failed_seals_no_more() {
    let mut pair = Pair::client();
    let mut sealed = piece(b"lost in the middle");
    pair.stream.seal(&mut sealed).unwrap();
    pair.stream.io.room = 7;
    assert!(matches!(Stream::poll_write(&mut pair.stream, &mut context(), &sealed), Poll::Ready(Ok(7))));
    pair.stream.io.broken = true;
    let Poll::Ready(Err(error)) = Stream::poll_write(&mut pair.stream, &mut context(), &sealed[7..]) else {
        panic!("it has not failed")
    };
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    pair.stream.io.broken = false;
    pair.stream.io.room = usize::MAX;
    let mut more = piece(b"more");
    assert_eq!(pair.stream.begin().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    pair.stream.seal(&mut more).unwrap_err();
    assert_eq!(more, piece(b"more"));
    assert!(matches!(Stream::poll_write(&mut pair.stream, &mut context(), &sealed[7..]), Poll::Ready(Err(_))));
    assert!(matches!(pair.stream.poll_shutdown(&mut context()), Poll::Ready(Ok(()))));
    assert_eq!(pair.stream.io.output.len(), 7, "something follows a record that is cut off");

    // What the peer had to say can still be read.
    let alert = pair.peer.record(ALERT, &[2, 48]);
    pair.arrives(&alert);
    assert!(crate::PeerError::from_io(&pair.read().error()).is_some());
}

#[test]
fn bytes_that_are_not_sealed_do_not_leave() {
    let mut pair = Pair::client();
    for plaintext in [&b"GET / HTTP/1.1"[..], b"x"] {
        let Poll::Ready(Err(error)) = Stream::poll_write(&mut pair.stream, &mut context(), plaintext) else {
            panic!("it was written")
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    let mut sealed = piece(b"sealed");
    pair.stream.seal(&mut sealed).unwrap();
    let more = [sealed.as_slice(), b"x"].concat();
    assert!(matches!(Stream::poll_write(&mut pair.stream, &mut context(), &more), Poll::Ready(Err(_))));
    assert!(pair.stream.io.output.is_empty());
    assert!(matches!(Stream::poll_write(&mut pair.stream, &mut context(), &sealed), Poll::Ready(Ok(_))));
}

#[test]
fn the_key_is_renewed_before_its_limit() {
    let mut pair = Pair::client();
    pair.stream.lower_key_limit(8);
    let mut generation = 0;
    for turn in 0..600_u32 {
        pair.stream.begin().unwrap();
        let mut sealed = piece(&turn.to_be_bytes());
        pair.stream.seal(&mut sealed).unwrap();
        assert!(Stream::poll_write(&mut pair.stream, &mut context(), &sealed).is_ready());
        let mut sent = pair.sent().unwrap();
        if sent.0 == HANDSHAKE {
            generation += 1;
            pair.peer_rekeys_reading(generation);
            sent = pair.sent().unwrap();
        }
        assert_eq!(sent, (APPLICATION_DATA, turn.to_be_bytes().to_vec()));
    }
    assert_eq!(generation, 99, "six records of data to a key, and two to spare");
}

#[test]
fn a_batch_beyond_the_limit_is_refused() {
    let mut pair = Pair::client();
    pair.stream.lower_key_limit(8);
    pair.stream.begin().unwrap();
    let mut wire = Vec::new();
    for _ in 0..8 {
        let mut sealed = piece(b"x");
        pair.stream.seal(&mut sealed).unwrap();
        wire.extend(sealed);
    }
    pair.stream.seal(&mut piece(b"x")).unwrap_err();
    pair.stream.begin().unwrap_err();
    // What was sealed before may go.
    assert!(matches!(Stream::poll_write(&mut pair.stream, &mut context(), &wire), Poll::Ready(Ok(_))));
}

#[test]
fn closing_says_so_after_everything_is_written_and_not_otherwise() {
    let mut pair = Pair::client();
    let mut sealed = piece(b"all");
    pair.stream.seal(&mut sealed).unwrap();
    assert!(Stream::poll_write(&mut pair.stream, &mut context(), &sealed).is_ready());
    pair.stream.io.room = 3;
    assert!(pair.stream.poll_shutdown(&mut context()).is_pending());
    assert!(!pair.stream.io.shut);
    pair.stream.io.room = usize::MAX;
    assert!(pair.stream.poll_shutdown(&mut context()).is_ready());
    assert!(pair.stream.poll_shutdown(&mut context()).is_ready(), "closing twice");
    assert!(pair.stream.io.shut);
    assert_eq!(pair.sent(), Some((APPLICATION_DATA, b"all".to_vec())));
    assert_eq!(pair.sent(), Some((ALERT, vec![1, 0])));
    assert_eq!(pair.sent(), None);
    assert_eq!(pair.stream.seal(&mut piece(b"x")).unwrap_err().kind(), io::ErrorKind::BrokenPipe);

    let mut pair = Pair::client();
    let mut sealed = piece(b"half");
    pair.stream.seal(&mut sealed).unwrap();
    assert!(Stream::poll_write(&mut pair.stream, &mut context(), &sealed[..10]).is_ready());
    assert!(pair.stream.poll_shutdown(&mut context()).is_ready());
    assert!(pair.stream.io.shut);
    assert_eq!(pair.stream.io.output, sealed[..10]);
}

#[test]
fn an_alert_waits_for_what_is_sealed_before_it() {
    let mut pair = Pair::client();
    let mut sealed = piece(b"before");
    pair.stream.seal(&mut sealed).unwrap();
    assert!(Stream::poll_write(&mut pair.stream, &mut context(), &sealed[..4]).is_ready());
    pair.arrives(&[22, 3, 3, 0, 1, 1]);
    let _refused = pair.read().tls();
    assert_eq!(pair.stream.io.output.len(), 4);
    assert!(Stream::poll_write(&mut pair.stream, &mut context(), &sealed[4..]).is_ready());
    assert!(pair.stream.poll_shutdown(&mut context()).is_ready());
    assert_eq!(pair.sent(), Some((APPLICATION_DATA, b"before".to_vec())));
    pair.assert_dead(Some(AlertDescription::UnexpectedMessage));
}

#[test]
fn slices_written_together_share_records() {
    let mut pair = Pair::client();
    let parts: [&[u8]; 5] = [b"head", b"", &[1; MOST], &[2; 3 * MOST], &[3; MOST]];
    let slices = parts.map(io::IoSlice::new);
    let Poll::Ready(Ok(taken)) = Pin::new(&mut pair.stream).poll_write_vectored(&mut context(), &slices) else {
        panic!("refused")
    };
    assert_eq!(taken, 4 * MOST);
    let mut received = Vec::new();
    while let Some((kind, content)) = pair.sent() {
        assert_eq!((kind, content.len()), (APPLICATION_DATA, MOST));
        received.extend(content);
    }
    assert_eq!(received, parts.concat()[..taken]);
    let nothing = Pin::new(&mut pair.stream).poll_write_vectored(&mut context(), &[io::IoSlice::new(b"")]);
    assert!(matches!(nothing, Poll::Ready(Ok(0))));
    assert_eq!(pair.sent(), None);
}
