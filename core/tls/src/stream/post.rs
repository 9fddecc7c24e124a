//! Handshake messages after the handshake (RFC 8446, section 4.6). Tickets are skipped, so nothing has to be kept of them.

use rustls::{AlertDescription, InvalidMessage, PeerMisbehaved};

use super::fault::Fault;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// Type and length of a message.
const MESSAGE_HEAD: usize = 4;
/// The longest ticket that is skipped. Real ones, with a chain of certificates in them, have a few KB.
const LONGEST_TICKET: usize = 1 << 16;
/// A key update that asks for nothing in return: the message that we send.
pub(super) const OUR_KEY_UPDATE: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];

/// A key update of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyUpdate {
    /// Whether it asks for ours.
    pub(super) requested: bool,
}

/// Reads messages that may come in fragments over several records.
#[derive(Debug)]
pub(super) struct Messages {
    /// Only servers send tickets.
    tickets: bool,
    /// A message that has begun, up to the end of a key update.
    start: [u8; OUR_KEY_UPDATE.len()],
    have: usize,
    /// What is left of a ticket.
    skip: usize,
}

impl Messages {
    /// `tickets`: whether the peer is a server.
    pub(super) fn new(tickets: bool) -> Self {
        Self { tickets, start: [0; _], have: 0, skip: 0 }
    }

    /// Whether no message is open. Between the fragments of a message nothing else may come (RFC 8446, section 5.1).
    pub(super) fn is_aligned(&self) -> bool {
        self.have == 0 && self.skip == 0
    }

    /// Takes the content of one handshake record.
    ///
    /// # Errors
    /// When the messages are not allowed now or malformed.
    pub(super) fn push(&mut self, mut content: &[u8]) -> Result<Option<KeyUpdate>, Fault> {
        if content.is_empty() {
            return Err(Fault::unexpected(PeerMisbehaved::TooManyEmptyFragments));
        }
        loop {
            let skipped = self.skip.min(content.len());
            self.skip -= skipped;
            content = content.get(skipped..).unwrap_or_default();
            let Some((byte, rest)) = content.split_first() else { return Ok(None) };
            content = rest;
            if let Some(update) = self.push_byte(*byte)? {
                // The keys change here, so the record has to end here (RFC 8446, section 5.1).
                return if content.is_empty() {
                    Ok(Some(update))
                } else {
                    Err(Fault::unexpected(PeerMisbehaved::KeyEpochWithPendingFragment))
                };
            }
        }
    }

    /// Takes one byte of a message's head, or the body of a key update.
    fn push_byte(&mut self, byte: u8) -> Result<Option<KeyUpdate>, Fault> {
        if let Some(at) = self.start.get_mut(self.have) {
            *at = byte;
            self.have += 1;
        }
        let [kind, a, b, c, request] = self.start;
        if !(kind == KEY_UPDATE || kind == NEW_SESSION_TICKET && self.tickets) {
            return Err(Fault::inappropriate(kind));
        }
        if self.have == MESSAGE_HEAD {
            let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
            match kind {
                KEY_UPDATE if length == 1 => {}
                KEY_UPDATE => return Err(Fault::malformed(InvalidMessage::InvalidKeyUpdate)),
                _ if length > LONGEST_TICKET => return Err(Fault::malformed(InvalidMessage::HandshakePayloadTooLarge)),
                _ => {
                    self.have = 0;
                    self.skip = length;
                }
            }
            return Ok(None);
        }
        if self.have < self.start.len() {
            return Ok(None);
        }
        self.have = 0;
        match request {
            0 | 1 => Ok(Some(KeyUpdate { requested: request == 1 })),
            _ => Err(Fault { alert: Some(AlertDescription::IllegalParameter), error: InvalidMessage::InvalidKeyUpdate.into() }),
        }
    }
}
