//! Certificates that an authority has taken back (X.509 revocation lists, RFC 5280, section 5).

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, ExpirationPolicy, RevocationCheckDepth, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{TlsError, Trust};

/// How often it is looked whether the file has changed.
const LOOK: Duration = Duration::from_secs(5);
/// The largest file that is read, in bytes.
const MOST: u64 = 64 << 20;
/// Beyond this a handshake takes noticeably longer: each hashes the whole list of the peer's authority to check its signature.
const LONG: u64 = 4 << 20;

/// What holds for certificates of whose authority there is no list, or an old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlisted {
    /// They are refused: every authority has to have a list, and its time must not be over.
    Refused,
    /// They are accepted: only what is listed is refused, by old lists too.
    Accepted,
}

/// Revocation lists, one for each authority at most that counts.
#[derive(Debug)]
pub struct Revocations {
    lists: Vec<CertRevocationList<'static>>,
    unlisted: Unlisted,
}

impl Revocations {
    /// The lists of a PEM text. Without any, [`Unlisted::Refused`] refuses everybody.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn from_pem(pem: &str, unlisted: Unlisted) -> Result<Self, TlsError> {
        let mut lists = Vec::new();
        for der in CertificateRevocationListDer::pem_slice_iter(pem.as_bytes()) {
            let der = der.map_err(|e| TlsError::malformed("revocation list", format!("{e:?}")))?;
            let list = BorrowedCertRevocationList::from_der(&der).and_then(|list| list.to_owned());
            lists.push(list.map_err(|e| TlsError::malformed("revocation list", e))?.into());
        }
        Ok(Self { lists, unlisted })
    }

    /// No list at all.
    #[must_use]
    pub fn none(unlisted: Unlisted) -> Self {
        Self { lists: Vec::new(), unlisted }
    }

    /// How many lists there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lists.len()
    }

    /// Whether there is no list.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// Whether a list names a certificate with the serial number of this one, be it of the same authority or not: without that it cannot be
    /// revoked, which is known without a signature being checked. One that cannot be read may be.
    pub(crate) fn may_name(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return true };
        self.lists.iter().any(|list| !matches!(list.find_serial(certificate.raw_serial()), Ok(None)))
    }

    pub(crate) fn unlisted(&self) -> Unlisted {
        self.unlisted
    }

    pub(crate) fn references(&self) -> Vec<&CertRevocationList<'static>> {
        self.lists.iter().collect()
    }
}

/// What webpki is to do with `lists`; nothing when there are none.
pub(crate) fn options<'a>(lists: &'a [&'a CertRevocationList<'a>], unlisted: Unlisted) -> Option<RevocationOptions<'a>> {
    let (status, expiration) = match unlisted {
        Unlisted::Refused => (UnknownStatusPolicy::Deny, ExpirationPolicy::Enforce),
        Unlisted::Accepted => (UnknownStatusPolicy::Allow, ExpirationPolicy::Ignore),
    };
    let options = RevocationOptionsBuilder::new(lists).ok()?;
    let options = options.with_depth(RevocationCheckDepth::Chain).with_status_policy(status);
    Some(options.with_expiration_policy(expiration).build())
}

/// Keeps a [`Trust`] to the lists in a file.
#[derive(Debug)]
pub struct Follower {
    file: PathBuf,
    unlisted: Unlisted,
    trust: Trust,
    /// Of the file as it was read last.
    read: Option<Stamp>,
    /// Whether what is there now could not be read.
    wrong: bool,
}

/// When a file was written, and how long it is.
type Stamp = (SystemTime, u64);

impl Follower {
    /// Has `trust` heed the lists in `file`. When it cannot be read there are none, which with [`Unlisted::Refused`] refuses everybody.
    pub async fn load(file: PathBuf, unlisted: Unlisted, trust: Trust) -> Self {
        let stamp = stamp(&file).await;
        let lists = read(&file, unlisted).await;
        let wrong = lists.is_err();
        trust.revoke(lists.unwrap_or_else(|error| {
            tracing::error!(%error, "there are no revocation lists");
            Revocations::none(unlisted)
        }));
        Self { file, unlisted, trust, read: stamp, wrong }
    }

    /// Follows the file for as long as it is polled. One that becomes unreadable leaves the lists before it in force, which
    /// [`Unlisted::Refused`] uses no longer than they say: a half-written file must not cut every connection.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let now = stamp(&self.file).await;
        if now == self.read && !self.wrong {
            return;
        }
        self.read = now;
        match read(&self.file, self.unlisted).await {
            Ok(lists) => {
                tracing::info!(file = %self.file.display(), lists = lists.len(), "revocation lists were read");
                self.trust.revoke(lists);
                self.wrong = false;
            }
            Err(error) if self.wrong => tracing::debug!(%error, "the revocation lists still cannot be read"),
            Err(error) => {
                tracing::error!(%error, "the revocation lists cannot be read; those before stay in force");
                self.wrong = true;
            }
        }
    }
}

async fn stamp(file: &Path) -> Option<Stamp> {
    let metadata = tokio::fs::metadata(file).await.ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

async fn read(file: &Path, unlisted: Unlisted) -> Result<Revocations, TlsError> {
    let failed = |error| TlsError::file("read", file, error);
    let length = tokio::fs::metadata(file).await.map_err(failed)?.len();
    if length > MOST {
        return Err(TlsError::malformed("revocation list", "the file is too large"));
    }
    if length > LONG {
        tracing::warn!(file = %file.display(), length, "the revocation lists are long: each handshake takes longer");
    }
    let lists = Revocations::from_pem(&tokio::fs::read_to_string(file).await.map_err(failed)?, unlisted)?;
    // It is being written, or was cut off: nobody who heeds lists means to heed none.
    if lists.is_empty() {
        return Err(TlsError::malformed("revocation list", "the file has none"));
    }
    Ok(lists)
}
