//! Requests of a kind go to one endpoint, by their hashes; and what answers late, or not at all, is given fewer requests.

use std::collections::{BTreeMap, BTreeSet};

use ambit_api::{
    envoy::pb::{
        envoy::config::{
            cluster::v3::{Cluster, cluster::LbPolicy},
            route::v3::{
                RetryPolicy, Route,
                route::Action,
                route_action::{
                    HashPolicy,
                    hash_policy::{Cookie, Header, PolicySpecifier},
                },
            },
        },
        google::protobuf::{Duration, UInt32Value, Value, value::Kind},
    },
    type_url,
};
use http::Request;
use waypoint::explain::{Question, explain, request};

use super::support::{
    Mesh, WEB,
    client::{Body, get, once},
    endpoint::{self, HTTP},
    id,
    resources::{self, Ep, Service},
    scripted::{
        self,
        Act::{Answer, Cut},
    },
};

/// A service whose cluster is changed.
fn service(mesh: &Mesh, protocol: &'static str, change: impl FnOnce(&mut Cluster)) -> Service {
    let service = Service { protocol, ..Service::http("billing", mesh.socket(100, 80)) };
    mesh.serve(std::slice::from_ref(&service));
    let mut cluster = resources::cluster(&service.cluster(), &service);
    change(&mut cluster);
    mesh.deliver(type_url::CLUSTER, vec![(service.cluster(), cluster)]);
    service
}

/// A route whose requests are hashed by the header `x-user`, or else by a cookie that clients are given.
fn hashing(service: &Service) -> Route {
    let header = PolicySpecifier::Header(Header { header_name: "X-User".into(), regex_rewrite: None });
    let ttl = Some(Duration { seconds: 60, nanos: 0 });
    let cookie = PolicySpecifier::Cookie(Cookie { name: "user".into(), path: "/".into(), ttl, ..Default::default() });
    let mut route = resources::to(&service.cluster());
    if let Some(Action::Route(action)) = &mut route.action {
        action.hash_policy = vec![
            HashPolicy { policy_specifier: Some(header), terminal: true },
            HashPolicy { policy_specifier: Some(cookie), terminal: false },
        ];
    }
    route
}

fn saying(name: &str, value: &str) -> Request<Body> {
    Request::get("/a").header("host", "billing.shop").header(name, value).body(Body::default()).unwrap()
}

/// Who answers, and the cookie that the client is given.
async fn asked(mesh: &Mesh, service: &Service, request: Request<Body>) -> (String, Option<String>) {
    let (status, headers, text) = once(mesh, WEB, service.vip, request).await;
    assert_eq!(status, 200, "{text}");
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    (text("x-from").unwrap(), text("set-cookie"))
}

#[tokio::test]
async fn requests_of_a_kind_go_to_one_endpoint_and_those_of_all_kinds_to_all() {
    for (number, policy) in [(186, LbPolicy::RingHash), (187, LbPolicy::Maglev)] {
        let mesh = Mesh::start(number).await;
        let service = service(&mesh, "http", |cluster| cluster.lb_policy = policy.into());
        mesh.route(&service, vec![hashing(&service)]);
        for (host, name) in [(1, "v1"), (2, "v2"), (3, "v3")] {
            endpoint::start_clear(mesh.socket(host, HTTP), name).await;
        }
        mesh.endpoints(&service.cluster(), (1..=3).map(|host| Ep::Clear(mesh.socket(host, HTTP))).collect());
        let mut reached = BTreeMap::new();
        for _ in 0..2 {
            for user in 0..30 {
                let (from, cookie) = asked(&mesh, &service, saying("x-user", &user.to_string())).await;
                assert_eq!(cookie, None, "what comes first is enough");
                assert_eq!(reached.entry(user).or_insert_with(|| from.clone()), &from, "{user}");
            }
        }
        assert_eq!(reached.values().collect::<BTreeSet<_>>().len(), 3, "{reached:?}");
        let (from, cookie) = asked(&mesh, &service, get("/a")).await;
        let cookie = cookie.unwrap();
        assert!(cookie.ends_with("; Max-Age=60; Path=/; HttpOnly"), "{cookie}");
        let says = cookie.split(';').next().unwrap();
        for _ in 0..3 {
            assert_eq!(asked(&mesh, &service, saying("cookie", says)).await, (from.clone(), None));
        }
        // What is explained is what happens.
        for (user, from) in &reached {
            let headers = vec![("x-user".to_owned(), user.to_string())];
            let request = request("GET", "billing.shop", "/a", &headers, false).unwrap();
            let question = Question { identity: id(WEB), address: [127, 0, 0, 1].into(), destination: service.vip, request };
            let told = serde_json::to_string(&explain(&mesh.store.snapshot(), &question)).unwrap();
            let host: u8 = from.trim_start_matches('v').parse().unwrap();
            let to = format!("as the client to shop/legacy at {}", mesh.socket(host, HTTP));
            assert!(told.contains(&to) && told.contains("decides, of the header x-user, the cookie user"), "{to}: {told}");
        }
        // One goes: who was with another one stays there.
        mesh.endpoints(&service.cluster(), [1, 3].map(|host| Ep::Clear(mesh.socket(host, HTTP))).to_vec());
        let mut stayed = 0;
        for (user, before) in &reached {
            let (from, _) = asked(&mesh, &service, saying("x-user", &user.to_string())).await;
            assert_ne!(from, "v2");
            stayed += usize::from(from == *before);
        }
        let others = reached.values().filter(|from| *from != "v2").count();
        assert!(stayed * 2 > others, "{stayed} of {others}");
    }
}

#[tokio::test]
async fn a_request_that_failed_is_sent_to_another_endpoint_than_its_hash_leads_to() {
    let mesh = Mesh::start(188).await;
    let service = service(&mesh, "http2", |cluster| cluster.lb_policy = LbPolicy::RingHash.into());
    let mut route = hashing(&service);
    if let Some(Action::Route(action)) = &mut route.action {
        let num_retries = Some(UInt32Value { value: 1 });
        action.retry_policy = Some(RetryPolicy { retry_on: "reset".into(), num_retries, ..Default::default() });
    }
    mesh.route(&service, vec![route]);
    let (one, other) = (mesh.socket(1, 8100), mesh.socket(2, 8100));
    let came = [scripted::start(one, &[Answer, Cut]).await, scripted::start(other, &[Answer, Cut]).await];
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(one), Ep::Clear(other)]);
    let requests = || came.each_ref().map(|came| came.requests());
    for asked in 1..=2 {
        let (status, _, text) = once(&mesh, WEB, service.vip, saying("x-user", "somebody")).await;
        assert_eq!(status, 200, "request {asked}: {text}");
        let mut counts = requests();
        counts.sort_unstable();
        assert_eq!(counts[0], asked - 1, "the first one is its hash's, and the second one fails there: {counts:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_is_slow_to_those_who_go_by_latency() {
    let mesh = Mesh::start(189).await;
    let service = service(&mesh, "http2", |cluster| {
        cluster.lb_policy = LbPolicy::LeastRequest.into();
        let own = cluster.metadata.as_mut().unwrap().filter_metadata.get_mut("io.ambit").unwrap();
        own.fields.insert("load_balancing".into(), Value { kind: Some(Kind::StringValue("peak_ewma".into())) });
    });
    let (good, bad) = (mesh.socket(1, 8100), mesh.socket(2, 8100));
    let (well, failing) = (scripted::start(good, &[Answer]).await, scripted::start(bad, &[Cut]).await);
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(good), Ep::Clear(bad)]);
    let mut failed = 0;
    for _ in 0..20 {
        failed += usize::from(once(&mesh, WEB, service.vip, get("/")).await.0 == 503);
    }
    // It was tried, as nothing was known of it, and is not the quicker one by failing at once.
    assert_eq!((failed, failing.requests(), well.requests()), (1, 1, 19));
    let shown = serde_json::to_value(&*mesh.store.snapshot()).unwrap()["clusters"][service.cluster()]["live"].to_string();
    assert!(shown.contains("\"latency\""), "{shown}");
}
