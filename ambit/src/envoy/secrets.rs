//! The waypoint's certificate and the mesh's roots, served as Envoy secrets and renewed in time.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use ambit_api::envoy::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use ambit_api::envoy::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use ambit_api::envoy::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use ambit_api::envoy::pb::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryService;
use ambit_api::type_url;
use ambit_identity::SpiffeId;
use ambit_tls::{CaClient, PemSvid, TlsError};
use ambit_xds::Any;
use ambit_xds::server::{Cache, Change, SotwSession};
use futures::stream::{self, BoxStream, StreamExt as _};
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

const VIEW: &str = "secrets";
/// Wait between attempts to renew a certificate that is still valid, at first and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(150));

/// The secrets, and the service that Envoy reads them from.
#[derive(Clone)]
pub struct Secrets {
    cache: Cache,
}

/// How often the authority is asked for the first certificate.
const TRIES: u32 = 4;

/// When a certificate became and ceases to be valid.
#[derive(Debug, Clone, Copy)]
pub struct Validity {
    from: SystemTime,
    until: SystemTime,
}

impl Secrets {
    pub fn new() -> Self {
        Self { cache: Cache::new() }
    }

    /// Obtains a certificate and puts it and its roots in place of what was served so far.
    pub async fn renew(&self, client: &CaClient, id: &SpiffeId) -> Result<Validity, TlsError> {
        let svid = client.issue_pem(id).await?;
        self.put(&svid);
        Ok(Validity { from: svid.not_before, until: svid.not_after })
    }

    /// Obtains the first certificate. The authority may only just be starting, or have many to serve, so it is asked a few times.
    pub async fn obtain(&self, client: &CaClient, id: &SpiffeId) -> Result<Validity, TlsError> {
        let mut wait = BACK_OFF.0;
        for _ in 1..TRIES {
            match self.renew(client, id).await {
                Ok(validity) => return Ok(validity),
                Err(error) => tracing::warn!(%error, %id, "there is no certificate yet; trying again"),
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        self.renew(client, id).await
    }

    /// Renews at half of each certificate's life. While the authority is away the certificate stays in use.
    pub async fn keep_renewed(&self, client: &CaClient, id: &SpiffeId, mut validity: Validity) -> Infallible {
        loop {
            let life = validity.until.duration_since(validity.from).unwrap_or_default();
            let half = (validity.from + life / 2).duration_since(SystemTime::now()).unwrap_or_default();
            // Waypoints that started together should not ask together.
            tokio::time::sleep(half.mul_f64(0.9 + fastrand::f64() * 0.1)).await;
            let mut wait = BACK_OFF.0;
            validity = loop {
                match self.renew(client, id).await {
                    Ok(renewed) => break renewed,
                    Err(error) => tracing::warn!(%error, %id, "the certificate could not be renewed; trying again"),
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(BACK_OFF.1);
            };
            tracing::info!(%id, "certificate renewed");
        }
    }

    fn put(&self, svid: &PemSvid) {
        let inline =
            |text: &str| Some(DataSource { specifier: Some(Specifier::InlineString(text.to_owned())), ..Default::default() });
        let own = TlsCertificate { certificate_chain: inline(&svid.chain), private_key: inline(&svid.key), ..Default::default() };
        let roots = CertificateValidationContext { trusted_ca: inline(&svid.roots), ..Default::default() };
        let changes =
            [change("default", secret::Type::TlsCertificate(own)), change("ROOTCA", secret::Type::ValidationContext(roots))];
        self.cache.update(VIEW, type_url::SECRET, changes);
    }
}

fn change(name: &str, secret: secret::Type) -> Change {
    let secret = Secret { name: name.into(), r#type: Some(secret) };
    Change::upsert(name, Vec::new(), Any { type_url: type_url::SECRET.into(), value: secret.encode_to_vec() })
}

/// One stream of Envoy's.
struct Session {
    secrets: Secrets,
    state: SotwSession,
    changes: tokio::sync::watch::Receiver<u64>,
    requests: Streaming<DiscoveryRequest>,
}

impl Session {
    /// The next response; `None` once Envoy has closed the stream.
    async fn next(&mut self) -> Result<Option<DiscoveryResponse>, Status> {
        loop {
            self.changes.mark_unchanged();
            if let Some(response) = self.state.next(&self.secrets.cache, VIEW) {
                return Ok(Some(response));
            }
            tokio::select! {
                request = self.requests.message() => match request? {
                    Some(request) => {
                        if let Some(error) = &request.error_detail {
                            tracing::error!(error = error.message, "Envoy does not accept its certificate");
                        }
                        self.state.request(request).map_err(|error| Status::invalid_argument(error.to_string()))?;
                    }
                    None => return Ok(None),
                },
                changed = self.changes.changed() => if changed.is_err() {
                    return Ok(None);
                },
            }
        }
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Secrets {
    type DeltaSecretsStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;
    type StreamSecretsStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let changes = self.cache.watch(VIEW);
        let session = Session { secrets: self.clone(), state: SotwSession::new(), changes, requests: request.into_inner() };
        let responses =
            stream::try_unfold(session, |mut session| async { Ok(session.next().await?.map(|response| (response, session))) });
        Ok(Response::new(responses.boxed()))
    }

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("the resources of the mesh ask for secrets by state of the world"))
    }

    async fn fetch_secrets(&self, _: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("secrets are served on a stream"))
    }
}
