use std::{
    collections::BTreeSet,
    net::SocketAddr,
    pin::pin,
    time::{Duration, Instant},
};

use ambit_model::{
    Reason,
    balance::{Enforced, Limits, Outcome, OutlierDetection, SlowStart},
};

use super::*;
use crate::compiled::{self, Discovery, Protocol, Retries};

const NONE: Limits = Limits { connections: 0, pending: 0, requests: 0 };

pub(super) fn cluster(live: &Arc<Live>, outliers: Option<OutlierDetection>, limits: Limits) -> Arc<Cluster> {
    Arc::new(Cluster {
        name: "shop".into(),
        discovery: Discovery::Static(Arc::default()),
        protocol: Protocol::Http1,
        connect_timeout: Duration::from_secs(1),
        service: None,
        balance: Rules::default(),
        outliers,
        limits,
        live: live.clone(),
        retry_budget: Default::default(),
        retries: Retries::default(),
        checks: None,
    })
}

/// Endpoints on these ports.
pub(super) fn endpoints(ports: &[u16]) -> Option<Arc<Endpoints>> {
    let endpoint = |port: &u16| {
        let target = Target::Clear { address: SocketAddr::from(([10, 0, 0, 1], *port)) };
        let (workload, namespace) = ("".into(), "".into());
        Arc::new(Endpoint { target, weight: 1, workload, namespace, standing: Standing::Healthy, checked: true })
    };
    let locality =
        compiled::Locality { priority: 0, weight: 0, endpoints: ports.iter().map(endpoint).collect(), place: "".into() };
    Some(Arc::new(Endpoints { localities: vec![locality], ..Endpoints::default() }))
}

/// A cluster of so old has endpoints that are older than [`WINDOW`], and no test takes as long as the difference.
pub(super) const AGE: Duration = Duration::from_secs(30);
pub(super) const WINDOW: Duration = Duration::from_secs(20);

/// What goes on in a cluster of this age.
pub(super) fn of_age() -> Arc<Live> {
    Arc::new(Live { began: Instant::now().checked_sub(AGE).unwrap(), ..Live::default() })
}

/// A cluster whose endpoints have their share after [`WINDOW`].
pub(super) fn slowly(live: &Arc<Live>, after_ejection: bool, outliers: Option<OutlierDetection>) -> Arc<Cluster> {
    let mut cluster = Arc::into_inner(cluster(live, outliers, NONE)).unwrap();
    cluster.balance.slow_start =
        Some(SlowStart { window: WINDOW, aggression: 1.0, least_percent: 10.0, new: true, after_ejection });
    Arc::new(cluster)
}

/// How many of a thousand requests begin with a port.
pub(super) fn share(cluster: &Cluster, wanted: u16) -> usize {
    let choose = |_| cluster.live.choose(cluster, 1, |place| Ok::<_, ()>(port(place))).unwrap();
    (0..1000).flat_map(choose).filter(|port| *port == wanted).count()
}

fn port(place: &Place) -> u16 {
    let Target::Clear { address } = &place.endpoint.target else { panic!("in clear") };
    address.port()
}

/// The ports that 30 requests begin with.
pub(super) fn used(cluster: &Cluster) -> BTreeSet<u16> {
    let choose = |_| cluster.live.choose(cluster, 1, |place| Ok::<_, ()>(port(place))).unwrap();
    (0..30).flat_map(choose).collect()
}

pub(super) fn host(cluster: &Cluster, wanted: u16) -> Arc<Host> {
    let all = cluster.live.choose(cluster, 9, |place| Ok::<_, ()>((port(place), place.host.clone()))).unwrap();
    all.into_iter().find(|(port, _)| *port == wanted).unwrap().1
}

/// Two failures in a row, half of the endpoints.
pub(super) fn outliers(base_time: Duration) -> OutlierDetection {
    OutlierDetection {
        server_errors: Enforced { failures: 2, percent: 100 },
        interval: Duration::from_millis(10),
        base_time,
        max_time: base_time,
        max_percent: 50,
        ..OutlierDetection::default()
    }
}

pub(super) const LONG: Duration = Duration::from_secs(3600);

#[test]
fn an_endpoint_stays_ejected_while_others_come_and_go_and_is_forgotten_once_it_has_left() {
    let live = Arc::new(Live::default());
    let cluster = cluster(&live, Some(outliers(LONG)), NONE);
    live.follow(&cluster, endpoints(&[1, 2]));
    assert_eq!(used(&cluster), [1, 2].into());
    let first = host(&cluster, 1);
    for outcome in [Outcome::Status(500), Outcome::Status(200), Outcome::Failed] {
        cluster.note(&first, outcome);
    }
    assert_eq!(used(&cluster), [1, 2].into(), "not in a row");
    cluster.note(&first, Outcome::TimedOut);
    assert_eq!(used(&cluster), [2].into());
    cluster.note(&host(&cluster, 2), Outcome::Failed);
    cluster.note(&host(&cluster, 2), Outcome::Failed);
    assert_eq!(used(&cluster), [2].into(), "more than half would be ejected");
    live.follow(&cluster, endpoints(&[1, 2, 3]));
    assert_eq!(used(&cluster), [2, 3].into());
    assert!(serde_json::to_string(&live).unwrap().contains(r#""ejected":"consecutive_5xx""#));
    live.follow(&cluster, endpoints(&[2, 3]));
    cluster.note(&first, Outcome::Failed);
    cluster.note(&first, Outcome::Failed);
    live.follow(&cluster, endpoints(&[1, 2, 3]));
    assert_eq!(used(&cluster), [1, 2, 3].into());
}

#[test]
fn a_session_goes_on_only_with_an_endpoint_that_takes_requests() {
    let live = Arc::new(Live::default());
    let cluster = cluster(&live, Some(outliers(LONG)), NONE);
    live.follow(&cluster, endpoints(&[1, 2]));
    let name = |port| EndpointName { address: SocketAddr::from(([10, 0, 0, 1], port)), tunnelled: false };
    let second = live.named(name(2)).unwrap();
    assert!(live.named(EndpointName { tunnelled: true, ..name(2) }).is_none() && live.named(name(3)).is_none());
    for _ in 0..3 {
        let order = live
            .choose_for(Aim { first: Some(&second), ..Aim::default() }, &cluster, 9, |place| Ok::<_, ()>(port(place)))
            .unwrap();
        assert_eq!(order, [2, 1]);
    }
    cluster.note(&second.host, Outcome::Failed);
    cluster.note(&second.host, Outcome::Failed);
    assert!(live.named(name(2)).is_none() && live.named(name(1)).is_some(), "one that is ejected");
    live.follow(&cluster, endpoints(&[2]));
    assert!(live.named(name(1)).is_none(), "one that is gone");
}

#[test]
fn endpoints_that_are_no_place_for_a_request_are_passed_over_while_there_are_others() {
    let live = Arc::new(Live::default());
    let cluster = cluster(&live, None, NONE);
    live.follow(&cluster, endpoints(&[1, 2, 3, 4, 5]));
    let only = |wanted: &'static [u16]| {
        let each = move |place: &Place| if wanted.contains(&port(place)) { Ok(port(place)) } else { Err("no place") };
        live.choose(&cluster, 2, each)
    };
    for _ in 0..5 {
        assert_eq!(only(&[4]), Ok(vec![4]));
        assert_eq!(only(&[]), Err("no place"));
        assert_eq!(only(&[1, 2, 3, 4, 5]).unwrap().len(), 2);
    }
}

#[test]
fn without_outlier_detection_nobody_is_ejected_any_more() {
    let live = Arc::new(Live::default());
    let (with, without) = (cluster(&live, Some(outliers(LONG)), NONE), cluster(&live, None, NONE));
    let both = endpoints(&[1, 2]);
    live.follow(&with, both.clone());
    let first = host(&with, 1);
    with.note(&first, Outcome::Failed);
    with.note(&first, Outcome::Failed);
    assert_eq!(used(&with), [2].into());
    live.follow(&without, both.clone());
    assert_eq!(used(&without), [1, 2].into());
    without.note(&first, Outcome::Failed);
    without.note(&first, Outcome::Failed);
    assert_eq!(used(&without), [1, 2].into());
    live.follow(&with, both);
    assert_eq!(used(&with), [1, 2].into());
}

#[test]
fn an_endpoint_returns_when_its_time_is_over() {
    let live = Arc::new(Live::default());
    let cluster = cluster(&live, Some(outliers(Duration::from_millis(30))), NONE);
    live.follow(&cluster, endpoints(&[1, 2]));
    let first = host(&cluster, 1);
    let began = Instant::now();
    cluster.note(&first, Outcome::Failed);
    cluster.note(&first, Outcome::Failed);
    while used(&cluster) != [1, 2].into() {
        assert!(began.elapsed() < Duration::from_secs(30), "it does not return");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(began.elapsed() >= Duration::from_millis(30));
    cluster.note(&first, Outcome::Failed);
    assert!(!first.is_ejected(), "what failed before is forgotten");
}

#[test]
fn on_probation_one_failure_ejects_again_and_one_success_ends_it() {
    for well in [false, true] {
        let live = Arc::new(Live::default());
        let rules = OutlierDetection { probation: true, ..outliers(Duration::from_millis(1)) };
        let cluster = cluster(&live, Some(rules), NONE);
        live.follow(&cluster, endpoints(&[1, 2]));
        let first = host(&cluster, 1);
        cluster.note(&first, Outcome::Failed);
        assert!(!first.is_ejected(), "as many as there may be of one that was never ejected");
        cluster.note(&first, Outcome::Failed);
        assert!(first.is_ejected());
        let began = Instant::now();
        // Nobody asks for it: it returns all the same.
        while first.is_ejected() {
            assert!(began.elapsed() < Duration::from_secs(30), "it does not return");
            std::thread::sleep(Duration::from_millis(1));
            live.look(&cluster);
        }
        if well {
            cluster.note(&first, Outcome::Status(200));
        }
        cluster.note(&first, Outcome::Failed);
        assert_eq!(first.is_ejected(), !well);
    }
}

#[test]
fn an_interval_that_has_become_shorter_holds_at_once() {
    let live = Arc::new(Live::default());
    let soon = outliers(Duration::from_millis(1));
    let rarely = OutlierDetection { interval: LONG, ..soon.clone() };
    let (before, after) = (cluster(&live, Some(rarely), NONE), cluster(&live, Some(soon), NONE));
    live.follow(&before, endpoints(&[1, 2]));
    let first = host(&before, 1);
    before.note(&first, Outcome::Failed);
    before.note(&first, Outcome::Failed);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(used(&before), [2].into());
    assert_eq!(used(&after), [1, 2].into());
}

#[test]
fn who_succeeds_far_more_rarely_than_the_others_is_ejected_at_the_end_of_an_interval() {
    let live = Arc::new(Live::default());
    let rules = OutlierDetection { server_errors: Enforced { failures: 0, percent: 100 }, ..outliers(LONG) };
    let cluster = cluster(&live, Some(rules), NONE);
    live.follow(&cluster, endpoints(&[1, 2, 3, 4, 5, 6]));
    let hosts: Vec<_> = (1..=6).map(|port| (port, host(&cluster, port))).collect();
    let began = Instant::now();
    while used(&cluster).contains(&3) {
        for (port, host) in &hosts {
            (0..100).for_each(|n| cluster.note(host, Outcome::Status(if *port == 3 && n % 2 == 0 { 500 } else { 200 })));
        }
        assert!(began.elapsed() < Duration::from_secs(30), "it is not ejected");
    }
    assert_eq!(used(&cluster), [1, 2, 4, 5, 6].into());
}

#[test]
fn each_limit_holds_and_what_is_given_back_can_be_taken_again() {
    let live = Arc::new(Live::default());
    let cluster = cluster(&live, None, Limits { connections: 2, pending: 1, requests: 1 });
    live.follow(&cluster, endpoints(&[1, 2]));
    let (one, two) = (host(&cluster, 1), host(&cluster, 2));
    for _ in 0..3 {
        let _pending = cluster.pending().unwrap();
        assert_eq!(cluster.pending().unwrap_err().reason, Reason::ClusterOverloaded);
        let _request = cluster.under_way(&one).unwrap();
        assert_eq!(cluster.under_way(&two).unwrap_err().reason, Reason::ClusterOverloaded);
        assert_eq!((one.under_way(), two.under_way()), (1, 0));
        let _first = cluster.another_connection(&one, false).unwrap();
        let _second = cluster.another_connection(&one, false).unwrap();
        assert!(cluster.another_connection(&one, false).is_none());
        let _third = cluster.another_connection(&two, false).expect("each endpoint may have one");
        assert!(cluster.another_connection(&two, false).is_none());
        assert_eq!(cluster.connection(&two).unwrap_err().reason, Reason::ClusterOverloaded);
        let shown = serde_json::to_string(&live).unwrap();
        assert!(shown.contains(r#""connections":3,"pending":1,"requests":1"#), "{shown}");
    }
    assert_eq!(one.under_way(), 0);
    let carried = cluster.connection(&one).unwrap();
    assert_eq!(one.under_way(), 1);
    drop(carried);
    assert_eq!(one.under_way(), 0);
    let shown = serde_json::to_string(&live).unwrap();
    assert!(shown.contains(r#""connections":0,"pending":0,"requests":0"#), "{shown}");
}

#[tokio::test]
async fn who_waits_is_told_when_a_connection_ends() {
    let live = Arc::new(Live::default());
    let cluster = cluster(&live, None, Limits { connections: 1, ..Limits::default() });
    live.follow(&cluster, endpoints(&[1]));
    let host = host(&cluster, 1);
    let connection = cluster.another_connection(&host, false).unwrap();
    let mut freed = pin!(live.slot());
    assert!(!freed.as_mut().enable() && cluster.another_connection(&host, false).is_none());
    drop(connection);
    tokio::time::timeout(Duration::from_secs(30), freed).await.expect("nobody is told");
    assert!(cluster.another_connection(&host, false).is_some());
}

#[test]
fn what_requests_are_told_of_an_endpoint_is_made_once_for_as_long_as_it_is_configured_so() {
    let live = Arc::new(Live::default());
    let cluster = cluster(&live, None, NONE);
    live.follow(&cluster, endpoints(&[1]));
    let original = SocketAddr::from(([10, 0, 0, 9], 80));
    let first = || crate::upstream::candidates(&cluster, original, None).unwrap().endpoints.remove(0);
    let before = first();
    assert_eq!((before.to.address.port(), before.upstream.address.port()), (1, 1));
    assert!(Arc::ptr_eq(&before, &first()));
    live.follow(&cluster, endpoints(&[2]));
    assert_eq!(first().to.address.port(), 2);
}
