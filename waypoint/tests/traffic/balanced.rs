//! Which endpoint takes a request: whom success rates eject, what holds when few are left, and the policies that look at nothing but chance or load.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ambit_api::envoy::pb::{
    envoy::{
        config::cluster::v3::{
            Cluster, OutlierDetection,
            cluster::{CommonLbConfig, LbConfig, LbPolicy, LeastRequestLbConfig},
        },
        r#type::v3::Percent,
    },
    google::protobuf::Duration as ProtoDuration,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use tokio::sync::Semaphore;

use super::{
    half_dead::{ejected, endpoints},
    resilience::{configured, number, until},
    support::{
        Mesh, WEB,
        client::{Body, get, http1, http2},
        endpoint::HTTP,
        resources::{Ep, Service},
        server::{self, Answer},
    },
};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// More than anything takes here.
const PATIENCE: Duration = Duration::from_secs(30);

struct App {
    name: &'static str,
    requests: AtomicUsize,
    /// It fails at each request of which there have been as many before; 0 for none.
    fails_every: AtomicUsize,
    /// Has requests to `/held` answered.
    answers: Semaphore,
}

impl App {
    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn fails_every(&self, count: usize) {
        self.fails_every.store(count, Ordering::SeqCst);
    }
}

async fn answer(request: Request<Incoming>, app: Arc<App>) -> Answer {
    let before = app.requests.fetch_add(1, Ordering::SeqCst);
    if request.uri().path() == "/held" {
        app.answers.acquire().await.expect("it is open").forget();
    }
    let every = app.fails_every.load(Ordering::SeqCst);
    let status = if every > 0 && before.is_multiple_of(every) { 500 } else { 200 };
    let body = Full::<Bytes>::default().boxed_unsync();
    Ok(Response::builder().status(status).header("x-from", app.name).body(body).unwrap())
}

/// A service of so many endpoints, whose cluster is changed.
async fn start(test: u8, count: u8, change: impl FnOnce(&mut Cluster)) -> (Mesh, Service, Vec<Arc<App>>) {
    let mesh = Mesh::start(test).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    configured(&mesh, &service, change);
    let mut apps = Vec::new();
    for (host, name) in (1..=count).zip(NAMES) {
        let (requests, fails_every) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let app = Arc::new(App { name, requests, fails_every, answers: Semaphore::new(0) });
        let shared = app.clone();
        server::serve(mesh.socket(host, HTTP), move |request| answer(request, shared.clone())).await;
        apps.push(app);
    }
    mesh.endpoints(&service.cluster(), hosts(&mesh, count));
    (mesh, service, apps)
}

fn hosts(mesh: &Mesh, count: u8) -> Vec<Ep> {
    (1..=count).map(|host| Ep::Clear(mesh.socket(host, HTTP))).collect()
}

fn seconds(seconds: i64) -> Option<ProtoDuration> {
    Some(ProtoDuration { seconds, nanos: 0 })
}

/// Who answers a request, however it does.
async fn ask(sender: &mut SendRequest<Body>) -> String {
    sender.ready().await.unwrap();
    let response = sender.send_request(get("/")).await.unwrap();
    let from = response.headers()["x-from"].to_str().unwrap().to_owned();
    response.into_body().collect().await.unwrap();
    from
}

/// Who answers so many requests, one after the other.
async fn asked(sender: &mut SendRequest<Body>, count: usize) -> Vec<String> {
    let mut from = Vec::new();
    for _ in 0..count {
        from.push(ask(sender).await);
    }
    from
}

/// How many requests each has been asked.
fn counts(apps: &[Arc<App>]) -> Vec<usize> {
    apps.iter().map(|app| app.requests()).collect()
}

#[tokio::test]
async fn an_endpoint_that_fails_at_half_of_its_requests_is_ejected_by_its_success_rate() {
    // What a TrafficPolicy with `successRate` becomes, with fewer requests and shorter times.
    let (mesh, service, apps) = start(134, 5, |cluster| {
        cluster.outlier_detection = Some(OutlierDetection {
            consecutive_5xx: number(5),
            enforcing_consecutive_5xx: number(100),
            enforcing_consecutive_gateway_failure: number(0),
            interval: seconds(1),
            base_ejection_time: seconds(3600),
            max_ejection_percent: number(50),
            enforcing_success_rate: number(100),
            success_rate_minimum_hosts: number(5),
            success_rate_request_volume: number(5),
            success_rate_stdev_factor: number(1500),
            ..Default::default()
        });
    })
    .await;
    apps[1].fails_every(2);
    let mut sender = http1(&mesh, WEB, service.vip).await;
    let began = Instant::now();
    while ejected(&mesh, &service).is_empty() {
        asked(&mut sender, 10).await;
        assert!(began.elapsed() < PATIENCE, "nobody is ejected: {:?}", endpoints(&mesh, &service));
    }
    assert_eq!(ejected(&mesh, &service), ["success_rate"]);
    let before = counts(&apps);
    let from: BTreeSet<String> = asked(&mut sender, 20).await.into_iter().collect();
    assert!(from.iter().eq(["a", "c", "d", "e"]), "{from:?}");
    assert_eq!(apps[1].requests(), before[1]);
}

/// Who fails once is ejected for longer than a test takes, and with fewer healthy ones than `percent` in a hundred all are used.
fn panicking(cluster: &mut Cluster, percent: f64) {
    cluster.outlier_detection = Some(OutlierDetection {
        consecutive_5xx: number(1),
        interval: seconds(1),
        base_ejection_time: seconds(3600),
        max_ejection_time: seconds(3600),
        max_ejection_percent: number(100),
        enforcing_success_rate: number(0),
        ..Default::default()
    });
    let healthy_panic_threshold = Some(Percent { value: percent });
    cluster.common_lb_config = Some(CommonLbConfig { healthy_panic_threshold, ..Default::default() });
}

#[tokio::test]
async fn with_fewer_endpoints_than_the_panic_threshold_all_of_them_are_used() {
    let (mesh, service, apps) = start(135, 4, |cluster| panicking(cluster, 50.0)).await;
    let mut sender = http1(&mesh, WEB, service.vip).await;
    for (failing, left) in [(0, &["b", "c", "d"][..]), (1, &["c", "d"][..]), (2, &["a", "b", "c", "d"][..])] {
        apps[failing].fails_every(1);
        while ejected(&mesh, &service).len() == failing {
            ask(&mut sender).await;
        }
        let from: BTreeSet<String> = asked(&mut sender, 12).await.into_iter().collect();
        assert!(from.iter().eq(left), "{} of 4 are ejected, and {from:?} answer", failing + 1);
    }
    // One after the other, whoever is well.
    let before = counts(&apps);
    asked(&mut sender, 12).await;
    let more: Vec<_> = counts(&apps).iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(more, [3; 4]);
    assert_eq!(ejected(&mesh, &service).len(), 3, "who is used in a panic is ejected still");
    configured(&mesh, &service, |cluster| panicking(cluster, 0.0));
    assert_eq!(asked(&mut sender, 8).await, ["d"; 8], "without a threshold nobody panics");
}

#[tokio::test]
async fn random_endpoints_are_all_reached_and_do_not_take_turns() {
    let (mesh, service, _) = start(136, 2, |cluster| cluster.lb_policy = LbPolicy::Random.into()).await;
    let from = asked(&mut http1(&mesh, WEB, service.vip).await, 64).await;
    // Each of these happens by chance once in 2^63 times.
    assert_eq!(from.iter().collect::<BTreeSet<_>>().len(), 2, "{from:?}");
    assert!(from.windows(2).any(|pair| pair[0] == pair[1]), "they take turns: {from:?}");
}

#[tokio::test]
async fn an_endpoint_with_more_requests_under_way_is_given_none_until_they_have_ended() {
    const HELD: usize = 4;
    let (mesh, service, apps) = start(137, 1, |cluster| {
        cluster.lb_policy = LbPolicy::LeastRequest.into();
        // That all of so many at random are the same one of two happens once in 2^31 times.
        let config = LeastRequestLbConfig { choice_count: number(32), ..Default::default() };
        cluster.lb_config = Some(LbConfig::LeastRequestLbConfig(config));
    })
    .await;
    let mut held = http2(&mesh, WEB, service.vip).await;
    for _ in 0..HELD {
        let request = Request::get("http://billing.shop/held").body(Body::default()).unwrap();
        tokio::spawn(held.send_request(request));
    }
    until("the requests do not come", || apps[0].requests() == HELD).await;
    let (requests, fails_every) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let other = Arc::new(App { name: "other", requests, fails_every, answers: Semaphore::new(0) });
    server::serve(mesh.socket(2, HTTP), move |request| answer(request, other.clone())).await;
    mesh.endpoints(&service.cluster(), hosts(&mesh, 2));
    let mut sender = http1(&mesh, WEB, service.vip).await;
    assert_eq!(asked(&mut sender, 20).await, ["other"; 20], "the first one has {HELD} under way");
    apps[0].answers.add_permits(HELD);
    until("they do not end", || endpoints(&mesh, &service).iter().all(|endpoint| endpoint["requests"] == 0)).await;
    let from: BTreeSet<String> = asked(&mut sender, 40).await.into_iter().collect();
    assert!(from.iter().eq(["a", "other"]), "{from:?}");
}
