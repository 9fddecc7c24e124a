//! The client of the mesh's certificate service.

use std::time::Duration;

use ambit_api::ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient};
use ambit_identity::SpiffeId;
use async_trait::async_trait;
use prost_types::{Struct, Value, value::Kind};
use tokio::time::Instant;
use tonic::{Request, Status, transport::Channel};

use crate::{
    CertificateRequest, PemSvid, Svid, SvidSource, TlsError,
    authority::DEFAULT_LIFETIME,
    control_plane::{ControlPlane, Credentials},
};

/// Pauses before a request that did not reach the authority is made again, in milliseconds. While its replicas are replaced, connections still
/// go to one that has gone, and whoever waits for the certificate would be refused for that.
const AGAIN: [u64; 5] = [20, 80, 200, 300, 400];
/// After this nothing is tried again: where packets are swallowed, each attempt takes seconds to fail.
const AGAIN_WITHIN: Duration = Duration::from_secs(2);

/// How certificates are asked for.
#[derive(Debug, Clone)]
pub struct CaConfig {
    /// Where the certificate service is.
    pub control_plane: ControlPlane,
    /// Who we are there.
    pub credentials: Credentials,
    /// Ask in the name of the workload (`ImpersonatedIdentity`): what a node proxy does. A waypoint asks for itself.
    pub impersonate: bool,
    /// The lifetime to ask for.
    pub lifetime: Duration,
    /// Limit for one call.
    pub timeout: Duration,
}

impl CaConfig {
    /// 24 h certificates, 10 s for a call.
    #[must_use]
    pub fn new(control_plane: ControlPlane, credentials: Credentials, impersonate: bool) -> Self {
        Self { control_plane, credentials, impersonate, lifetime: DEFAULT_LIFETIME, timeout: Duration::from_secs(10) }
    }
}

/// Asks the certificate service (`istio.v1.auth.IstioCertificateService`) for each certificate. The private key never leaves this
/// process.
#[derive(Debug, Clone)]
pub struct CaClient {
    channel: Channel,
    config: CaConfig,
}

impl CaClient {
    /// Connects at the first call.
    ///
    /// # Errors
    /// When the address is not one.
    pub fn new(config: CaConfig) -> Result<Self, TlsError> {
        Ok(Self { channel: config.control_plane.channel()?, config })
    }

    fn body(&self, request: &CertificateRequest, id: &SpiffeId) -> IstioCertificateRequest {
        let metadata = self.config.impersonate.then(|| Struct {
            fields: [("ImpersonatedIdentity".to_owned(), Value { kind: Some(Kind::StringValue(id.to_string())) })].into(),
        });
        IstioCertificateRequest {
            csr: request.pem().to_owned(),
            validity_duration: i64::try_from(self.config.lifetime.as_secs()).unwrap_or(i64::MAX),
            metadata,
        }
    }
}

#[async_trait]
impl SvidSource for CaClient {
    async fn issue(&self, id: &SpiffeId) -> Result<Svid, TlsError> {
        let request = CertificateRequest::new(id)?;
        let chain = self.ask(&request, id).await?;
        request.complete(&chain)
    }
}

/// A request without a certificate.
struct Unanswered {
    error: TlsError,
    /// Whether the authority may have it, and have been slow or refused it.
    arrived: bool,
}

impl From<TlsError> for Unanswered {
    fn from(error: TlsError) -> Self {
        Self { error, arrived: true }
    }
}

impl CaClient {
    /// A certificate with its key as text, for a proxy that is not ours (Envoy's SDS).
    ///
    /// # Errors
    /// As [`SvidSource::issue`].
    pub async fn issue_pem(&self, id: &SpiffeId) -> Result<PemSvid, TlsError> {
        let request = CertificateRequest::new(id)?;
        let chain = self.ask(&request, id).await?;
        request.complete_pem(&chain)
    }

    async fn ask(&self, request: &CertificateRequest, id: &SpiffeId) -> Result<Vec<String>, TlsError> {
        let (mut pauses, began) = (AGAIN.into_iter(), Instant::now());
        loop {
            match self.ask_once(request, id).await {
                Ok(chain) => return Ok(chain),
                Err(Unanswered { error, arrived: false }) => match pauses.next().filter(|_| began.elapsed() < AGAIN_WITHIN) {
                    // Not all at once, for many may have lost the same replica.
                    Some(pause) => tokio::time::sleep(Duration::from_millis(pause).mul_f64(0.5 + fastrand::f64())).await,
                    None => return Err(error),
                },
                Err(Unanswered { error, .. }) => return Err(error),
            }
        }
    }

    async fn ask_once(&self, request: &CertificateRequest, id: &SpiffeId) -> Result<Vec<String>, Unanswered> {
        let mut call = Request::new(self.body(request, id));
        self.config.credentials.apply(call.metadata_mut()).await?;
        call.set_timeout(self.config.timeout);
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        let began = Instant::now();
        // The deadline travels with the call, but a peer that hangs before answering anything must not hold us either.
        let answer = tokio::time::timeout(self.config.timeout, client.create_certificate(call))
            .await
            .map_err(|_| Unanswered::from(self.unreachable("no answer in time".to_owned())))?
            .map_err(|status| {
                let error = self.refused(&status);
                // The call's own deadline looks like a connection that was lost, but whoever hangs has the request.
                let late = began.elapsed() >= self.config.timeout;
                Unanswered { arrived: late || !matches!(error, TlsError::Unreachable { .. }), error }
            })?;
        Ok(answer.into_inner().cert_chain)
    }

    fn unreachable(&self, detail: String) -> TlsError {
        TlsError::Unreachable { address: self.config.control_plane.address.clone(), detail }
    }

    /// A status with a transport error below it never came from the authority.
    fn refused(&self, status: &Status) -> TlsError {
        let mut cause = std::error::Error::source(status);
        let mut deepest = None;
        for _ in 0..8 {
            let Some(here) = cause else { break };
            deepest = Some(here.to_string());
            cause = here.source();
        }
        match deepest {
            Some(detail) => self.unreachable(detail),
            None => TlsError::Authority { code: format!("{:?}", status.code()), message: status.message().to_owned() },
        }
    }
}
