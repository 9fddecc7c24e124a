//! Certificates that somebody else writes to files.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    time::Duration,
};

use ambit_identity::SpiffeId;
use async_trait::async_trait;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};

use super::SvidSource;
use crate::{
    Svid, TlsError,
    svid::{certificates_of, root_store},
};

/// How often it is looked whether files have changed.
const LOOK: Duration = Duration::from_secs(5);
/// The largest file that is read, in bytes.
const MOST: u64 = 1 << 20;
/// Certificates in files: for each identity a directory `NAMESPACE/SERVICE-ACCOUNT` with `tls.crt` (leaf first) and `tls.key`, and `ca.crt`
/// (the roots) once for all of them, all PEM: whoever writes the files of one identity does not say whom the node believes. Files that change are read again; what does not fit together, because not all of it has been replaced yet, is
/// not used.
#[derive(Debug)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// The files below `directory`.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    fn paths(&self, id: &SpiffeId) -> [PathBuf; 3] {
        // Neither name has a slash. An account can be called "..", but whose a certificate is, is checked.
        let own = self.directory.join(id.namespace().as_str()).join(id.service_account().as_str());
        [own.join("tls.crt"), own.join("tls.key"), self.directory.join("ca.crt")]
    }
}

#[async_trait]
impl SvidSource for Files {
    async fn issue(&self, id: &SpiffeId) -> Result<Svid, TlsError> {
        let [chain, key, roots] = &self.paths(id);
        let (chain, key_pem, roots) = (read(chain).await?, read(key).await?, read(roots).await?);
        // What is wrong with a key is not for a log.
        let key =
            PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| TlsError::malformed("private key", key.display()))?;
        Svid::assemble(id, certificates_of(&chain)?, key, root_store(&roots)?)
    }

    async fn version(&self, id: &SpiffeId) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        for path in self.paths(id) {
            let metadata = tokio::fs::metadata(path).await.ok();
            metadata.and_then(|metadata| Some((metadata.modified().ok()?, metadata.len()))).hash(&mut hasher);
        }
        Some(hasher.finish())
    }

    async fn changed(&self, id: &SpiffeId, version: u64) {
        while self.version(id).await == Some(version) {
            tokio::time::sleep(LOOK).await;
        }
    }
}

async fn read(path: &Path) -> Result<String, TlsError> {
    let failed = |error| TlsError::file("read", path, error);
    if tokio::fs::metadata(path).await.map_err(failed)?.len() > MOST {
        return Err(TlsError::malformed("file", format!("{} is too large", path.display())));
    }
    tokio::fs::read_to_string(path).await.map_err(failed)
}
