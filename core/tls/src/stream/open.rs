//! Finding records in the bytes that arrive, and opening them in place.

use aws_lc_rs::aead::Aad;
use rustls::{ConnectionTrafficSecrets, PeerMisbehaved};

use super::{APPLICATION_DATA, HEAD, MOST, MOST_SEALED, TAIL, fault::Fault, keys::Key};

/// The length on the wire of the record at the start of `bytes`, when its head has arrived.
///
/// # Errors
/// When the peer may not send such a record: not a protected one, or too long. Found as early as the bytes tell.
pub(super) fn record_length(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    match *bytes {
        [] => Ok(None),
        [kind, ..] if kind != APPLICATION_DATA => Err(Fault::inappropriate(kind)),
        [_, _, _, high, low, ..] => {
            let length = usize::from(u16::from_be_bytes([high, low]));
            if length > MOST_SEALED { Err(Fault::oversized()) } else { Ok(Some(HEAD + length)) }
        }
        _ => Ok(None),
    }
}

/// What was in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inner {
    /// The content type, not 0.
    pub(super) kind: u8,
    /// Length of the content, which begins after the head.
    pub(super) length: usize,
}

/// Opens what the peer sends.
pub(super) struct Opener {
    key: Key,
}

impl Opener {
    pub(super) fn new(key: Key) -> Self {
        Self { key }
    }

    /// Goes on with the next key.
    ///
    /// # Errors
    /// When the secrets are not of a suite of the mesh.
    pub(super) fn rekey(&mut self, secrets: &ConnectionTrafficSecrets) -> Result<(), Fault> {
        self.key = Key::new(0, secrets).map_err(Fault::ours)?;
        Ok(())
    }

    /// Opens `record`, head included, in place, and takes the padding off.
    ///
    /// # Errors
    /// When the peer has not sealed this record at this place, or sealed something that is not allowed.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<Inner, Fault> {
        let Some((head, sealed)) = record.split_first_chunk_mut::<HEAD>() else { return Err(Fault::forged()) };
        // Too short for a content type: nobody sealed this.
        if sealed.len() < TAIL {
            return Err(Fault::forged());
        }
        let nonce = self.key.next_nonce().ok_or_else(Fault::forged)?;
        let inner = self.key.aead.open_in_place(nonce, Aad::from(*head), sealed).map_err(|_| Fault::forged())?;
        if inner.len() > MOST + 1 {
            return Err(Fault::oversized());
        }
        // The content type is the last byte that is not padding (RFC 8446, section 5.4); a record without one is refused.
        let last = inner.iter().rposition(|byte| *byte != 0);
        let content = last.and_then(|at| Some(Inner { kind: *inner.get(at)?, length: at }));
        content.ok_or_else(|| Fault::unexpected(PeerMisbehaved::IllegalTlsInnerPlaintext))
    }
}
