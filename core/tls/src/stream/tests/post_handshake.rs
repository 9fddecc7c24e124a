//! Key updates, tickets, and everything else that may not come after the handshake.

use std::task::Poll;

use rustls::{AlertDescription, Error, InvalidMessage, PeerMisbehaved};

use super::support::{Pair, Read, context, piece};
use crate::stream::{APPLICATION_DATA, HANDSHAKE};

const UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const UPDATE_REQUESTED: [u8; 5] = [24, 0, 0, 1, 1];

fn write(pair: &mut Pair, plaintext: &[u8]) {
    pair.stream.begin().unwrap();
    let mut piece = piece(plaintext);
    pair.stream.seal(&mut piece).unwrap();
    assert!(matches!(pair.stream.poll_write(&mut context(), &piece), Poll::Ready(Ok(count)) if count == piece.len()));
}

#[test]
fn the_peer_may_change_its_key() {
    let mut pair = Pair::client();
    for generation in 1..=20 {
        let wire = [pair.peer.data(b"before"), pair.peer.record(HANDSHAKE, &UPDATE)].concat();
        pair.peer.rekey(generation);
        let after = pair.peer.data(b"after");
        pair.arrives(&wire).arrives(&after);
        assert_eq!(pair.read().data(), b"before".as_slice());
        assert_eq!(pair.read().data(), b"after".as_slice());
    }
    write(&mut pair, b"ours");
    assert_eq!(pair.sent(), Some((APPLICATION_DATA, b"ours".to_vec())), "nobody has asked for our update");
}

#[test]
fn a_key_update_that_is_asked_for_goes_before_the_next_batch() {
    let mut pair = Pair::client();
    let wire = pair.peer.record(HANDSHAKE, &UPDATE_REQUESTED);
    pair.peer.rekey(1);
    let again = pair.peer.record(HANDSHAKE, &UPDATE_REQUESTED);
    pair.arrives(&wire).arrives(&again);
    assert!(matches!(pair.read(), Read::Waiting));
    assert_eq!(pair.sent(), None);
    write(&mut pair, b"first");
    write(&mut pair, b"second");
    assert_eq!(pair.sent(), Some((HANDSHAKE, UPDATE.to_vec())), "one answers both");
    pair.peer_rekeys_reading(1);
    assert_eq!(pair.sent(), Some((APPLICATION_DATA, b"first".to_vec())));
    assert_eq!(pair.sent(), Some((APPLICATION_DATA, b"second".to_vec())));
}

#[test]
fn a_key_update_waits_for_the_batch_that_is_being_written() {
    let mut pair = Pair::client();
    pair.stream.begin().unwrap();
    let mut sealed = piece(b"being written");
    pair.stream.seal(&mut sealed).unwrap();
    pair.stream.io.room = 10;
    assert!(matches!(pair.stream.poll_write(&mut context(), &sealed), Poll::Ready(Ok(10))));
    let update = pair.peer.record(HANDSHAKE, &UPDATE_REQUESTED);
    pair.arrives(&update);
    assert!(matches!(pair.read(), Read::Waiting));
    pair.stream.begin().unwrap();
    pair.stream.io.room = usize::MAX;
    assert!(pair.stream.poll_write(&mut context(), &sealed[10..]).is_ready());
    assert_eq!(pair.sent(), Some((APPLICATION_DATA, b"being written".to_vec())));
    write(&mut pair, b"next");
    assert_eq!(pair.sent(), Some((HANDSHAKE, UPDATE.to_vec())));
    pair.peer_rekeys_reading(1);
    assert_eq!(pair.sent(), Some((APPLICATION_DATA, b"next".to_vec())));
}

#[test]
fn a_flood_of_key_updates_is_refused() {
    for update in [UPDATE, UPDATE_REQUESTED] {
        let mut pair = Pair::client();
        for generation in 1..=33 {
            let record = pair.peer.record(HANDSHAKE, &update);
            pair.peer.rekey(generation);
            pair.arrives(&record);
        }
        assert_eq!(pair.read().tls(), Error::PeerMisbehaved(PeerMisbehaved::TooManyKeyUpdateRequests));
        pair.assert_dead(Some(AlertDescription::UnexpectedMessage));
    }
}

#[test]
fn tickets_are_skipped_also_in_fragments_and_together() {
    let ticket = |length: u8| [vec![4, 0, 0, length], vec![24; usize::from(length)]].concat();
    let mut pair = Pair::client();
    let together = pair.peer.record(HANDSHAKE, &[ticket(10), ticket(0), ticket(200)].concat());
    pair.arrives(&together);
    for fragment in ticket(20).chunks(3) {
        let record = pair.peer.record(HANDSHAKE, fragment);
        pair.arrives(&record);
    }
    // A fragment of a key update after a ticket.
    let tail = [ticket(3), UPDATE[..2].to_vec()].concat();
    let wire = [pair.peer.record(HANDSHAKE, &tail), pair.peer.record(HANDSHAKE, &UPDATE[2..])].concat();
    pair.peer.rekey(1);
    let data = pair.peer.data(b"data");
    pair.arrives(&wire).arrives(&data);
    assert_eq!(pair.read().data(), b"data".as_slice());
}

#[test]
fn a_ticket_for_a_server_is_refused() {
    let mut pair = Pair::server();
    let record = pair.peer.record(HANDSHAKE, &[4, 0, 0, 0]);
    pair.arrives(&record);
    assert!(matches!(pair.read().tls(), Error::General(_)));
    pair.assert_dead(Some(AlertDescription::UnexpectedMessage));
}

#[test]
fn every_other_handshake_message_is_refused() {
    for kind in (0..=255).filter(|kind| *kind != 4 && *kind != 24) {
        for mut pair in [Pair::client(), Pair::server()] {
            let record = pair.peer.record(HANDSHAKE, &[kind]);
            pair.arrives(&record);
            assert!(matches!(pair.read().tls(), Error::General(_)));
            pair.assert_dead(Some(AlertDescription::UnexpectedMessage));
        }
    }
}

#[test]
fn malformed_messages_are_refused() {
    let wrong: [(&[u8], AlertDescription); 6] = [
        (&[], AlertDescription::UnexpectedMessage),
        (&[24, 0, 0, 1, 2], AlertDescription::IllegalParameter),
        (&[24, 0, 0, 0], AlertDescription::DecodeError),
        (&[24, 0, 0, 2, 0, 0], AlertDescription::DecodeError),
        (&[4, 1, 0, 1], AlertDescription::DecodeError),
        (&[24, 0, 0, 1, 0, 24], AlertDescription::UnexpectedMessage),
    ];
    for (content, alert) in wrong {
        let mut pair = Pair::client();
        let record = pair.peer.record(HANDSHAKE, content);
        pair.arrives(&record);
        let _reason = pair.read().tls();
        pair.assert_dead(Some(alert));
    }
}

#[test]
fn between_the_fragments_of_a_message_nothing_else_may_come() {
    for (kind, content) in [(APPLICATION_DATA, &b"data"[..]), (21, &[1, 0]), (APPLICATION_DATA, &[])] {
        let mut pair = Pair::client();
        let wire = [pair.peer.record(HANDSHAKE, &UPDATE[..4]), pair.peer.record(kind, content)].concat();
        pair.arrives(&wire);
        let interleaved = Error::PeerMisbehaved(PeerMisbehaved::MessageInterleavedWithHandshakeMessage);
        assert_eq!(pair.read().tls(), interleaved);
        pair.assert_dead(Some(AlertDescription::UnexpectedMessage));
    }
}

#[test]
fn a_message_in_endless_fragments_is_refused() {
    let mut pair = Pair::client();
    let mut wire = pair.peer.record(HANDSHAKE, &[4, 0, 0xff, 0xff]);
    for _ in 0..33 {
        wire.extend(pair.peer.record(HANDSHAKE, &[0]));
    }
    pair.arrives(&wire);
    assert!(matches!(pair.read().tls(), Error::PeerMisbehaved(_)));
    pair.assert_dead(Some(AlertDescription::UnexpectedMessage));
    // Empty ones at once.
    let mut pair = Pair::client();
    let record = pair.peer.record(HANDSHAKE, &[]);
    pair.arrives(&record);
    assert!(!matches!(pair.read().tls(), Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate)));
}
