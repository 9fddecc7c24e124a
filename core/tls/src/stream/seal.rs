//! Sealing records in place.

use aws_lc_rs::aead::Aad;
use rustls::{ConnectionTrafficSecrets, Error};

use super::{APPLICATION_DATA, HEAD, MOST, TAIL, fault::Fault, keys::Key};

/// The most records by which the keys are renewed before their limit: a batch that has begun has to fit under the old key.
const MARGIN: u64 = 1 << 16;

/// Seals what we send.
pub(super) struct Sealer {
    key: Key,
    /// No more records than this are sealed with one key (RFC 8446, section 5.5).
    limit: u64,
}

impl Sealer {
    pub(super) fn new(key: Key, limit: u64) -> Self {
        Self { key, limit }
    }

    /// Lowers the number of records for one key.
    #[cfg(test)]
    pub(super) fn lower_limit(&mut self, limit: u64) {
        self.limit = self.limit.min(limit);
    }

    /// Whether it is time for the next key.
    pub(super) fn is_worn(&self) -> bool {
        self.key.used() >= self.limit - MARGIN.min(self.limit / 4)
    }

    /// Goes on with the next key.
    ///
    /// # Errors
    /// When the secrets are not of a suite of the mesh.
    pub(super) fn rekey(&mut self, secrets: &ConnectionTrafficSecrets) -> Result<(), Fault> {
        self.key = Key::new(0, secrets).map_err(Fault::ours)?;
        Ok(())
    }

    /// Seals `piece` = head ‖ plaintext ‖ tail in place. No sequence number is used twice, even if this fails.
    ///
    /// # Errors
    /// When the piece is too short or too long, or the key may not be used any more.
    pub(super) fn seal(&mut self, kind: u8, piece: &mut [u8]) -> Result<(), Fault> {
        let refused = |why: &str| Fault::ours(Error::General(why.to_owned()));
        let sealed = piece.len().saturating_sub(HEAD);
        if !(TAIL..=MOST + TAIL).contains(&sealed) {
            return Err(refused("the length of the record to seal is wrong"));
        }
        if self.key.used() >= self.limit {
            return Err(refused("the key for sending is exhausted"));
        }
        let nonce = self.key.next_nonce().ok_or(Fault::ours(Error::EncryptError))?;
        let length = u16::try_from(sealed).map_err(|_| Fault::ours(Error::EncryptError))?;
        let head = head(length);
        let parts = piece.split_first_chunk_mut::<HEAD>().and_then(|(start, rest)| Some((start, rest.split_last_chunk_mut()?)));
        let Some((start, (inner, end))) = parts else { return Err(Fault::ours(Error::EncryptError)) };
        let Some(last) = inner.last_mut() else { return Err(Fault::ours(Error::EncryptError)) };
        *last = kind;
        let tag = self.key.aead.seal_in_place_separate_tag(nonce, Aad::from(head), inner);
        let tag = tag.map_err(|_| Fault::ours(Error::EncryptError))?;
        let end: &mut [u8; super::TAG] = end;
        *end = tag.as_ref().try_into().map_err(|_| Fault::ours(Error::EncryptError))?;
        *start = head;
        Ok(())
    }

    /// Seals a copy of `parts` together as one record at the end of `out`.
    ///
    /// # Errors
    /// As [`Sealer::seal`].
    pub(super) fn append<'a>(
        &mut self,
        kind: u8,
        parts: impl IntoIterator<Item = &'a [u8]>,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let start = out.len();
        out.extend_from_slice(&[0; HEAD]);
        parts.into_iter().for_each(|part| out.extend_from_slice(part));
        out.extend_from_slice(&[0; TAIL]);
        let sealed = self.seal(kind, out.get_mut(start..).unwrap_or_default());
        if sealed.is_err() {
            // What was not sealed must not stay where it could be sent.
            out.truncate(start);
        }
        sealed
    }
}

/// The head of a protected record (RFC 8446, section 5.2), which is also its additional data.
fn head(length: u16) -> [u8; HEAD] {
    let [high, low] = length.to_be_bytes();
    [APPLICATION_DATA, 3, 3, high, low]
}
