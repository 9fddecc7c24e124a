//! Obtaining and renewing certificates: the local authority, the store, the client of the certificate service.

#![allow(missing_docs)]

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use ambit_api::ca::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
};
use ambit_identity::SpiffeId;
use ambit_tls::{
    CaClient, CaConfig, CertificateRequest, StoreConfig, Svid, SvidSource, SvidStore, TlsError,
    authority::{self, Authority, LocalSource},
    control_plane::{ControlPlane, Credentials},
};
use async_trait::async_trait;
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

// ---- the authority ----

#[test]
fn an_authority_is_made_once_and_its_key_is_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let first = Authority::load_or_create(&state, &"cluster.local".parse().unwrap()).unwrap();
    let again = Authority::load_or_create(&state, &"cluster.local".parse().unwrap()).unwrap();
    assert_eq!(first.root_pem(), again.root_pem());
    assert_eq!(first.root_pem(), std::fs::read_to_string(state.join(authority::CERTIFICATE_FILE)).unwrap());
    let mode = std::fs::metadata(state.join(authority::KEY_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(&state).unwrap().count(), 2, "temporary files were left behind");

    let request = CertificateRequest::new(&web()).unwrap();
    let chain = again.sign(request.pem(), &web(), None).unwrap();
    let svid = request.complete(&[chain[0].clone(), first.root_pem().to_owned()]).unwrap();
    assert_eq!(*svid.id(), web());
}

#[test]
fn a_root_that_does_not_belong_to_its_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    Authority::load_or_create(directory.path(), &"cluster.local".parse().unwrap()).unwrap();
    std::fs::write(directory.path().join(authority::CERTIFICATE_FILE), new_authority().root_pem()).unwrap();
    let error = Authority::load_or_create(directory.path(), &"cluster.local".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("does not belong to the root key"), "{error}");
}

#[test]
fn a_certificate_begins_before_now_and_lives_no_longer_than_allowed() {
    let authority = new_authority().with_max_lifetime(HOUR);
    let request = CertificateRequest::new(&web()).unwrap();
    let chain = authority.sign(request.pem(), &web(), Some(HOUR * 1000)).unwrap();
    let svid = request.complete(&chain).unwrap();
    let now = SystemTime::now();
    assert!(svid.not_before() <= now - Duration::from_secs(60));
    assert!(svid.not_after() <= now + HOUR && svid.not_after() > now + HOUR - Duration::from_secs(60));
}

#[test]
fn a_request_for_another_name_or_with_a_broken_signature_is_not_signed() {
    let authority = new_authority();
    let request = CertificateRequest::new(&web()).unwrap();
    assert!(authority.sign(request.pem(), &api(), None).is_err());
    assert!(authority.sign("nonsense", &web(), None).is_err());
    // Change one bit of the signature, which is the end of the request.
    let pem: Vec<&str> = request.pem().trim().lines().collect();
    let body = pem[1..pem.len() - 1].concat();
    let flip = body.len() - 8;
    let replacement = if &body[flip..=flip] == "A" { "B" } else { "A" };
    let broken = format!("{}{replacement}{}", &body[..flip], &body[flip + 1..]);
    let broken = format!("{}\n{broken}\n{}\n", pem[0], pem[pem.len() - 1]);
    assert!(authority.sign(&broken, &web(), None).is_err());
}

#[test]
fn an_answer_for_somebody_else_for_another_key_or_out_of_date_is_not_accepted() {
    let authority = new_authority();
    let other = CertificateRequest::new(&api()).unwrap();
    let chain = authority.sign(other.pem(), &api(), None).unwrap();
    let error = CertificateRequest::new(&web()).unwrap().complete(&chain).unwrap_err();
    assert!(matches!(error, TlsError::WrongIdentity { .. }), "{error}");

    let error = CertificateRequest::new(&api()).unwrap().complete(&chain).unwrap_err();
    assert!(error.to_string().contains("another key"), "{error}");

    let late = new_authority().with_backdate(Duration::ZERO).with_max_lifetime(Duration::from_secs(1));
    let request = CertificateRequest::new(&web()).unwrap();
    let chain = late.sign(request.pem(), &web(), None).unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    assert!(matches!(request.complete(&chain).unwrap_err(), TlsError::NotValidNow { .. }));

    assert!(CertificateRequest::new(&web()).unwrap().complete(&[]).is_err());
}

#[test]
fn a_key_is_never_printed() {
    let svid = LocalSource::new(Arc::new(new_authority()), HOUR).svid(&web()).unwrap();
    let printed = format!("{svid:?}");
    assert!(printed.contains("spiffe://cluster.local/ns/shop/sa/web") && !printed.to_lowercase().contains("key"), "{printed}");
}

// ---- the store ----

/// A source that counts, and can be made to fail or to hang.
struct Counting {
    inner: LocalSource,
    calls: AtomicUsize,
    down: AtomicBool,
    delay: Duration,
}

impl Counting {
    fn new(lifetime: Duration) -> Arc<Self> {
        let inner = LocalSource::new(Arc::new(new_authority().with_backdate(Duration::ZERO)), lifetime);
        Arc::new(Self { inner, calls: AtomicUsize::new(0), down: AtomicBool::new(false), delay: Duration::from_millis(20) })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl SvidSource for Counting {
    async fn issue(&self, id: &SpiffeId) -> Result<Svid, TlsError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.delay).await;
        if self.down.load(Ordering::SeqCst) {
            return Err(TlsError::Authority { code: "Unavailable".to_owned(), message: "down".to_owned() });
        }
        self.inner.issue(id).await
    }
}

fn store(source: &Arc<Counting>) -> SvidStore {
    let config = StoreConfig { backoff_least: Duration::from_millis(100), ..StoreConfig::default() };
    SvidStore::new(Arc::clone(source) as Arc<dyn SvidSource>, config)
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come about");
}

#[tokio::test]
async fn callers_that_come_at_once_share_one_request() {
    let source = Counting::new(HOUR);
    let store = store(&source);
    let all = futures::future::join_all((0..50).map(|_| async { store.get(&web()).await.unwrap().serial().to_owned() })).await;
    assert_eq!(source.calls(), 1);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 1);
    store.get(&api()).await.unwrap();
    assert_eq!(source.calls(), 2);
}

#[tokio::test]
async fn a_certificate_is_renewed_at_half_its_life_without_being_asked_for() {
    let source = Counting::new(Duration::from_secs(6));
    let store = store(&source);
    let first = store.get(&web()).await.unwrap();
    let config = store.server_config(&web()).await.unwrap();
    assert!(
        Arc::ptr_eq(&config, &store.server_config(&web()).await.unwrap()),
        "the configuration is built once for each certificate"
    );
    eventually("a renewal", || store.current(&web()).unwrap().serial() != first.serial()).await;
    assert!(first.valid_at(SystemTime::now()), "the old certificate was over before the new one came");
    assert!(SystemTime::now() > first.half_life() - Duration::from_secs(1), "renewed too early");
    assert!(!Arc::ptr_eq(&config, &store.server_config(&web()).await.unwrap()));
}

#[tokio::test]
async fn a_valid_certificate_stays_in_use_while_the_authority_is_away_and_an_expired_one_does_not() {
    let source = Counting::new(Duration::from_secs(4));
    let store = store(&source);
    let first = store.get(&web()).await.unwrap();
    source.down.store(true, Ordering::SeqCst);
    eventually("a failed renewal", || store.status()[0].error.is_some()).await;
    assert_eq!(store.get(&web()).await.unwrap().serial(), first.serial());
    eventually("expiry", || store.current(&web()).is_none()).await;
    assert!(matches!(store.get(&web()).await.unwrap_err(), TlsError::Authority { .. }));
    source.down.store(false, Ordering::SeqCst);
    eventually("recovery", || store.current(&web()).is_some()).await;
    assert!(store.status()[0].error.is_none());
}

#[tokio::test]
async fn a_failure_is_told_at_once_and_tried_again_with_growing_pauses() {
    let source = Counting::new(HOUR);
    source.down.store(true, Ordering::SeqCst);
    let store = store(&source);
    for _ in 0..5 {
        assert!(matches!(store.get(&web()).await.unwrap_err(), TlsError::Authority { .. }));
    }
    assert_eq!(source.calls(), 1, "callers do not shorten the pause");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let calls = source.calls();
    assert!((3..=5).contains(&calls), "{calls} attempts in a second with pauses of 0.1, 0.2, 0.4 s");
}

#[tokio::test]
async fn identities_that_left_the_node_are_forgotten_with_their_keys() {
    let source = Counting::new(HOUR);
    let store = store(&source);
    let held = Arc::downgrade(&store.get(&web()).await.unwrap());
    store.get(&api()).await.unwrap();
    store.retain(&HashSet::from([api()]));
    assert_eq!(store.status().len(), 1);
    assert!(store.current(&web()).is_none());
    eventually("the key's end", || held.upgrade().is_none()).await;
    store.forget(&api());
    assert!(store.status().is_empty());
}

#[tokio::test]
async fn a_store_that_is_shut_down_answers_so() {
    let source = Counting::new(HOUR);
    let store = store(&source);
    let (waiting, closer) = (store.clone(), store.clone());
    let waiting = tokio::spawn(async move { waiting.get(&web()).await });
    tokio::time::sleep(Duration::from_millis(5)).await;
    closer.shutdown();
    assert!(matches!(waiting.await.unwrap().unwrap_err(), TlsError::Shutdown));
    assert!(matches!(store.get(&api()).await.unwrap_err(), TlsError::Shutdown));
}

// ---- the client of the certificate service ----

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
