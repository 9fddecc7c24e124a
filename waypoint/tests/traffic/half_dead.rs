//! Endpoints that are neither well nor gone: clients are answered all the same, and in time; and who is well again is asked again.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ambit_api::envoy::pb::{
    envoy::{
        config::{
            cluster::v3::{Cluster, OutlierDetection, cluster::CommonLbConfig},
            core::v3::{
                HealthCheck,
                health_check::{HealthChecker, HttpHealthCheck},
            },
            route::v3::{RetryPolicy, route::Action},
        },
        r#type::v3::Percent,
    },
    google::protobuf::{BoolValue, Duration as ProtoDuration},
};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    time::{sleep, timeout},
};
use waypoint::health;

use super::{
    resilience::{configured, number, until},
    support::{
        Mesh, WEB,
        client::{Body, get, http1, once},
        raw::{self, Stream, Way},
        resources::{self, Ep, Service},
    },
};

/// More than anything takes here.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a try may take, and where there is one alone a request.
const TRY: Duration = Duration::from_secs(1);
/// Much longer than a try may take.
const LATE: Duration = Duration::from_secs(5);
/// How long the first ejection lasts.
const EJECTED: Duration = Duration::from_secs(1);
const CHECKS: &str = "/healthz";

/// What is wrong with an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ill {
    /// It takes connections, and reads nothing.
    Deaf,
    /// It reads requests, and never answers.
    Silent,
    /// It answers too late.
    Late,
    /// It says the head of its answer, and nothing after it.
    Bodiless,
    /// It answers who asks whether it is well, and nobody else.
    Pretending,
}

struct App {
    name: &'static str,
    ill: Ill,
    is_ill: AtomicBool,
    /// But for those that ask whether it is well.
    requests: AtomicUsize,
}

impl App {
    fn new(name: &'static str, ill: Ill, is_ill: bool) -> Arc<Self> {
        Arc::new(Self { name, ill, is_ill: AtomicBool::new(is_ill), requests: AtomicUsize::new(0) })
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// What is wrong with it now.
    fn wrong(&self) -> Option<Ill> {
        self.is_ill.load(Ordering::SeqCst).then_some(self.ill)
    }

    fn recovers(&self) {
        self.is_ill.store(false, Ordering::SeqCst);
    }

    async fn start(self: &Arc<Self>, mesh: &Mesh, host: u8, way: Way) -> Ep {
        let app = self.clone();
        raw::start(mesh, host, way, move |stream| serve(stream, app.clone())).await
    }
}

async fn serve(stream: Stream, app: Arc<App>) {
    if app.wrong() == Some(Ill::Deaf) {
        app.requests.fetch_add(1, Ordering::SeqCst);
        // It has its hand on the connection all the while.
        let _kept = stream;
        return pending().await;
    }
    let mut stream = BufReader::new(stream);
    while let Some(path) = head(&mut stream).await {
        let checks = path == CHECKS;
        app.requests.fetch_add(usize::from(!checks), Ordering::SeqCst);
        match app.wrong() {
            Some(Ill::Deaf | Ill::Silent) => pending().await,
            Some(Ill::Pretending) if !checks => pending().await,
            Some(Ill::Late) => sleep(LATE).await,
            Some(Ill::Bodiless | Ill::Pretending) | None => {}
        }
        let body = if app.wrong() == Some(Ill::Bodiless) { "" } else { "well" };
        let answer = format!("HTTP/1.1 200 OK\r\nx-from: {}\r\ncontent-length: 4\r\n\r\n{body}", app.name);
        if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// The path of the next request, which has no body.
async fn head(stream: &mut BufReader<Stream>) -> Option<String> {
    let mut path = None;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return None;
        }
        if line == "\r\n" {
            return path;
        }
        path = path.or_else(|| line.split(' ').nth(1).map(str::to_owned));
    }
}

fn proto(time: Duration) -> Option<ProtoDuration> {
    Some(ProtoDuration { seconds: time.as_secs().try_into().unwrap(), nanos: time.subsec_nanos().try_into().unwrap() })
}

/// After two failures in a row, one of two endpoints.
fn ejecting(cluster: &mut Cluster) {
    cluster.outlier_detection = Some(OutlierDetection {
        consecutive_5xx: number(2),
        interval: proto(Duration::from_millis(50)),
        base_ejection_time: proto(EJECTED),
        max_ejection_percent: number(50),
        enforcing_success_rate: number(0),
        // As the control plane says it where there is a health check as well.
        successful_active_health_check_uneject_host: Some(BoolValue { value: false }),
        ..Default::default()
    });
}

/// Endpoints are asked whether they are well, and nobody is asked who is not, however few are left.
fn checking(cluster: &mut Cluster) {
    let path = HttpHealthCheck { path: CHECKS.into(), host: "well.example".into(), ..Default::default() };
    let interval = || proto(Duration::from_millis(30));
    cluster.health_checks = vec![HealthCheck {
        timeout: proto(TRY),
        interval: interval(),
        no_traffic_interval: interval(),
        unhealthy_threshold: number(2),
        healthy_threshold: number(1),
        health_checker: Some(HealthChecker::HttpHealthCheck(path)),
        ..Default::default()
    }];
    let healthy_panic_threshold = Some(Percent { value: 0.0 });
    cluster.common_lb_config = Some(CommonLbConfig { healthy_panic_threshold, ..Default::default() });
}

/// A route whose requests have their time; where each try has one they are sent again.
fn timed(service: &Service, retries: u32) -> resources::Route {
    let mut route = resources::to(&service.cluster());
    let Some(Action::Route(action)) = &mut route.action else { panic!("a route that forwards") };
    action.timeout = proto(if retries > 0 { PATIENCE } else { TRY });
    action.retry_policy = (retries > 0).then(|| RetryPolicy {
        retry_on: "reset".into(),
        num_retries: number(retries),
        per_try_timeout: proto(TRY),
        ..Default::default()
    });
    route
}

async fn mesh(number: u8) -> (Mesh, Service) {
    let mesh = Mesh::start(number).await;
    tokio::spawn(health::run(mesh.proxy.clone(), mesh.store.changes()));
    let service = Service { protocol: "http1", ..Service::http("billing", mesh.socket(100, 80)) };
    mesh.serve(std::slice::from_ref(&service));
    (mesh, service)
}

/// An answer, in time.
async fn ask(mesh: &Mesh, service: &Service, request: Request<Body>) -> (u16, HeaderMap, String) {
    timeout(PATIENCE, once(mesh, WEB, service.vip, request)).await.expect("nobody answers")
}

fn from(headers: &HeaderMap) -> &str {
    headers.get("x-from").map_or("nobody", |from| from.to_str().unwrap())
}

/// What the admin page tells of the endpoints of a service.
pub(super) fn endpoints(mesh: &Mesh, service: &Service) -> Vec<Value> {
    let snapshot = serde_json::to_value(&*mesh.store.snapshot()).unwrap();
    snapshot["clusters"][service.cluster()]["live"]["endpoints"].as_array().unwrap().clone()
}

/// Why endpoints are ejected, of those that are.
pub(super) fn ejected(mesh: &Mesh, service: &Service) -> Vec<String> {
    endpoints(mesh, service).iter().filter_map(|endpoint| endpoint["ejected"].as_str().map(str::to_owned)).collect()
}

/// Requests that meet an endpoint which is ill go to another one, until they meet it no more; and once it is well they do again.
async fn is_left_alone(test: u8, ill: Ill, way: Way) {
    let (mesh, service) = mesh(test).await;
    let is_checked = ill == Ill::Pretending;
    configured(&mesh, &service, |cluster| {
        ejecting(cluster);
        if is_checked {
            checking(cluster);
        }
    });
    mesh.route(&service, vec![timed(&service, 2)]);
    let (well, sick) = (App::new("well", ill, false), App::new("sick", ill, true));
    mesh.endpoints(&service.cluster(), vec![well.start(&mesh, 1, way).await, sick.start(&mesh, 2, way).await]);
    if is_checked {
        let healthy = || endpoints(&mesh, &service).iter().all(|endpoint| endpoint["health"] == "healthy");
        until("they do not pass their check", healthy).await;
    }
    let began = Instant::now();
    let mut last = began;
    while ejected(&mesh, &service).is_empty() {
        last = Instant::now();
        let (status, headers, _) = ask(&mesh, &service, get("/")).await;
        assert_eq!((status, from(&headers)), (200, "well"), "{ill:?}, {way:?}");
        assert!(began.elapsed() < PATIENCE, "it is not ejected: {ill:?}, {way:?}");
    }
    assert_eq!((ejected(&mesh, &service), sick.requests()), (vec!["consecutive_5xx".to_owned()], 2), "{ill:?}, {way:?}");
    sick.recovers();
    loop {
        let (status, headers, text) = ask(&mesh, &service, get("/")).await;
        assert_eq!((status, text.as_str()), (200, "well"), "{ill:?}, {way:?}");
        if from(&headers) == "sick" {
            break;
        }
        assert!(began.elapsed() < 2 * PATIENCE, "it does not return: {ill:?}, {way:?}");
    }
    // The ejection begins when the last try that it has failed is over.
    assert!(last.elapsed() >= TRY + EJECTED, "it was given back before its time: {ill:?}, {way:?}");
    assert_eq!(sick.requests(), 3, "it was asked while it was ejected: {ill:?}, {way:?}");
}

#[tokio::test]
async fn an_endpoint_that_answers_too_late_is_left_alone_and_returns() {
    is_left_alone(123, Ill::Late, Way::Clear).await;
}

#[tokio::test]
async fn an_endpoint_that_never_answers_is_left_alone_and_returns() {
    is_left_alone(124, Ill::Silent, Way::Clear).await;
    is_left_alone(125, Ill::Silent, Way::Tunnel).await;
}

#[tokio::test]
async fn an_endpoint_that_takes_connections_and_reads_nothing_is_left_alone_and_returns() {
    is_left_alone(126, Ill::Deaf, Way::Clear).await;
    is_left_alone(127, Ill::Deaf, Way::Tunnel).await;
}

#[tokio::test]
async fn an_endpoint_that_answers_its_health_checks_and_nothing_else_is_left_alone_and_returns() {
    is_left_alone(128, Ill::Pretending, Way::Clear).await;
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_its_health_check_to_the_end_is_asked_nothing_else_until_it_is_well() {
    for (test, ill) in [(129, Ill::Deaf), (130, Ill::Silent), (131, Ill::Bodiless)] {
        let (mesh, service) = mesh(test).await;
        configured(&mesh, &service, checking);
        let (well, sick) = (App::new("well", ill, false), App::new("sick", ill, true));
        mesh.endpoints(&service.cluster(), vec![well.start(&mesh, 1, Way::Clear).await, sick.start(&mesh, 2, Way::Clear).await]);
        until("it does not fail its check", || {
            let endpoints = endpoints(&mesh, &service);
            let is_well = |endpoint: &Value| endpoint["health"] == "healthy";
            // One that waits for its first check takes nothing either.
            let has_failed = |endpoint: &Value| endpoint["health"] == "failing" && endpoint["health_check"].is_string();
            endpoints.iter().any(is_well) && endpoints.iter().any(has_failed)
        })
        .await;
        for _ in 0..8 {
            let (status, headers, _) = ask(&mesh, &service, get("/")).await;
            assert_eq!((status, from(&headers)), (200, "well"), "{ill:?}");
        }
        assert_eq!((well.requests(), ill == Ill::Deaf || sick.requests() == 0), (8, true), "{ill:?}");
        sick.recovers();
        let began = Instant::now();
        while from(&ask(&mesh, &service, get("/")).await.1) != "sick" {
            assert!(began.elapsed() < PATIENCE, "it does not return: {ill:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_stops_after_its_head_breaks_off_when_the_time_of_the_route_is_over() {
    let (mesh, service) = mesh(132).await;
    mesh.route(&service, vec![timed(&service, 0)]);
    let sick = App::new("sick", Ill::Bodiless, true);
    mesh.endpoints(&service.cluster(), vec![sick.start(&mesh, 1, Way::Clear).await]);
    let mut sender = http1(&mesh, WEB, service.vip).await;
    let response = timeout(PATIENCE, sender.send_request(get("/half"))).await.expect("no answer").unwrap();
    assert_eq!(response.status(), 200);
    let body = timeout(PATIENCE, response.into_body().collect()).await.expect("it waits for ever");
    assert!(body.is_err(), "an answer that is not whole looks as if it were");
    mesh.logged(&["path=/half", "status=200", "reason=request_timeout"]).await;
    sick.recovers();
    assert_eq!(ask(&mesh, &service, get("/")).await.2, "well");
}

#[tokio::test]
async fn a_post_that_an_endpoint_does_not_answer_is_answered_in_time_and_reaches_no_other_one() {
    let (mesh, service) = mesh(133).await;
    mesh.route(&service, vec![timed(&service, 0)]);
    let (well, sick) = (App::new("well", Ill::Silent, false), App::new("sick", Ill::Silent, true));
    mesh.endpoints(&service.cluster(), vec![well.start(&mesh, 1, Way::Clear).await, sick.start(&mesh, 2, Way::Clear).await]);
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let post = Request::post("/once").header("host", "billing.shop").body(Body::default()).unwrap();
        let (status, headers, _) = ask(&mesh, &service, post).await;
        assert!(status == 200 || headers["x-ambit-reason"] == "request_timeout", "{status} {headers:?}");
        statuses.push(status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 504, 504]);
    assert_eq!((well.requests(), sick.requests()), (2, 2), "one was sent twice");
}
