//! An authority without a network between.

use std::{sync::Arc, time::Duration};

use ambit_identity::SpiffeId;
use async_trait::async_trait;

use super::Authority;
use crate::{CertificateRequest, Svid, SvidSource, TlsError};

/// An authority of this process as a source of certificates: for tests, benchmarks and single-process meshes.
#[derive(Debug, Clone)]
pub struct LocalSource {
    authority: Arc<Authority>,
    lifetime: Duration,
}

impl LocalSource {
    /// Certificates from `authority` that live for `lifetime`.
    #[must_use]
    pub fn new(authority: Arc<Authority>, lifetime: Duration) -> Self {
        Self { authority, lifetime }
    }

    /// Makes one certificate at once.
    ///
    /// # Errors
    /// As [`Authority::sign`].
    pub fn svid(&self, id: &SpiffeId) -> Result<Svid, TlsError> {
        let request = CertificateRequest::new(id)?;
        let chain = self.authority.sign(request.pem(), id, Some(self.lifetime))?;
        request.complete(&chain)
    }
}

#[async_trait]
impl SvidSource for LocalSource {
    async fn issue(&self, id: &SpiffeId) -> Result<Svid, TlsError> {
        self.svid(id)
    }
}
