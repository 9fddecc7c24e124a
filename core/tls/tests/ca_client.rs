//! The client of the certificate service, against one in this process.

#![allow(missing_docs)]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ambit_api::ca::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
};
use ambit_identity::SpiffeId;
use ambit_tls::{
    CaClient, CaConfig, CertificateRequest, SvidSource, TlsError,
    authority::Authority,
    control_plane::{ControlPlane, Credentials},
};
use prost_types::value::Kind;
use tokio::{net::TcpListener, time::timeout};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

const HOUR: Duration = Duration::from_hours(1);

fn web() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

fn api() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/api".parse().unwrap()
}

fn new_authority() -> Authority {
    Authority::create(&"cluster.local".parse().unwrap()).unwrap()
}

/// What one call brought.
#[derive(Debug, Clone)]
struct Call {
    bearer: String,
    cluster: String,
    lifetime: i64,
    impersonated: Option<String>,
}

/// A certificate service that signs what is asked, or for `instead`.
#[derive(Clone)]
struct FakeService {
    authority: Arc<Authority>,
    calls: Arc<Mutex<Vec<Call>>>,
    instead: Option<SpiffeId>,
    hangs: bool,
}

#[tonic::async_trait]
impl IstioCertificateService for FakeService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let text = |name: &str| request.metadata().get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        let (bearer, cluster) = (text("authorization"), text("clusterid"));
        let body = request.into_inner();
        let impersonated = body.metadata.and_then(|m| match m.fields.get("ImpersonatedIdentity")?.kind.clone()? {
            Kind::StringValue(id) => Some(id),
            _ => None,
        });
        self.calls.lock().unwrap().push(Call {
            bearer: bearer.clone(),
            cluster,
            lifetime: body.validity_duration,
            impersonated: impersonated.clone(),
        });
        if self.hangs {
            std::future::pending::<()>().await;
        }
        if !bearer.starts_with("Bearer good") {
            return Err(Status::unauthenticated("the token is not good"));
        }
        let id: SpiffeId = impersonated.map_or_else(web, |id| id.parse().unwrap());
        let chain = match &self.instead {
            None => self.authority.sign(&body.csr, &id, None).map_err(|e| Status::invalid_argument(e.to_string()))?,
            Some(other) => {
                let request = CertificateRequest::new(other).unwrap();
                self.authority.sign(request.pem(), other, None).unwrap()
            }
        };
        Ok(Response::new(IstioCertificateResponse { cert_chain: chain }))
    }
}

struct Bench {
    service: FakeService,
    address: String,
    directory: tempfile::TempDir,
}

impl Bench {
    async fn start(change: impl FnOnce(&mut FakeService)) -> Self {
        let authority = Arc::new(new_authority());
        let mut service = FakeService { authority, calls: Arc::default(), instead: None, hangs: false };
        change(&mut service);
        let names = ["istiod.istio-system.svc".to_owned(), "10.0.0.1".to_owned()];
        let serving = service.authority.serving_certificate(&names, HOUR).unwrap();
        let identity = tonic::transport::Identity::from_pem(serving.certificate_pem, serving.key_pem);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tonic::transport::Server::builder()
            .tls_config(tonic::transport::ServerTlsConfig::new().identity(identity))
            .unwrap()
            .add_service(IstioCertificateServiceServer::new(service.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(server);
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("root.pem"), service.authority.root_pem()).unwrap();
        std::fs::write(directory.path().join("token"), "good 1\n").unwrap();
        Self { service, address, directory }
    }

    fn config(&self, impersonate: bool) -> CaConfig {
        let control_plane = ControlPlane::new(&self.address, self.directory.path().join("root.pem"));
        let credentials = Credentials::new(self.directory.path().join("token"), "Kubernetes");
        CaConfig { timeout: Duration::from_secs(3), ..CaConfig::new(control_plane, credentials, impersonate) }
    }

    fn calls(&self) -> Vec<Call> {
        self.service.calls.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_certificate_is_asked_for_with_a_token_read_anew_for_each_call() {
    let bench = Bench::start(|_| {}).await;
    let client = CaClient::new(bench.config(true)).unwrap();
    assert_eq!(*client.issue(&api()).await.unwrap().id(), api());
    std::fs::write(bench.directory.path().join("token"), "good 2\n").unwrap();
    client.issue(&api()).await.unwrap();
    let calls = bench.calls();
    assert_eq!(calls[0].bearer, "Bearer good 1");
    assert_eq!(calls[1].bearer, "Bearer good 2");
    assert_eq!(calls[0].cluster, "Kubernetes");
    assert_eq!(calls[0].lifetime, 24 * 3600);
    assert_eq!(calls[0].impersonated.as_deref(), Some("spiffe://cluster.local/ns/shop/sa/api"));
}

#[tokio::test]
async fn a_proxy_that_is_not_ours_gets_certificate_and_key_as_text() {
    let bench = Bench::start(|_| {}).await;
    let pem = CaClient::new(bench.config(true)).unwrap().issue_pem(&api()).await.unwrap();
    assert_eq!(pem.roots, bench.service.authority.root_pem());
    let chain: Vec<rustls_pki_types::CertificateDer<'_>> =
        rustls_pki_types::pem::PemObject::pem_slice_iter(pem.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = rustls_pki_types::pem::PemObject::from_pem_slice(pem.key.as_bytes()).unwrap();
    // Building the configuration checks that the key belongs to the certificate.
    rustls::ServerConfig::builder_with_provider(ambit_tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    assert!(!format!("{pem:?}").contains("PRIVATE"));
}

#[tokio::test]
async fn a_workload_that_asks_for_itself_impersonates_nobody() {
    let bench = Bench::start(|_| {}).await;
    CaClient::new(bench.config(false)).unwrap().issue(&web()).await.unwrap();
    assert_eq!(bench.calls()[0].impersonated, None);
}

#[tokio::test]
async fn a_refusal_comes_with_the_authority_s_words() {
    let bench = Bench::start(|_| {}).await;
    std::fs::write(bench.directory.path().join("token"), "bad").unwrap();
    let error = CaClient::new(bench.config(true)).unwrap().issue(&web()).await.unwrap_err();
    assert_eq!(error.to_string(), "the certificate authority answered Unauthenticated: the token is not good");
}

#[tokio::test]
async fn an_authority_that_answers_for_somebody_else_is_not_believed() {
    let bench = Bench::start(|service| service.instead = Some(api())).await;
    let error = CaClient::new(bench.config(true)).unwrap().issue(&web()).await.unwrap_err();
    assert!(matches!(error, TlsError::WrongIdentity { .. }), "{error}");
}

#[tokio::test]
async fn an_authority_under_another_root_or_with_another_name_is_not_asked() {
    let bench = Bench::start(|_| {}).await;
    let mut named = bench.config(true);
    named.control_plane.server_name = Some("elsewhere.example".to_owned());
    let error = CaClient::new(named).unwrap().issue(&web()).await.unwrap_err();
    assert!(matches!(error, TlsError::Unreachable { .. }), "{error:?}");

    std::fs::write(bench.directory.path().join("root.pem"), new_authority().root_pem()).unwrap();
    let error = CaClient::new(bench.config(true)).unwrap().issue(&web()).await.unwrap_err();
    assert!(matches!(&error, TlsError::Unreachable { detail, .. } if detail.starts_with("unknown authority")), "{error}");
    assert!(bench.calls().is_empty(), "the token was shown to a stranger");
}

#[tokio::test]
async fn an_authority_that_hangs_or_is_not_there_is_an_error_in_time() {
    let bench = Bench::start(|service| service.hangs = true).await;
    let mut config = bench.config(true);
    config.timeout = Duration::from_millis(200);
    let hung = timeout(Duration::from_secs(2), CaClient::new(config).unwrap().issue(&web())).await.unwrap();
    hung.unwrap_err();

    let mut config = bench.config(true);
    config.control_plane.address = "127.0.0.1:1".to_owned();
    let error = CaClient::new(config).unwrap().issue(&web()).await.unwrap_err();
    assert!(matches!(error, TlsError::Unreachable { .. }), "{error:?}");

    std::fs::remove_file(bench.directory.path().join("token")).unwrap();
    let error = CaClient::new(bench.config(true)).unwrap().issue(&web()).await.unwrap_err();
    assert!(matches!(error, TlsError::File { .. }), "{error:?}");
}

#[tokio::test]
async fn a_connection_that_is_lost_before_the_answer_is_made_again() {
    let bench = Bench::start(|_| {}).await;
    let mut config = bench.config(true);
    // As while replicas are replaced: connections go to one that has gone, and then to another.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = std::mem::replace(&mut config.control_plane.address, listener.local_addr().unwrap().to_string());
    tokio::spawn(async move {
        for _ in 0..3 {
            drop(listener.accept().await.unwrap());
        }
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = tokio::net::TcpStream::connect(&authority).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    assert_eq!(*CaClient::new(config).unwrap().issue(&api()).await.unwrap().id(), api());
    assert_eq!(bench.calls().len(), 1);
}

#[tokio::test]
async fn an_authority_to_which_no_connection_comes_about_is_not_tried_again_and_again() {
    let bench = Bench::start(|_| {}).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = bench.config(true);
    config.control_plane.address = listener.local_addr().unwrap().to_string();
    config.control_plane.connect_timeout = Duration::from_millis(2100);
    let held = Arc::new(Mutex::new(Vec::new()));
    let accepted = Arc::clone(&held);
    tokio::spawn(async move {
        loop {
            let (silent, _) = listener.accept().await.unwrap();
            accepted.lock().unwrap().push(silent);
        }
    });
    let error = CaClient::new(config).unwrap().issue(&web()).await.unwrap_err();
    assert!(matches!(error, TlsError::Unreachable { .. }), "{error:?}");
    assert_eq!(held.lock().unwrap().len(), 1, "one attempt has taken all the time that there was");
}
