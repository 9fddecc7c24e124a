//! Endpoints that fail are given no requests for a while, and clusters that are asked for too much refuse the rest.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ambit_api::{
    envoy::pb::{
        envoy::config::{
            cluster::v3::{CircuitBreakers, Cluster, OutlierDetection, circuit_breakers::Thresholds},
            route::v3::route::Action,
        },
        google::protobuf::{Duration as ProtoDuration, UInt32Value, Value, value::Kind},
    },
    type_url,
};
use ambit_hbone::ConnectError;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    billing,
    support::{
        BILLING, Mesh, WEB,
        client::{Body, get, http2, once, tunnel},
        endpoint::{self, BANNER, HTTP},
        resources::{self, Ep, Service},
        scripted::{
            self,
            Act::{Answer, Cut},
        },
    },
};

pub(super) fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn millis(millis: u32) -> Option<ProtoDuration> {
    Some(ProtoDuration { seconds: (millis / 1000).into(), nanos: (millis % 1000 * 1_000_000).try_into().unwrap() })
}

/// The cluster of a service, changed.
pub(super) fn configured(mesh: &Mesh, service: &Service, change: impl FnOnce(&mut Cluster)) {
    let mut cluster = resources::cluster(&service.cluster(), service);
    change(&mut cluster);
    mesh.deliver(type_url::CLUSTER, vec![(service.cluster(), cluster)]);
}

/// After three failures in a row, one of two endpoints.
fn ejecting(base_millis: u32) -> Option<OutlierDetection> {
    Some(OutlierDetection {
        consecutive_5xx: number(3),
        interval: millis(50),
        base_ejection_time: millis(base_millis),
        max_ejection_percent: number(50),
        ..Default::default()
    })
}

pub(super) fn limited(limits: Thresholds) -> Option<CircuitBreakers> {
    Some(CircuitBreakers { thresholds: vec![limits], ..Default::default() })
}

/// What the admin page tells of a cluster.
fn shown(mesh: &Mesh, service: &Service) -> serde_json::Value {
    let snapshot = serde_json::to_value(&*mesh.store.snapshot()).unwrap();
    snapshot["clusters"][service.cluster()]["live"].clone()
}

/// How many of `times` requests had each status.
async fn statuses(mesh: &Mesh, service: &Service, times: usize) -> BTreeMap<u16, usize> {
    let mut statuses = BTreeMap::new();
    for _ in 0..times {
        *statuses.entry(once(mesh, WEB, service.vip, get("/")).await.0).or_default() += 1;
    }
    statuses
}

pub(super) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_is_given_no_more_requests_and_changes_of_others_do_not_bring_it_back() {
    let mesh = Mesh::start(70).await;
    let service = Service { protocol: "http2", ..Service::http("billing", mesh.socket(100, 80)) };
    mesh.serve(std::slice::from_ref(&service));
    configured(&mesh, &service, |cluster| cluster.outlier_detection = ejecting(3_600_000));
    let (good, bad) = (mesh.socket(1, 8100), mesh.socket(2, 8100));
    let (well, failing) = (scripted::start(good, &[Answer]).await, scripted::start(bad, &[Cut, Cut, Cut, Answer]).await);
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(good), Ep::Clear(bad)]);
    assert_eq!(statuses(&mesh, &service, 20).await, BTreeMap::from([(200, 17), (503, 3)]));
    assert_eq!((well.requests(), failing.requests()), (17, 3));
    let shown = shown(&mesh, &service).to_string();
    assert!(shown.contains(r#""ejected":"consecutive_5xx""#) && shown.contains("ejected_for"), "{shown}");
    // The same endpoints and a further one, then the cluster itself.
    scripted::start(mesh.socket(3, 8100), &[Answer]).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(bad), Ep::Clear(good), Ep::Clear(mesh.socket(3, 8100))]);
    configured(&mesh, &service, |cluster| {
        cluster.outlier_detection = ejecting(3_600_000);
        cluster.connect_timeout = millis(1500);
    });
    assert_eq!(statuses(&mesh, &service, 10).await, BTreeMap::from([(200, 10)]));
    assert_eq!(failing.requests(), 3);
    configured(&mesh, &service, |_| {});
    assert_eq!(statuses(&mesh, &service, 10).await, BTreeMap::from([(200, 10)]));
    assert!(failing.requests() > 3, "nobody is ejected where no cluster asks for it");
}

#[tokio::test]
async fn an_endpoint_that_was_ejected_returns_and_real_requests_show_whether_it_is_well() {
    let mesh = Mesh::start(71).await;
    let service = Service { protocol: "http2", ..Service::http("billing", mesh.socket(100, 80)) };
    mesh.serve(std::slice::from_ref(&service));
    configured(&mesh, &service, |cluster| cluster.outlier_detection = ejecting(100));
    let (good, bad) = (mesh.socket(1, 8100), mesh.socket(2, 8100));
    scripted::start(good, &[Answer]).await;
    let failing = scripted::start(bad, &[Cut, Cut, Cut, Cut, Cut, Cut, Answer]).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(good), Ep::Clear(bad)]);
    let began = Instant::now();
    let mut failed = 0;
    while failing.requests() < 8 {
        assert!(began.elapsed() < Duration::from_secs(30), "it does not return");
        failed += statuses(&mesh, &service, 1).await.get(&503).copied().unwrap_or(0);
    }
    assert_eq!(failed, 6, "twice three, and then it is well");
    assert!(began.elapsed() >= Duration::from_millis(2 * 100), "{:?}", began.elapsed());
    assert!(!shown(&mesh, &service).to_string().contains("ejected"));
}

#[tokio::test]
async fn an_endpoint_that_returns_on_probation_is_ejected_again_by_its_first_failure() {
    let mesh = Mesh::start(78).await;
    let service = Service { protocol: "http2", ..Service::http("billing", mesh.socket(100, 80)) };
    mesh.serve(std::slice::from_ref(&service));
    configured(&mesh, &service, |cluster| {
        cluster.outlier_detection = ejecting(100);
        let own = cluster.metadata.as_mut().unwrap().filter_metadata.get_mut("io.ambit").unwrap();
        own.fields.insert("outlier_detection".into(), Value { kind: Some(Kind::StringValue("probation".into())) });
    });
    let (good, bad) = (mesh.socket(1, 8100), mesh.socket(2, 8100));
    scripted::start(good, &[Answer]).await;
    let failing = scripted::start(bad, &[Cut, Cut, Cut, Cut, Cut, Answer]).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(good), Ep::Clear(bad)]);
    let began = Instant::now();
    let mut failed = 0;
    while failing.requests() < 6 {
        assert!(began.elapsed() < Duration::from_secs(30), "it does not return");
        failed += statuses(&mesh, &service, 1).await.get(&503).copied().unwrap_or(0);
    }
    assert_eq!(failed, 5, "three, then one for each return, and then it is well");
    // One after the three, and one after each of the others. Without a probation the first one would be the only one.
    assert!(began.elapsed() >= Duration::from_millis(3 * 100), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_endpoint_that_is_not_reached_is_ejected_too() {
    let mesh = Mesh::start(72).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    configured(&mesh, &service, |cluster| cluster.outlier_detection = ejecting(3_600_000));
    endpoint::start(&mesh, 1, "v1", BILLING).await;
    let nobody = mesh.socket(66, HTTP);
    mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(1, HTTP), BILLING), Ep::Hbone(nobody, BILLING)]);
    // The other one is tried, so that no client notices.
    assert_eq!(statuses(&mesh, &service, 12).await, BTreeMap::from([(200, 12)]));
    let endpoints = shown(&mesh, &service)["endpoints"].clone();
    let ejected: Vec<_> = endpoints.as_array().unwrap().iter().filter(|endpoint| !endpoint["ejected"].is_null()).collect();
    assert!(matches!(ejected[..], [one] if one["target"].to_string().contains(&nobody.to_string())), "{endpoints}");
}

#[tokio::test]
async fn an_endpoint_to_which_no_connection_stands_before_the_time_of_a_request_is_over_is_ejected() {
    let mesh = Mesh::start(77).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    configured(&mesh, &service, |cluster| {
        let outliers = ejecting(3_600_000).unwrap();
        let rules = OutlierDetection { consecutive_5xx: number(1), max_ejection_percent: number(100), ..outliers };
        cluster.outlier_detection = Some(rules);
    });
    let mut route = resources::to(&service.cluster());
    let Some(Action::Route(action)) = &mut route.action else { panic!("a route") };
    action.timeout = millis(200);
    mesh.route(&service, vec![route]);
    // Nobody speaks there, and connecting may take five seconds.
    let _silent = tokio::net::TcpListener::bind(mesh.socket(1, waypoint::HBONE_PORT)).await.unwrap();
    mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(1, HTTP), BILLING)]);
    assert_eq!(statuses(&mesh, &service, 1).await, BTreeMap::from([(504, 1)]));
    let shown = shown(&mesh, &service).to_string();
    assert!(shown.contains(r#""ejected":"consecutive_5xx""#), "{shown}");
}

#[tokio::test]
async fn beyond_the_requests_that_a_cluster_bears_they_are_refused_until_one_has_ended_or_its_client_has_left() {
    let (mesh, service, seen) = billing(73).await;
    configured(&mesh, &service, |cluster| {
        cluster.circuit_breakers = limited(Thresholds { max_requests: number(1), ..Default::default() });
    });
    let mut sender = http2(&mesh, WEB, service.vip).await;
    for leaves in [false, true] {
        let before = seen.requests();
        let held = sender.send_request(Request::get("http://billing.shop/held").body(Body::default()).unwrap());
        let held = tokio::spawn(held);
        until("the request does not come", || seen.requests() > before).await;
        let (status, headers, _) = once(&mesh, WEB, service.vip, get("/refused")).await;
        assert_eq!((status, &headers["x-ambit-reason"]), (503, &"cluster_overloaded".parse().unwrap()));
        assert!(!headers.contains_key("x-envoy-overloaded"), "the router is to keep Envoy's own headers to itself");
        assert_eq!(seen.requests(), before + 1, "what is refused was sent on");
        match leaves {
            true => held.abort(),
            false => {
                seen.answer.notify_one();
                assert_eq!(held.await.unwrap().unwrap().status(), 200);
            }
        }
        until("the place is not given back", || shown(&mesh, &service)["requests"] == 0).await;
        assert_eq!(once(&mesh, WEB, service.vip, get("/")).await.0, 200);
    }
    mesh.logged(&["path=/refused", "status=503", "reason=cluster_overloaded"]).await;
}

#[tokio::test]
async fn a_request_waits_for_a_connection_and_those_beyond_who_may_wait_are_refused() {
    let (mesh, service, seen) = billing(74).await;
    let mesh = Arc::new(mesh);
    configured(&mesh, &service, |cluster| {
        let limits = Thresholds { max_connections: number(1), max_pending_requests: number(1), ..Default::default() };
        cluster.circuit_breakers = limited(limits);
    });
    let ask = |path: &'static str| {
        let (mesh, vip) = (mesh.clone(), service.vip);
        tokio::spawn(async move { once(&mesh, WEB, vip, get(path)).await.0 })
    };
    let held = ask("/held");
    until("the request does not come", || seen.requests() == 1).await;
    let waiting = ask("/waiting");
    until("the request does not wait", || shown(&mesh, &service)["pending"] == 1).await;
    assert_eq!(ask("/refused").await.unwrap(), 503);
    let state = shown(&mesh, &service);
    assert_eq!((&state["connections"], &state["requests"]), (&1.into(), &1.into()), "{state}");
    seen.answer.notify_one();
    assert_eq!((held.await.unwrap(), waiting.await.unwrap()), (200, 200));
    assert_eq!((seen.tunnels(), seen.requests()), (1, 2), "both went on the one connection");
    // Who leaves while waiting leaves no place behind.
    let held = ask("/held");
    until("the request does not come", || seen.requests() == 3).await;
    let mut gone = tunnel(&mesh, WEB, service.vip).await.unwrap();
    gone.write_all(b"GET /gone HTTP/1.1\r\nhost: b\r\n\r\n").await.unwrap();
    until("the request does not wait", || shown(&mesh, &service)["pending"] == 1).await;
    drop(gone);
    until("the place is not given back", || shown(&mesh, &service)["pending"] == 0).await;
    seen.answer.notify_one();
    assert_eq!(held.await.unwrap(), 200);
    assert_eq!(statuses(&mesh, &service, 2).await, BTreeMap::from([(200, 2)]));
}

#[tokio::test]
async fn who_waits_for_a_connection_is_told_when_a_request_of_another_service_with_the_same_endpoint_has_left_it() {
    let mesh = Arc::new(Mesh::start(76).await);
    let service = Service { protocol: "http2", ..Service::http("billing", mesh.socket(100, 80)) };
    let other = Service { protocol: "http2", ..Service::http("orders", mesh.socket(101, 80)) };
    mesh.serve(&[service.clone(), other.clone()]);
    configured(&mesh, &service, |cluster| {
        cluster.circuit_breakers = limited(Thresholds { max_connections: number(1), ..Default::default() });
    });
    let seen = endpoint::start(&mesh, 1, "v1", BILLING).await;
    for service in [&service, &other] {
        mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(1, HTTP), BILLING)]);
    }
    // The connection of the one service is full of requests to the other.
    assert_eq!(statuses(&mesh, &service, 1).await, BTreeMap::from([(200, 1)]));
    until("the place is not given back", || shown(&mesh, &service)["requests"] == 0).await;
    let mut sender = http2(&mesh, WEB, other.vip).await;
    for _ in 0..100 {
        let request = Request::get("http://billing.shop/held").body(Body::default()).unwrap();
        tokio::spawn(sender.send_request(request));
    }
    until("the requests do not come", || seen.requests() == 101).await;
    assert_eq!(seen.tunnels(), 1, "they go on the one connection");
    let waiting = {
        let (mesh, service) = (mesh.clone(), service.clone());
        tokio::spawn(async move { statuses(&mesh, &service, 1).await })
    };
    until("the request does not wait", || shown(&mesh, &service)["pending"] == 1).await;
    seen.answer.notify_one();
    until("it waits for ever", || waiting.is_finished()).await;
    assert_eq!(waiting.await.unwrap(), BTreeMap::from([(200, 1)]));
    assert_eq!(seen.tunnels(), 1);
}

#[tokio::test]
async fn beyond_the_connections_that_a_cluster_bears_those_of_tcp_are_refused() {
    let mesh = Mesh::start(75).await;
    let service = Service { protocol: "tcp", ..Service::http("banner", mesh.socket(100, 9000)) };
    mesh.serve(std::slice::from_ref(&service));
    configured(&mesh, &service, |cluster| {
        cluster.circuit_breakers = limited(Thresholds { max_connections: number(1), ..Default::default() });
    });
    endpoint::start(&mesh, 1, "v1", BILLING).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(1, BANNER), BILLING)]);
    let mut first = tunnel(&mesh, WEB, service.vip).await.unwrap();
    first.read_u8().await.unwrap();
    match tunnel(&mesh, WEB, service.vip).await {
        Err(ConnectError::Refused { status, headers }) => {
            assert_eq!((status.as_u16(), &headers["x-ambit-reason"]), (503, &"cluster_overloaded".parse().unwrap()));
        }
        other => panic!("{other:?}"),
    }
    drop(first);
    until("the place is not given back", || shown(&mesh, &service)["connections"] == 0).await;
    assert!(tunnel(&mesh, WEB, service.vip).await.is_ok());
    mesh.logged(&["reason=cluster_overloaded"]).await;
}
