//! `istio.v1.auth.IstioCertificateService`.

use std::{fmt::Display, sync::Arc, time::Duration};

use ambit_api::ca::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
};
use ambit_identity::SpiffeId;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};

use super::{
    Caller, Denied, Issuing, Refusals, Rules, TokenError, Tokens, Who, claimed,
    limits::{Limiter, Limits, TooMany},
    signing::{Turns, Unsigned},
};
use crate::mesh::Mesh;

/// A pod may ask before the change that announces it has reached us: its request waits this long for that.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The largest request, in bytes.
const MAX_REQUEST: usize = 64 << 10;
/// How long who comes while too many wait for a signature is asked to wait.
const LATER: Duration = Duration::from_secs(2);
/// Header by which a server asks for a pause before the next attempt (gRPC proposal A6), in milliseconds.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Signs certificates for those who may have them. Everybody else is told that it is refused, and the log says who asked for what and why not.
pub struct CertificateService {
    issuing: Issuing,
    tokens: Tokens,
    rules: Rules,
    mesh: Arc<Mesh>,
    limiter: Limiter,
    turns: Turns,
    refusals: Refusals,
}

/// Why a request gets no certificate.
enum Refused {
    Token(TokenError),
    TooMany(TooMany),
    NoIdentity(ambit_identity::IdentityError),
    Denied(Denied),
    /// What signs now could not be read for so long that it may be another.
    Unsure,
    /// Nothing was signed, by a defect.
    BrokenOff,
    Request(ambit_tls::TlsError),
}

impl Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token(error) => error.fmt(f),
            Self::TooMany(error) => error.fmt(f),
            Self::NoIdentity(error) => write!(f, "it asks for a name that is no identity: {error}"),
            Self::Denied(denied) => denied.fmt(f),
            Self::Unsure => {
                f.write_str("the Secret of the authority could not be read for so long that another issuer may sign by now")
            }
            Self::BrokenOff => f.write_str("the signature was broken off, which is a defect: please report it"),
            Self::Request(error) => error.fmt(f),
        }
    }
}

impl Refused {
    /// What the caller is told: no more than it needs, for it may be anybody.
    fn status(&self) -> Status {
        match self {
            Self::Token(error @ TokenError::Unavailable(_)) => error.status(),
            Self::TooMany(error) => {
                let mut status = Status::resource_exhausted(error.to_string());
                if let Ok(wait) = error.wait().as_millis().to_string().parse() {
                    status.metadata_mut().insert(PUSHBACK, wait);
                }
                status
            }
            Self::Unsure => Status::unavailable("what signs now is not known; the log of the control plane says why"),
            Self::BrokenOff => Status::internal("the signature was broken off"),
            Self::Request(error) => Status::invalid_argument(error.to_string()),
            Self::Token(TokenError::Refused(_)) | Self::NoIdentity(_) | Self::Denied(_) => {
                Status::unauthenticated("not allowed to have this certificate; the log of the control plane says why")
            }
        }
    }

    fn count(&self) {
        let name = match self {
            Self::Request(_) => "citadel_server_csr_parsing_err_count",
            Self::BrokenOff => "citadel_server_csr_sign_err_count",
            Self::TooMany(_) => "istiod_lite_certificate_requests_limited_total",
            Self::Token(TokenError::Unavailable(_)) | Self::Unsure => "istiod_lite_certificate_requests_unavailable_total",
            Self::Token(TokenError::Refused(_)) | Self::NoIdentity(_) | Self::Denied(_) => {
                "citadel_server_authentication_failure_count"
            }
        };
        metrics::counter!(name).increment(1);
    }
}

impl CertificateService {
    /// Signs with the authority of `issuing`.
    #[must_use]
    pub fn new(issuing: Issuing, tokens: Tokens, rules: Rules, mesh: Arc<Mesh>, refusals: Refusals) -> Self {
        Self { issuing, tokens, rules, mesh, limiter: Limiter::new(Limits::default()), turns: Turns::new(), refusals }
    }

    /// With other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limiter = Limiter::new(limits);
        self
    }

    /// As a service of a tonic server.
    #[must_use]
    pub fn into_service(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    /// Decides, again after each change of the mesh while a change could make a difference.
    async fn decide(&self, caller: &Caller, impersonated: Option<&SpiffeId>) -> Result<SpiffeId, Denied> {
        let deadline = Instant::now() + PATIENCE;
        let mut generation = self.mesh.generation();
        loop {
            generation.mark_unchanged();
            let decision = self.rules.decide(&self.mesh.index(), caller, impersonated);
            let Err(denied) = &decision else { return decision };
            if !denied.may_pass() || !matches!(timeout_at(deadline, generation.changed()).await, Ok(Ok(()))) {
                return decision;
            }
        }
    }

    /// The chain for a verified caller.
    async fn issue(&self, caller: &Caller, request: &IstioCertificateRequest) -> Result<Vec<String>, Refused> {
        let is_node = self.rules.node_accounts.contains(&caller.account);
        self.limiter.take(caller, is_node, Instant::now()).map_err(Refused::TooMany)?;
        let asked = impersonated(request).map(str::parse).transpose().map_err(Refused::NoIdentity)?;
        let id = self.decide(caller, asked.as_ref()).await.map_err(Refused::Denied)?;
        let lifetime = u64::try_from(request.validity_duration).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let (issuing, csr, of) = (self.issuing.clone(), request.csr.clone(), id.clone());
        // What signs when its turn has come, not what signed when it came.
        let sign = move || issuing.authority_at(Instant::now()).map(|authority| authority.sign(&csr, &of, lifetime));
        let signed = self.turns.take(sign).await.map_err(|unsigned| match unsigned {
            Unsigned::TooMany => Refused::TooMany(TooMany::Waiting(LATER)),
            Unsigned::BrokenOff => Refused::BrokenOff,
        })?;
        let chain = signed.ok_or(Refused::Unsure)?.map_err(Refused::Request)?;
        tracing::debug!(%caller, %id, "a certificate was issued");
        Ok(chain)
    }
}

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        metrics::counter!("citadel_server_csr_count").increment(1);
        let peer = request.remote_addr();
        let (headers, _, request) = request.into_parts();
        let asked = impersonated(&request).unwrap_or("its own");
        let (who, outcome) = match self.tokens.caller(&headers, peer.map(|peer| peer.ip())).await {
            Ok(caller) => {
                let outcome = self.issue(&caller, &request).await;
                (Who::Verified(caller), outcome)
            }
            Err(error) => (Who::Claimed(claimed(&headers)), Err(Refused::Token(error))),
        };
        match outcome {
            Ok(cert_chain) => {
                metrics::counter!("citadel_server_success_cert_issuance_count").increment(1);
                Ok(Response::new(IstioCertificateResponse { cert_chain }))
            }
            Err(refused) => {
                refused.count();
                self.refusals.record(peer, &who, asked, &refused);
                Err(refused.status())
            }
        }
    }
}

/// The identity that a node account asks for in the name of a workload.
fn impersonated(request: &IstioCertificateRequest) -> Option<&str> {
    match request.metadata.as_ref()?.fields.get("ImpersonatedIdentity")?.kind.as_ref()? {
        prost_types::value::Kind::StringValue(id) => Some(id),
        _ => Some(""),
    }
}
