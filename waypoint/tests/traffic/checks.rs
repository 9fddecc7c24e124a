//! Endpoints that fail their health check are given no requests, and are again when they pass it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ambit_api::{
    envoy::pb::{
        envoy::{
            config::{
                cluster::v3::{Cluster, cluster::CommonLbConfig},
                core::v3::{
                    HealthCheck,
                    health_check::{GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck},
                },
            },
            r#type::v3::Percent,
        },
        google::protobuf::{Duration as ProtoDuration, UInt32Value},
    },
    type_url,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use waypoint::{
    explain::{Question, explain, request},
    health,
};

use super::support::{
    BILLING, Mesh, WEB,
    client::{get, once},
    endpoint::{self, CLOSED, ECHO, HTTP},
    id,
    resources::{self, Ep, Service},
    server::{self, Answer},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// An application in clear that is well or not, as it is told, and counts what it is asked.
#[derive(Default)]
struct App {
    ill: AtomicBool,
    checks: AtomicUsize,
    /// The name of its host in the last check.
    host: std::sync::Mutex<String>,
}

impl App {
    async fn start(address: std::net::SocketAddr, name: &'static str) -> Arc<Self> {
        let app = Arc::new(Self::default());
        let shared = app.clone();
        server::serve(address, move |request| answer(request, shared.clone(), name)).await;
        app
    }

    fn checks(&self) -> usize {
        self.checks.load(Ordering::SeqCst)
    }

    fn is_ill(&self, ill: bool) {
        self.ill.store(ill, Ordering::SeqCst);
    }
}

async fn answer(request: Request<Incoming>, app: Arc<App>, name: &'static str) -> Answer {
    let path = request.uri().path().to_owned();
    let ill = app.ill.load(Ordering::SeqCst);
    if path == "/healthz" || path == "/grpc.health.v1.Health/Check" {
        let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        host.clone_into(&mut app.host.lock().unwrap());
        app.checks.fetch_add(1, Ordering::SeqCst);
    }
    if path.starts_with("/grpc") {
        let status = if ill { 2 } else { 1 };
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = vec![
            Ok(http_body::Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]))),
            Ok(http_body::Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
        return Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap());
    }
    let status = if ill && path == "/healthz" { 503 } else { 200 };
    let body = Full::new(Bytes::from_static(name.as_bytes())).boxed_unsync();
    Ok(Response::builder().status(status).header("x-from", name).body(body).unwrap())
}

fn millis(millis: i32) -> Option<ProtoDuration> {
    Some(ProtoDuration { seconds: i64::from(millis / 1000), nanos: millis % 1000 * 1_000_000 })
}

fn by(checker: HealthChecker) -> HealthCheck {
    HealthCheck {
        timeout: millis(2000),
        interval: millis(30),
        no_traffic_interval: millis(30),
        unhealthy_threshold: Some(UInt32Value { value: 2 }),
        healthy_threshold: Some(UInt32Value { value: 2 }),
        health_checker: Some(checker),
        ..Default::default()
    }
}

fn by_http() -> HealthCheck {
    by(HealthChecker::HttpHealthCheck(HttpHealthCheck {
        path: "/healthz".into(),
        host: "well.example".into(),
        ..Default::default()
    }))
}

/// The cluster of a service with this check, and nobody chosen who fails, however many do.
fn cluster(service: &Service, check: Option<HealthCheck>) -> Cluster {
    let healthy_panic_threshold = Some(Percent { value: 0.0 });
    Cluster {
        health_checks: check.into_iter().collect(),
        common_lb_config: Some(CommonLbConfig { healthy_panic_threshold, ..Default::default() }),
        ..resources::cluster(&service.cluster(), service)
    }
}

fn check_by(mesh: &Mesh, service: &Service, check: Option<HealthCheck>) {
    mesh.deliver(type_url::CLUSTER, vec![(service.cluster(), cluster(service, check))]);
}

async fn start(number: u8) -> (Mesh, Service) {
    let mesh = Mesh::start(number).await;
    tokio::spawn(health::run(mesh.proxy.clone(), mesh.store.changes()));
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    (mesh, service)
}

/// Who answers eight requests in turn; `503` for those that nobody does.
async fn answering(mesh: &Mesh, service: &Service) -> BTreeSet<String> {
    let mut from = BTreeSet::new();
    for _ in 0..8 {
        let (status, headers, _) = once(mesh, WEB, service.vip, get("/")).await;
        from.insert(headers.get("x-from").map_or_else(|| status.to_string(), |from| from.to_str().unwrap().to_owned()));
    }
    from
}

/// Waits until just these answer.
async fn answered_by(mesh: &Mesh, service: &Service, expected: &[&str]) {
    let began = Instant::now();
    loop {
        let found = answering(mesh, service).await;
        if found.iter().map(String::as_str).eq(expected.iter().copied()) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{found:?} answer, not {expected:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until it is asked nothing for many times as long as it would be.
async fn falls_silent(app: &App) {
    let began = Instant::now();
    loop {
        let before = app.checks();
        tokio::time::sleep(Duration::from_millis(200)).await;
        if app.checks() == before {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "it is asked on");
    }
}

/// What an explanation says of the endpoints.
fn explained(mesh: &Mesh, service: &Service) -> String {
    let request = request("GET", "billing.shop", "/a", &[], false).unwrap();
    let question = Question { identity: id(WEB), address: [127, 0, 0, 1].into(), destination: service.vip, request };
    serde_json::to_string(&explain(&mesh.store.snapshot(), &question)).unwrap()
}

#[tokio::test]
async fn who_fails_the_check_is_given_no_requests_and_comes_back() {
    let (mesh, service) = start(110).await;
    let (a, b) = (App::start(mesh.socket(1, HTTP), "a").await, App::start(mesh.socket(2, HTTP), "b").await);
    b.is_ill(true);
    check_by(&mesh, &service, Some(by_http()));
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(mesh.socket(1, HTTP)), Ep::Clear(mesh.socket(2, HTTP))]);
    answered_by(&mesh, &service, &["a"]).await;
    let said = explained(&mesh, &service);
    assert!(said.contains("it fails its health check: it answers /healthz with 503"), "{said}");
    assert_eq!(*a.host.lock().unwrap(), "well.example");
    let dump = serde_json::to_string(&*mesh.store.snapshot()).unwrap();
    assert!(dump.contains(r#""health":"failing""#) && dump.contains(r#""health":"healthy""#), "{dump}");
    b.is_ill(false);
    answered_by(&mesh, &service, &["a", "b"]).await;
    a.is_ill(true);
    answered_by(&mesh, &service, &["b"]).await;
    b.is_ill(true);
    answered_by(&mesh, &service, &["503"]).await;
    a.is_ill(false);
    answered_by(&mesh, &service, &["a"]).await;
}

#[tokio::test]
async fn what_is_known_stays_while_others_come_and_who_is_gone_or_not_checked_any_more_is_asked_nothing() {
    let (mesh, service) = start(111).await;
    let (a, b) = (App::start(mesh.socket(1, HTTP), "a").await, App::start(mesh.socket(2, HTTP), "b").await);
    let c = App::start(mesh.socket(3, HTTP), "c").await;
    let of = |hosts: &[u8]| hosts.iter().map(|host| Ep::Clear(mesh.socket(*host, HTTP))).collect::<Vec<_>>();
    b.is_ill(true);
    c.is_ill(true);
    check_by(&mesh, &service, Some(by_http()));
    mesh.endpoints(&service.cluster(), of(&[1, 2]));
    answered_by(&mesh, &service, &["a"]).await;
    // One that is new takes nothing before its first check, and what is known of the others stays.
    mesh.endpoints(&service.cluster(), of(&[1, 2, 3]));
    for _ in 0..3 {
        assert_eq!(answering(&mesh, &service).await, ["a".to_owned()].into());
    }
    mesh.endpoints(&service.cluster(), of(&[1, 2]));
    falls_silent(&c).await;
    // The same with other numbers: nothing is forgotten.
    check_by(&mesh, &service, Some(HealthCheck { interval: millis(25), ..by_http() }));
    assert_eq!(answering(&mesh, &service).await, ["a".to_owned()].into());
    let before = a.checks();
    until("it is asked on", || a.checks() > before + 3).await;
    check_by(&mesh, &service, None);
    assert_eq!(answering(&mesh, &service).await, ["a".to_owned(), "b".to_owned()].into());
    falls_silent(&a).await;
}

#[tokio::test]
async fn checks_go_through_tunnels_by_which_requests_go_and_a_connection_is_enough_for_tcp() {
    let (mesh, service) = start(112).await;
    let seen = endpoint::start(&mesh, 1, "v1", BILLING).await;
    // Its node proxy is another's.
    endpoint::start(&mesh, 2, "liar", "spiffe://cluster.local/ns/shop/sa/liar").await;
    let of = |port: u16| vec![Ep::Hbone(mesh.socket(1, port), BILLING), Ep::Hbone(mesh.socket(2, port), BILLING)];
    check_by(&mesh, &service, Some(by_http()));
    mesh.endpoints(&service.cluster(), of(HTTP));
    until("it is asked", || seen.log.lock().unwrap().iter().any(|line| line == "GET /healthz well.example")).await;
    answered_by(&mesh, &service, &["v1"]).await;
    until("the other one fails", || explained(&mesh, &service).contains("it fails its health check")).await;
    let tcp = || by(HealthChecker::TcpHealthCheck(TcpHealthCheck::default()));
    check_by(&mesh, &service, Some(tcp()));
    // Somebody listens at the one port, and nobody at the other.
    mesh.endpoints(
        &service.cluster(),
        vec![Ep::Hbone(mesh.socket(1, ECHO), BILLING), Ep::Hbone(mesh.socket(1, CLOSED), BILLING)],
    );
    let failing = || explained(&mesh, &service).matches(r#""failing":""#).count();
    until("only one fails", || failing() == 1).await;
}

#[tokio::test]
async fn a_grpc_server_says_itself_whether_it_serves() {
    let (mesh, service) = start(113).await;
    let (_a, b) = (App::start(mesh.socket(1, HTTP), "a").await, App::start(mesh.socket(2, HTTP), "b").await);
    b.is_ill(true);
    let grpc = GrpcHealthCheck { service_name: "shop.Cart".into(), authority: "well.example".into(), ..Default::default() };
    check_by(&mesh, &service, Some(by(HealthChecker::GrpcHealthCheck(grpc))));
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(mesh.socket(1, HTTP)), Ep::Clear(mesh.socket(2, HTTP))]);
    answered_by(&mesh, &service, &["a"]).await;
    assert!(explained(&mesh, &service).contains("it is not serving (status 2)"));
    b.is_ill(false);
    answered_by(&mesh, &service, &["a", "b"]).await;
}
