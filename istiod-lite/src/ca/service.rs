//! `istio.v1.auth.IstioCertificateService`.

use std::{sync::Arc, time::Duration};

use ambit_api::ca::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
};
use ambit_identity::SpiffeId;
use ambit_tls::authority::Authority;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};

use super::{Caller, Denied, Rules, Tokens};
use crate::mesh::Mesh;

/// A pod may ask before the change that announces it has reached us: its request waits this long for that.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The largest request, in bytes.
const MAX_REQUEST: usize = 64 << 10;

/// Signs certificates for those who may have them; everybody else is told `UNAUTHENTICATED`, and the log says why.
pub struct CertificateService {
    authority: Arc<Authority>,
    tokens: Tokens,
    rules: Rules,
    mesh: Arc<Mesh>,
}

impl CertificateService {
    /// Signs with `authority`.
    #[must_use]
    pub fn new(authority: Arc<Authority>, tokens: Tokens, rules: Rules, mesh: Arc<Mesh>) -> Self {
        Self { authority, tokens, rules, mesh }
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
}

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        metrics::counter!("citadel_server_csr_count").increment(1);
        let refused = |reason: &dyn std::fmt::Display, asked: &str| {
            metrics::counter!("citadel_server_authentication_failure_count").increment(1);
            tracing::warn!(%reason, asked, "a certificate was refused");
            Status::unauthenticated("not allowed to have this certificate; the log of the control plane says why")
        };
        let caller = self.tokens.caller(request.metadata()).map_err(|error| refused(&error, "-"))?;
        let request = request.into_inner();
        let asked = impersonated(&request);
        let id = asked.map(str::parse).transpose().map_err(|error: ambit_identity::IdentityError| {
            refused(&format_args!("{caller} asks for a name that is no identity: {error}"), asked.unwrap_or("-"))
        })?;
        let id = self.decide(&caller, id.as_ref()).await.map_err(|denied| refused(&denied, asked.unwrap_or("its own")))?;
        let lifetime = u64::try_from(request.validity_duration).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let cert_chain = self.authority.sign(&request.csr, &id, lifetime).map_err(|error| {
            metrics::counter!("citadel_server_csr_parsing_err_count").increment(1);
            tracing::warn!(%error, %caller, %id, "a certificate signing request was refused");
            Status::invalid_argument(error.to_string())
        })?;
        metrics::counter!("citadel_server_success_cert_issuance_count").increment(1);
        tracing::debug!(%caller, %id, "a certificate was issued");
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// The identity that a node account asks for in the name of a workload.
fn impersonated(request: &IstioCertificateRequest) -> Option<&str> {
    match request.metadata.as_ref()?.fields.get("ImpersonatedIdentity")?.kind.as_ref()? {
        prost_types::value::Kind::StringValue(id) => Some(id),
        _ => Some(""),
    }
}
