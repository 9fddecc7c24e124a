//! Certificates from the SPIFFE Workload API, as a SPIRE agent serves it.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use ambit_identity::SpiffeId;
use async_trait::async_trait;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use spiffe::{TrustDomain, X509Bundle, X509ResourceLimits, X509Source, X509Svid, transport::Endpoint};
use tokio::{sync::Mutex, time::Instant};

use super::SvidSource;
use crate::{Svid, TlsError};

/// How long the first answer may take.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// How long it is not tried again to reach an agent that was not there.
const RETRY: Duration = Duration::from_secs(1);
/// Identities of one node that are taken, at most, and trust domains; and the certificates of one trust domain, in bytes.
const LIMITS: X509ResourceLimits = X509ResourceLimits::new(Some(10_000), Some(200), Some(4 << 20));

/// The agent's answer is one stream for all identities: of those it gives out to this process, the one that is asked for is taken. So
/// the agent has to be told that this process may have the identities of the pods that it serves, and it should say so only of pods of
/// this node. Peers are believed under the bundle of the identity's own trust domain.
#[derive(Debug)]
pub struct WorkloadApi {
    endpoint: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    source: Option<X509Source>,
    failed: Option<(Instant, TlsError)>,
}

/// What the agent has for one identity.
struct Material {
    svid: Arc<X509Svid>,
    bundle: Arc<X509Bundle>,
}

impl WorkloadApi {
    /// The agent at `endpoint`: `unix:///path`, or `tcp://ip:port` with an address of this host, since keys come in clear.
    ///
    /// # Errors
    /// When that is no endpoint, or not on this host.
    pub fn new(endpoint: &str) -> Result<Self, TlsError> {
        let unusable = |error| TlsError::Unreachable { address: endpoint.to_owned(), detail: format!("{error}") };
        if let Endpoint::Tcp { host, .. } = Endpoint::parse(endpoint).map_err(unusable)?
            && !host.is_loopback()
        {
            let detail = "keys would cross the network in clear: only unix:// or an address of loopback".to_owned();
            return Err(TlsError::Unreachable { address: endpoint.to_owned(), detail });
        }
        Ok(Self { endpoint: endpoint.to_owned(), state: Mutex::default() })
    }

    /// The stream, opened if there is none. Those who wait for somebody else's attempt share its failure.
    async fn source(&self) -> Result<X509Source, TlsError> {
        let mut state = self.state.lock().await;
        if let Some(source) = &state.source {
            if !source.state().is_closed() {
                return Ok(source.clone());
            }
            state.source = None;
        }
        if let Some((when, error)) = &state.failed
            && when.elapsed() < RETRY
        {
            return Err(error.clone());
        }
        let builder = X509Source::builder().endpoint(&self.endpoint).resource_limits(LIMITS).initial_sync_timeout(FIRST_ANSWER);
        match builder.build().await {
            Ok(source) => {
                state.source = Some(source.clone());
                Ok(source)
            }
            Err(error) => {
                let error = TlsError::Unreachable { address: self.endpoint.clone(), detail: error.to_string() };
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn material(&self, id: &SpiffeId) -> Result<Material, TlsError> {
        let refused = |code: &str, message: String| TlsError::Authority { code: code.to_owned(), message };
        let state = self.source().await?.state();
        let context = state.context().map_err(|error| refused("withdrawn", error.to_string()))?;
        let wanted = id.to_string();
        let svid = context.svids().iter().find(|svid| svid.spiffe_id().to_string() == wanted);
        let svid = svid.ok_or_else(|| refused("not issued", format!("the agent has no certificate of {id} for this process")))?;
        let domain = TrustDomain::new(id.trust_domain().as_str()).map_err(|error| TlsError::malformed("trust domain", error))?;
        let bundle = context.bundle_set().get(&domain);
        let bundle = bundle.ok_or_else(|| refused("no bundle", format!("the agent has no roots of {domain}")))?;
        Ok(Material { svid: svid.clone(), bundle })
    }
}

#[async_trait]
impl SvidSource for WorkloadApi {
    async fn issue(&self, id: &SpiffeId) -> Result<Svid, TlsError> {
        let Material { svid, bundle } = self.material(id).await?;
        let chain = svid.cert_chain().iter().map(|certificate| CertificateDer::from(certificate.as_bytes().to_vec())).collect();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(svid.private_key().as_bytes().to_vec()));
        let mut roots = RootCertStore::empty();
        for root in bundle.authorities() {
            let added = roots.add(CertificateDer::from(root.as_bytes().to_vec()));
            added.map_err(|error| TlsError::malformed("root certificate", error))?;
        }
        Svid::assemble(id, chain, key, roots)
    }

    async fn version(&self, id: &SpiffeId) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        if let Ok(Material { svid, bundle }) = self.material(id).await {
            for certificate in svid.cert_chain().iter().chain(bundle.authorities()) {
                certificate.as_bytes().hash(&mut hasher);
            }
        }
        Some(hasher.finish())
    }

    async fn changed(&self, id: &SpiffeId, version: u64) {
        loop {
            let updates = self.source().await.map(|source| source.updated());
            if self.version(id).await != Some(version) {
                return;
            }
            let told = match updates {
                Ok(mut updates) => updates.changed().await.is_ok(),
                Err(_) => false,
            };
            if !told {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
