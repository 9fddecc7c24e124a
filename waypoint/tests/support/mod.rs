//! A mesh in one process: an authority, a waypoint configured from Envoy resources, endpoints behind HBONE, and a client.

#![allow(dead_code)]

pub mod client;
pub mod collector;
pub mod endpoint;
pub mod processor;
pub mod raw;
pub mod resources;
pub mod scripted;
pub mod server;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use ambit_api::type_url;
use ambit_identity::SpiffeId;
use ambit_runtime::{
    drain::{self, Trigger},
    telemetry::{AccessLog, Destination, metrics_handle},
};
use ambit_tls::{
    StoreConfig, SvidStore,
    authority::{Authority, LocalSource},
};
use ambit_xds::{Any, Rejected, Resource, client::Subscriptions};
use endpoint::HTTP;
use prost::Message;
use resources::{Ep, Service};
pub use waypoint::proxy::Limits;
use waypoint::{
    observe::{self, Telemetry},
    proxy::Proxy,
    terminate,
    xds::Store,
};

pub const WAYPOINT: &str = "spiffe://cluster.local/ns/shop/sa/waypoint";
pub const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
pub const BILLING: &str = "spiffe://cluster.local/ns/shop/sa/billing";

pub fn id(text: &str) -> SpiffeId {
    text.parse().expect("an identity")
}

/// A port of this machine that nobody listens at, for who takes it by its number. It is none of those that the kernel gives to connections and to
/// listeners without one (`ip_local_port_range`, from 32768 on where nobody says otherwise), of which others of these tests have a thousand: until
/// it is taken, one of them could get it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests of another program run beside these, from elsewhere.
    let first = u16::try_from(std::process::id() % 100).expect("less than 100") * 100;
    loop {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if TcpListener::bind(("::", port)).is_ok() {
            return port;
        }
    }
}

/// A mesh with the HTTP service `billing` of one endpoint.
pub async fn billing(number: u8) -> (Mesh, Service, Arc<endpoint::Seen>) {
    let mesh = Mesh::start(number).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    let seen = endpoint::start(&mesh, 1, "v1", BILLING).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(1, HTTP), BILLING)]);
    (mesh, service, seen)
}

/// The mesh of one test. `number` makes its addresses its own.
pub struct Mesh {
    pub number: u8,
    pub authority: Arc<Authority>,
    pub store: Store,
    pub address: SocketAddr,
    pub proxy: Arc<Proxy>,
    pub trigger: Trigger,
    log: PathBuf,
    telemetry: Arc<Telemetry>,
    _directory: tempfile::TempDir,
}

impl Mesh {
    pub async fn start(number: u8) -> Self {
        Self::start_with(number, Limits::default()).await
    }

    pub async fn start_with(number: u8, limits: Limits) -> Self {
        metrics_handle().expect("metrics");
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("access.log");
        let authority = Arc::new(Authority::create(id(WAYPOINT).trust_domain()).expect("an authority"));
        let store = Store::new(Subscriptions::new());
        let telemetry = Arc::new(Telemetry::new(AccessLog::open(&Destination::File(log.clone())).expect("a log")));
        let certificates = certificates(&authority);
        let proxy = Proxy::new(store.published(), id(WAYPOINT), certificates, telemetry.clone(), limits);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (trigger, watch) = drain::channel();
        tokio::spawn(terminate::accept_loop(proxy.clone(), listener, watch));
        tokio::spawn(observe::export(proxy.clone()));
        Self { number, authority, store, address, proxy, trigger, log, telemetry, _directory: directory }
    }

    /// The address of a service or an endpoint of this test.
    pub fn ip(&self, host: u8) -> String {
        format!("127.77.{}.{host}", self.number)
    }

    pub fn socket(&self, host: u8, port: u16) -> SocketAddr {
        format!("{}:{port}", self.ip(host)).parse().expect("an address")
    }

    /// Delivers resources of one type; everything must be taken.
    pub fn deliver<M: Message>(&self, type_url: &str, resources: Vec<(String, M)>) {
        let rejected = self.offer(type_url, resources);
        assert!(rejected.is_empty(), "{rejected:?}");
    }

    /// Delivers resources of one type and says what was rejected.
    pub fn offer<M: Message>(&self, type_url: &str, resources: Vec<(String, M)>) -> Vec<Rejected> {
        let resources = resources
            .into_iter()
            .map(|(name, message)| Resource {
                name,
                version: "1".into(),
                body: Any { type_url: type_url.into(), value: message.encode_to_vec() },
            })
            .collect();
        self.store.apply(type_url, resources, vec![])
    }

    /// Delivers listeners, routes of tunnels, clusters for these services.
    pub fn serve(&self, services: &[Service]) {
        self.deliver(type_url::CLUSTER, resources::clusters(services));
        self.deliver(type_url::LISTENER, resources::listeners(services));
        self.deliver(type_url::ROUTE, vec![resources::authorities(services)]);
        for service in services.iter().filter(|s| s.protocol != "tcp") {
            self.route(service, vec![resources::to(&service.cluster())]);
        }
    }

    /// Delivers the routes of a service.
    pub fn route(&self, service: &Service, routes: Vec<ambit_api::envoy::pb::envoy::config::route::v3::Route>) {
        self.deliver(type_url::ROUTE, vec![resources::routes(&service.chain(), routes)]);
    }

    /// Delivers the endpoints of a cluster.
    pub fn endpoints(&self, cluster: &str, endpoints: Vec<Ep>) {
        self.deliver(type_url::ENDPOINT, vec![resources::assignment(cluster, endpoints)]);
    }

    /// A file beside the access log.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.log.with_file_name(name)
    }

    /// Waits for a line of the access log that has all of these texts.
    pub async fn logged(&self, texts: &[&str]) -> String {
        let start = Instant::now();
        loop {
            self.telemetry.flush();
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(line) = log.lines().find(|line| texts.iter().all(|text| line.contains(text))) {
                return line.to_owned();
            }
            assert!(start.elapsed() < Duration::from_secs(5), "no line with {texts:?} in:\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub fn certificates(authority: &Arc<Authority>) -> SvidStore {
    SvidStore::new(Arc::new(LocalSource::new(authority.clone(), Duration::from_secs(3600))), StoreConfig::default())
}
