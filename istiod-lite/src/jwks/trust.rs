//! Who may have signed the certificates of issuers: what the system trusts, and what a file names besides.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

/// After this time the roots are read again, as those of a system are replaced now and then.
const HOLD: Duration = Duration::from_mins(10);

/// The roots, read when they are needed first.
#[derive(Debug)]
pub(super) struct Trust {
    file: Option<PathBuf>,
    held: Mutex<Option<(Instant, Arc<ClientConfig>)>>,
}

impl Trust {
    /// The roots of the system and those in `file`.
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self { file, held: Mutex::default() }
    }

    /// How an issuer is spoken to under TLS 1.2 or 1.3.
    pub(super) async fn config(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = self.held() {
            return Ok(config);
        }
        let file = self.file.clone();
        let read = spawn_blocking(move || config(file.as_deref())).await.map_err(|error| error.to_string())??;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), Arc::clone(&read)));
        Ok(read)
    }

    fn held(&self) -> Option<Arc<ClientConfig>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().filter(|(read, _)| read.elapsed() < HOLD).map(|(_, config)| Arc::clone(config))
    }
}

fn config(file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    // Those of a system that cannot be read are of no use to anybody; what cannot be read of our own file is its author's mistake.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = file {
        let wrong = |error: &dyn std::fmt::Display| format!("the roots in {} cannot be read: {error}", file.display());
        let text = std::fs::read(file).map_err(|error| wrong(&error))?;
        for certificate in CertificateDer::pem_slice_iter(&text) {
            let certificate = certificate.map_err(|error| wrong(&error))?;
            roots.add(certificate).map_err(|error| wrong(&error))?;
        }
    }
    if roots.is_empty() {
        return Err(
            "this system has no certificates of authorities: install them (ca-certificates), or name a file by --jwks-roots"
                .into(),
        );
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
