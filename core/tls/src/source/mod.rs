//! Where certificates come from.

mod files;
mod spiffe;

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use ambit_identity::SpiffeId;
use async_trait::async_trait;

use crate::{CaClient, CaConfig, Svid, TlsError};
pub use files::Files;
pub use spiffe::WorkloadApi;

/// Where certificates come from.
#[async_trait]
pub trait SvidSource: Send + Sync + 'static {
    /// A certificate for `id`: a fresh one with a fresh key from an authority, or the one that a source has whose certificates
    /// somebody else renews ([`SvidSource::version`]).
    ///
    /// # Errors
    /// When the source cannot be reached, refuses, or answers with something else than was asked.
    async fn issue(&self, id: &SpiffeId) -> Result<Svid, TlsError>;

    /// For a source whose certificates somebody else renews: a number that changes with what it has for `id`. Such a source is not
    /// asked at half-life, but when it has something else.
    async fn version(&self, _id: &SpiffeId) -> Option<u64> {
        None
    }

    /// Completes when [`SvidSource::version`] is another than `version`.
    async fn changed(&self, _id: &SpiffeId, _version: u64) {
        std::future::pending().await
    }
}

/// A source as it is named in flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceName {
    /// `ca`: the mesh's certificate service.
    Authority,
    /// `files:DIR`: see [`Files`].
    Files(PathBuf),
    /// `spiffe:ENDPOINT`: see [`WorkloadApi`].
    WorkloadApi(String),
}

impl FromStr for SourceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "ca" => Ok(Self::Authority),
            Some(("files", directory)) if !directory.is_empty() => Ok(Self::Files(directory.into())),
            Some(("spiffe", endpoint)) if !endpoint.is_empty() => {
                // A plain path is the common way to write a socket.
                Ok(Self::WorkloadApi(if endpoint.starts_with('/') { format!("unix://{endpoint}") } else { endpoint.to_owned() }))
            }
            _ => Err("neither ca nor files:DIRECTORY nor spiffe:SOCKET".to_owned()),
        }
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority => write!(f, "ca"),
            Self::Files(directory) => write!(f, "files:{}", directory.display()),
            Self::WorkloadApi(endpoint) => write!(f, "spiffe:{endpoint}"),
        }
    }
}

impl SourceName {
    /// Opens it; `authority` is how the mesh's certificate service is asked.
    ///
    /// # Errors
    /// When an address is none. That nobody is there shows later, at the first certificate.
    pub fn open(&self, authority: CaConfig) -> Result<Arc<dyn SvidSource>, TlsError> {
        Ok(match self {
            Self::Authority => Arc::new(CaClient::new(authority)?),
            Self::Files(directory) => Arc::new(Files::new(directory)),
            Self::WorkloadApi(endpoint) => Arc::new(WorkloadApi::new(endpoint)?),
        })
    }
}
