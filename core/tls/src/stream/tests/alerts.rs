//! What the peer's alerts come to.

use rustls::{AlertDescription, Error, InvalidMessage, PeerMisbehaved};

use super::support::{Pair, Read};
use crate::PeerError;

const ALERT: u8 = 21;

#[test]
fn an_alert_ends_the_connection_without_an_answer_and_says_why() {
    for level in [1, 2] {
        for description in (1..=255).filter(|description| *description != 90) {
            let mut pair = Pair::client();
            let alert = pair.peer.record(ALERT, &[level, description]);
            pair.arrives(&alert);
            let error = pair.read().error();
            let expected = Error::AlertReceived(AlertDescription::from(description));
            assert_eq!(PeerError::from_io(&error), Some(PeerError::from(&expected)));
            pair.assert_dead(None);
        }
    }
}

#[test]
fn the_refusal_of_our_certificate_is_found_in_the_error() {
    let mut pair = Pair::client();
    let alert = pair.peer.record(ALERT, &[2, 48]);
    pair.arrives(&alert);
    let reason = PeerError::from_io(&pair.read().error()).unwrap();
    assert!(matches!(&reason, PeerError::Refused(why) if why.contains("unknown to the peer")), "{reason}");
    // And in every later one.
    let reason = PeerError::from_io(&pair.stream.begin().unwrap_err()).unwrap();
    assert!(matches!(reason, PeerError::Refused(_)));
}

#[test]
fn close_notify_of_either_level_is_an_end() {
    for level in [1, 2] {
        let mut pair = Pair::client();
        let alert = pair.peer.record(ALERT, &[level, 0]);
        pair.arrives(&alert);
        assert!(matches!(pair.read(), Read::End));
    }
}

#[test]
fn user_canceled_means_nothing_but_is_bounded() {
    let mut pair = Pair::client();
    for _ in 0..32 {
        let alert = pair.peer.record(ALERT, &[1, 90]);
        pair.arrives(&alert);
    }
    assert!(matches!(pair.read(), Read::Waiting));
    let alert = pair.peer.record(ALERT, &[1, 90]);
    pair.arrives(&alert);
    assert_eq!(pair.read().tls(), Error::PeerMisbehaved(PeerMisbehaved::TooManyWarningAlertsReceived));
    pair.assert_dead(Some(AlertDescription::UnexpectedMessage));
}

#[test]
fn malformed_alerts_are_refused() {
    for content in [&[][..], &[2], &[2, 40, 2, 40], &[1, 0, 0]] {
        let mut pair = Pair::client();
        let alert = pair.peer.record(ALERT, content);
        pair.arrives(&alert);
        assert_eq!(pair.read().tls(), Error::InvalidMessage(InvalidMessage::MissingData("Alert")));
        pair.assert_dead(Some(AlertDescription::DecodeError));
    }
    for level in [0, 3, 255] {
        let mut pair = Pair::client();
        let alert = pair.peer.record(ALERT, &[level, 0]);
        pair.arrives(&alert);
        assert_eq!(pair.read().tls(), Error::AlertReceived(AlertDescription::CloseNotify));
        pair.assert_dead(Some(AlertDescription::IllegalParameter));
    }
}
