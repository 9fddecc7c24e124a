//! What the peer's records mean.

use bytes::{Buf, Bytes, BytesMut};
use rustls::{AlertDescription, ConnectionTrafficSecrets, InvalidMessage, PeerMisbehaved};

use super::{
    ALERT, APPLICATION_DATA, HANDSHAKE, HEAD,
    fault::Fault,
    open::{Inner, Opener},
    post::Messages,
};

/// How many records without application data may follow each other: empty ones, key updates, tickets, fragments of messages.
const WITHOUT_DATA: u32 = 32;
/// The level of alerts that are not fatal.
const WARNING: u8 = 1;
/// See [`WARNING`].
const FATAL: u8 = 2;

/// What came of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Bytes for the application, at least one.
    Data(Bytes),
    /// Nothing to do.
    Nothing,
    /// The peer goes on with its next key; it may ask for ours.
    KeyUpdate { requested: bool },
    /// The peer sends no more (close_notify).
    Closed,
}

/// The state of what the peer sends.
pub(super) struct Incoming {
    opener: Opener,
    messages: Messages,
    /// Records since the last application data.
    fruitless: u32,
}

impl Incoming {
    /// `tickets`: whether the peer is a server.
    pub(super) fn new(opener: Opener, tickets: bool) -> Self {
        Self { opener, messages: Messages::new(tickets), fruitless: 0 }
    }

    /// Goes on with the peer's next key.
    ///
    /// # Errors
    /// When the secrets are not of a suite of the mesh.
    pub(super) fn rekey(&mut self, secrets: &ConnectionTrafficSecrets) -> Result<(), Fault> {
        self.opener.rekey(secrets)
    }

    /// Takes one whole record.
    ///
    /// # Errors
    /// When the connection is over because of it.
    pub(super) fn take(&mut self, mut record: BytesMut) -> Result<Event, Fault> {
        let Inner { kind, length } = self.opener.open(&mut record)?;
        record.truncate(HEAD + length);
        record.advance(HEAD);
        if kind != HANDSHAKE && !self.messages.is_aligned() {
            return Err(Fault::unexpected(PeerMisbehaved::MessageInterleavedWithHandshakeMessage));
        }
        if kind == APPLICATION_DATA && !record.is_empty() {
            self.fruitless = 0;
            return Ok(Event::Data(record.freeze()));
        }
        self.fruitless += 1;
        match kind {
            APPLICATION_DATA => self.bounded(PeerMisbehaved::TooManyEmptyFragments).map(|()| Event::Nothing),
            HANDSHAKE => {
                let update = self.messages.push(&record)?;
                self.bounded(PeerMisbehaved::TooManyKeyUpdateRequests)?;
                Ok(update.map_or(Event::Nothing, |update| Event::KeyUpdate { requested: update.requested }))
            }
            ALERT => self.alert(&record),
            _ => Err(Fault::inappropriate(kind)),
        }
    }

    fn bounded(&self, otherwise: PeerMisbehaved) -> Result<(), Fault> {
        if self.fruitless > WITHOUT_DATA { Err(Fault::unexpected(otherwise)) } else { Ok(()) }
    }

    /// RFC 8446, section 6. The level says nothing in TLS 1.3, but has to be one of the two.
    fn alert(&self, content: &[u8]) -> Result<Event, Fault> {
        let [level, description] = *content else { return Err(Fault::malformed(InvalidMessage::MissingData("Alert"))) };
        let alert = AlertDescription::from(description);
        if level != WARNING && level != FATAL {
            return Err(Fault { alert: Some(AlertDescription::IllegalParameter), error: rustls::Error::AlertReceived(alert) });
        }
        match alert {
            AlertDescription::CloseNotify => Ok(Event::Closed),
            // Means nothing by itself: a close_notify follows (section 6.1).
            AlertDescription::UserCanceled => self.bounded(PeerMisbehaved::TooManyWarningAlertsReceived).map(|()| Event::Nothing),
            other => Err(Fault::received(other)),
        }
    }
}
