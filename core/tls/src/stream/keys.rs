//! Keys of one direction, the nonces made from them, and where the next ones come from.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::{ConnectionTrafficSecrets, Error, kernel::KernelConnection};

/// Where the keys after a key update come from (RFC 8446, section 7.2).
pub(super) trait Schedule: Send + Sync {
    /// The next secrets for what we send.
    fn next_tx(&mut self) -> Result<ConnectionTrafficSecrets, Error>;
    /// The next secrets for what the peer sends.
    fn next_rx(&mut self) -> Result<ConnectionTrafficSecrets, Error>;
}

impl<Data: Send + Sync> Schedule for KernelConnection<Data> {
    fn next_tx(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        self.update_tx_secret().map(|(_, secrets)| secrets)
    }

    fn next_rx(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        self.update_rx_secret().map(|(_, secrets)| secrets)
    }
}

/// A key with its sequence number. aws-lc wipes it from memory when it is dropped.
pub(super) struct Key {
    pub(super) aead: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Key {
    /// The key for records from `sequence` on.
    ///
    /// # Errors
    /// When the suite is not one of the mesh.
    pub(super) fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, Error> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            _ => return Err(Error::General("the cipher suite is not AES-GCM".to_owned())),
        };
        let unusable = || Error::General("the key does not fit the cipher suite".to_owned());
        let aead = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).map_err(|_| unusable())?);
        let iv = iv.as_ref().try_into().map_err(|_| unusable())?;
        Ok(Self { aead, iv, sequence })
    }

    /// How many records this key has been used for.
    pub(super) fn used(&self) -> u64 {
        self.sequence
    }

    /// The nonce of the next record (RFC 8446, section 5.3), which from now on is used up. None when there is no further one.
    pub(super) fn next_nonce(&mut self) -> Option<Nonce> {
        let after = self.sequence.checked_add(1)?;
        let mut nonce = self.iv;
        let counter = self.sequence.to_be_bytes();
        for (byte, mask) in nonce.iter_mut().rev().zip(counter.iter().rev()) {
            *byte ^= mask;
        }
        self.sequence = after;
        Some(Nonce::assume_unique_for_key(nonce))
    }
}
