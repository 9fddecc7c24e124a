//! The API server as the source, against an API server without a network.

mod fake_api;

use std::time::{Duration, Instant};

use ambit_runtime::readiness::Readiness;
use fake_api::{FakeApi, Wrong};
use istiod_lite::source::kubernetes::Timing;
use istiod_lite::source::{Event, Kind, Kubernetes, Problem, Source};
use serde_json::{Value, json};
use tokio::time::timeout;

const SERVICES: &str = "/api/v1/services";
const PODS: &str = "/api/v1/pods";
const GATEWAYS: &str = "/apis/gateway.networking.k8s.io/v1/gateways";
const SECRETS: &str = "/api/v1/namespaces/shop/secrets";
const GRANTS: &str = "/apis/gateway.networking.k8s.io/v1/referencegrants";
/// Longest wait for anything, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn timing() -> Timing {
    Timing {
        first_pause: Duration::from_millis(20),
        longest_pause: Duration::from_millis(100),
        absent_pause: Duration::from_millis(50),
        stale: Duration::from_mins(3),
        answer: Duration::from_secs(5),
        ..Timing::default()
    }
}

fn service(name: &str, port: u16) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name}, "spec": {"ports": [{"port": port}]}})
}

struct Watching {
    source: Kubernetes,
    ready: Readiness,
}

impl Watching {
    fn new(api: &FakeApi, timing: Timing) -> Self {
        let ready = Readiness::new();
        Self { source: Kubernetes::new(&api.client(), timing, &ready), ready }
    }

    async fn next(&mut self) -> Vec<String> {
        let events = timeout(PATIENCE, self.source.next()).await.expect("a batch in time").unwrap();
        let text = |event| match event {
            Event::Upsert(object) => format!("+{}", object.key()),
            Event::Delete(key) => format!("-{key}"),
        };
        events.into_iter().map(text).collect()
    }

    /// The next batch that has events, problems aside.
    async fn events(&mut self) -> Vec<String> {
        loop {
            let events = self.next().await;
            if !events.is_empty() {
                return events;
            }
        }
    }

    fn problems(&self) -> Vec<String> {
        self.source.problems().iter().map(Problem::to_string).collect()
    }

    /// Waits until the problems are as `good` wants them.
    async fn until(&mut self, good: impl Fn(&[String]) -> bool) -> Vec<String> {
        loop {
            let problems = self.problems();
            if good(&problems) {
                return problems;
            }
            assert_eq!(self.next().await, [""; 0], "with {problems:?}");
        }
    }
}

async fn eventually(what: &str, good: impl Fn() -> bool) {
    let begin = Instant::now();
    while !good() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn watched(api: &FakeApi, path: &str) {
    eventually("a watch", || api.requests(path).iter().any(|request| request.contains("watch"))).await;
}

#[tokio::test]
async fn the_first_batch_is_everything_and_changes_follow_in_order() {
    let api = FakeApi::default();
    for number in 0..1203 {
        api.put(SERVICES, service(&format!("s{number:04}"), 80));
    }
    api.put("/api/v1/namespaces", json!({"metadata": {"name": "shop"}}));
    let mut watching = Watching::new(&api, timing());
    let first = watching.next().await;
    assert_eq!((first.len(), first[0].as_str(), first[1].as_str()), (1204, "+Namespace shop", "+Service shop/s0000"));
    assert!(watching.ready.is_ready());
    let lists = api.requests(SERVICES).into_iter().filter(|request| !request.contains("watch")).count();
    assert_eq!(lists, 3, "pages of 500");
    // This server does not remember deletions for those who come later.
    watched(&api, SERVICES).await;
    api.put(SERVICES, service("s0001", 81));
    api.put(SERVICES, service("s0001", 81));
    api.delete(SERVICES, "shop", "s0002");
    api.put(SERVICES, service("s0002", 80));
    let mut events = Vec::new();
    while events.len() < 3 {
        events.extend(watching.events().await);
    }
    assert_eq!(events, ["+Service shop/s0001", "-Service shop/s0002", "+Service shop/s0002"]);
}

#[tokio::test]
async fn a_kind_that_may_not_be_listed_holds_back_the_first_batch_and_is_named() {
    let api = FakeApi::default();
    api.put(SERVICES, service("a", 80));
    api.wrong(PODS, Some(Wrong::Forbidden));
    let mut watching = Watching::new(&api, timing());
    let begin = Instant::now();
    while watching.ready.pending() != ["the list of pods of the API server"] {
        assert!(begin.elapsed() < PATIENCE, "{:?}", watching.ready.pending());
        assert!(timeout(Duration::from_millis(100), watching.source.next()).await.is_err());
    }
    assert!(timeout(Duration::from_millis(200), watching.source.next()).await.is_err());
    let problems = watching.problems();
    assert!(problems.len() == 1 && problems[0].contains("cannot list pods (403)"), "{problems:?}");
    api.wrong(PODS, None);
    assert_eq!(watching.next().await, ["+Service shop/a"]);
    assert!(watching.ready.is_ready());
    assert_eq!(watching.problems(), [""; 0]);
}

#[tokio::test]
async fn a_kind_that_comes_later_is_found() {
    let api = FakeApi::default();
    api.wrong(GRANTS, Some(Wrong::Missing));
    api.wrong("/apis/gateway.networking.k8s.io/v1beta1/referencegrants", Some(Wrong::Missing));
    let mut watching = Watching::new(&api, timing());
    assert_eq!(watching.next().await, [""; 0]);
    assert!(watching.ready.is_ready() && watching.problems().is_empty());
    let grant = json!({"metadata": {"namespace": "shop", "name": "g"}, "spec": {"from": [], "to": []}});
    api.put(GRANTS, grant);
    api.wrong(GRANTS, None);
    assert_eq!(watching.events().await, ["+ReferenceGrant shop/g"]);
}

#[tokio::test]
async fn policies_are_given_up_only_when_the_server_says_that_it_has_no_such_kind() {
    let paths = ["/apis/security.istio.io/v1/authorizationpolicies", "/apis/security.istio.io/v1beta1/authorizationpolicies"];
    let api = FakeApi::default();
    api.put(paths[0], json!({"metadata": {"namespace": "shop", "name": "p"}, "spec": {}}));
    let mut watching = Watching::new(&api, timing());
    assert_eq!(watching.next().await, ["+AuthorizationPolicy shop/p"]);
    let asked_often = async |watching: &mut Watching| {
        let before = api.requests(paths[0]).len();
        eventually("the policies to be asked for again and again", || api.requests(paths[0]).len() > before + 8).await;
        while let Ok(events) = timeout(Duration::from_millis(100), watching.next()).await {
            assert_eq!(events, [""; 0]);
        }
    };
    // Something in between answers in the server's place.
    for path in paths {
        api.wrong(path, Some(Wrong::Lost));
    }
    watching.until(|problems| problems.iter().any(|problem| problem.contains("says that it has the kind"))).await;
    asked_often(&mut watching).await;
    // Whatever it is asked.
    api.wrong("/apis", Some(Wrong::Missing));
    for path in paths {
        api.wrong(path, Some(Wrong::Missing));
    }
    watching.until(|problems| problems.iter().any(|problem| problem.contains("cannot be asked"))).await;
    asked_often(&mut watching).await;
    api.wrong("/apis", None);
    assert_eq!(watching.events().await, ["-AuthorizationPolicy shop/p"]);
    watching.until(<[String]>::is_empty).await;
}

#[tokio::test]
async fn after_a_watch_expired_what_vanished_is_deleted() {
    let api = FakeApi::default();
    for name in ["a", "b", "c"] {
        api.put(SERVICES, service(name, 80));
    }
    let mut watching = Watching::new(&api, timing());
    assert_eq!(watching.next().await.len(), 3);
    api.wrong(SERVICES, Some(Wrong::Expired));
    api.delete(SERVICES, "shop", "a");
    api.put(SERVICES, service("b", 81));
    let mut events = Vec::new();
    while events.len() < 2 {
        events.extend(watching.events().await);
    }
    // Whether the watch or the list was asked for first after the change does not matter for what comes of it.
    events.sort();
    assert_eq!(events, ["+Service shop/b", "-Service shop/a"]);
    api.wrong(SERVICES, None);
    api.put(SERVICES, service("d", 80));
    assert_eq!(watching.events().await, ["+Service shop/d"]);
}

#[tokio::test]
async fn a_watch_that_says_nothing_any_more_is_begun_anew() {
    let api = FakeApi::default();
    api.put(SERVICES, service("a", 80));
    let mut watching = Watching::new(&api, Timing { stale: Duration::from_secs(2), ..timing() });
    assert_eq!(watching.next().await.len(), 1);
    watched(&api, SERVICES).await;
    api.forget_watches(SERVICES);
    api.put(SERVICES, service("b", 80));
    assert_eq!(watching.events().await, ["+Service shop/b"]);
    let lists = api.requests(SERVICES).into_iter().filter(|request| !request.contains("watch")).count();
    assert_eq!(lists, 1, "it goes on from where it was");
}

#[tokio::test]
async fn a_watch_from_a_version_that_is_yet_to_come_is_not_begun_anew_for_ever() {
    let api = FakeApi::default();
    api.put(SERVICES, service("a", 80));
    let mut watching = Watching::new(&api, Timing { stale: Duration::from_millis(200), ..timing() });
    assert_eq!(watching.next().await.len(), 1);
    api.wrong(SERVICES, Some(Wrong::Mute));
    api.put(SERVICES, service("b", 80));
    api.delete(SERVICES, "shop", "a");
    assert_eq!(watching.events().await, ["-Service shop/a", "+Service shop/b"]);
}

#[tokio::test]
async fn while_the_server_is_away_the_last_state_stays_and_one_problem_says_so() {
    let api = FakeApi::default();
    api.put(SERVICES, service("a", 80));
    let mut watching = Watching::new(&api, timing());
    assert_eq!(watching.next().await.len(), 1);
    for path in [SERVICES, PODS] {
        api.wrong(path, Some(Wrong::Refused));
    }
    let problems = watching.until(|problems| problems.iter().any(|problem| problem.contains("connection refused"))).await;
    assert!(problems.len() == 1 && problems[0].starts_with("cluster: the API server cannot be reached"), "{problems:?}");
    assert!(problems[0].ends_with("what was in force before stays"), "{problems:?}");
    assert!(watching.ready.is_ready());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let asked = api.requests(PODS).len();
    assert!(asked < 30, "asked {asked} times in 0.3 s");
    for path in [SERVICES, PODS] {
        api.wrong(path, None);
    }
    watching.until(<[String]>::is_empty).await;
    api.put(SERVICES, service("b", 80));
    assert_eq!(watching.events().await, ["+Service shop/b"]);
}

#[tokio::test]
async fn a_busy_server_is_given_the_time_it_asks_for_and_a_silent_one_is_asked_again() {
    let api = FakeApi::default();
    api.wrong(SERVICES, Some(Wrong::Busy));
    api.wrong(PODS, Some(Wrong::Silent));
    let mut watching = Watching::new(&api, Timing { answer: Duration::from_millis(200), ..timing() });
    assert!(timeout(Duration::from_millis(500), watching.source.next()).await.is_err());
    eventually("pods to be asked for again", || api.requests(PODS).len() > 1).await;
    assert_eq!(api.requests(SERVICES).len(), 1, "three seconds were asked for");
    api.wrong(SERVICES, None);
    api.wrong(PODS, None);
    assert_eq!(watching.next().await, [""; 0]);
}

#[tokio::test]
async fn every_kind_is_asked_for_under_its_own_path() {
    let api = FakeApi::default();
    let mut watching = Watching::new(&api, timing());
    watching.next().await;
    // Secrets are asked for by name, and none is named.
    for kind in Kind::ALL.iter().filter(|kind| **kind != Kind::TlsSecret) {
        let (group, version, plural) = (kind.group(), kind.versions()[0], kind.plural());
        let path =
            if group.is_empty() { format!("/api/{version}/{plural}") } else { format!("/apis/{group}/{version}/{plural}") };
        eventually(&path, || api.requests(&path).len() >= 2).await;
    }
}

fn gateway(secret: &str) -> Value {
    let tls = json!({"certificateRefs": [{"name": secret}]});
    json!({
        "metadata": {"namespace": "shop", "name": "edge"},
        "spec": {"gatewayClassName": "ambit", "listeners": [{"name": "a", "port": 443, "protocol": "HTTPS", "tls": tls}]},
    })
}

fn secret(name: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name}, "type": "kubernetes.io/tls", "data": {}})
}

#[tokio::test]
async fn a_secret_is_asked_for_while_a_gateway_names_it_and_nobody_waits_for_the_right_to_read_it() {
    let api = FakeApi::default();
    api.put(SECRETS, secret("cert"));
    api.put(SECRETS, secret("other"));
    api.put(GATEWAYS, gateway("cert"));
    api.wrong(SECRETS, Some(Wrong::Forbidden));
    let mut watching = Watching::new(&api, timing());
    // What stands in its place says why.
    assert_eq!(watching.next().await, ["+Gateway shop/edge", "+Secret shop/cert"]);
    assert!(watching.ready.is_ready());
    assert!(api.requests(SECRETS).len() >= 3, "a first refusal may be that of a server which has just started");
    watching.until(|problems| problems.len() == 1 && problems[0].contains("cannot list secrets (403)")).await;
    api.wrong(SECRETS, None);
    assert_eq!(watching.events().await, ["+Secret shop/cert"], "of all that are there this one is named");
    watching.until(<[String]>::is_empty).await;
    let asked = api.requests(SECRETS);
    assert!(asked.iter().all(|request| request.contains("metadata.name%3Dcert%2Ctype%3D")), "{asked:?}");
    assert!(api.requests("/api/v1/secrets").is_empty());

    let began = Instant::now();
    api.put(GATEWAYS, gateway("other"));
    let mut changed = watching.events().await;
    assert!(
        changed.len() == 3 || began.elapsed() >= Duration::from_secs(1),
        "the Gateway did not wait for its Secret: {changed:?}"
    );
    while changed.len() < 3 {
        changed.extend(watching.events().await);
    }
    assert_eq!(changed, ["+Gateway shop/edge", "-Secret shop/cert", "+Secret shop/other"]);
    let follows = |request: &String| request.contains("watch") && request.contains("metadata.name%3Dother");
    eventually("a watch", || api.requests(SECRETS).iter().any(follows)).await;
    // Nobody asks for it any more, and what happens to it is not told.
    api.put(SECRETS, secret("cert"));
    api.delete(SECRETS, "shop", "other");
    assert_eq!(watching.events().await, ["-Secret shop/other"]);
    api.delete(GATEWAYS, "shop", "edge");
    assert_eq!(watching.events().await, ["-Gateway shop/edge", "-Secret shop/other"]);
}

#[tokio::test]
async fn who_is_told_to_read_no_secrets_asks_for_none() {
    let api = FakeApi::default();
    api.put(SECRETS, secret("cert"));
    api.put(GATEWAYS, gateway("cert"));
    let ready = Readiness::new();
    let source = Kubernetes::new(&api.client(), timing(), &ready).without_secrets();
    let mut watching = Watching { source, ready };
    assert_eq!(watching.next().await, ["+Gateway shop/edge", "+Secret shop/cert"]);
    assert!(watching.ready.is_ready() && watching.problems().is_empty());
    assert!(api.requests(SECRETS).is_empty());
}

#[tokio::test]
async fn a_secret_of_another_namespace_is_asked_for_while_a_reference_grant_permits_it() {
    const KEYS: &str = "/api/v1/namespaces/keys/secrets";
    let api = FakeApi::default();
    api.put(KEYS, json!({"metadata": {"namespace": "keys", "name": "far"}, "type": "kubernetes.io/tls", "data": {}}));
    let mut far = gateway("far");
    far["spec"]["listeners"][0]["tls"]["certificateRefs"][0]["namespace"] = json!("keys");
    api.put(GATEWAYS, far);
    let mut watching = Watching::new(&api, timing());
    assert_eq!(watching.next().await, ["+Gateway shop/edge"]);
    assert!(watching.ready.is_ready());
    assert!(api.requests(KEYS).is_empty(), "whoever may write a Gateway has it read");
    let grant = json!({
        "metadata": {"namespace": "keys", "name": "edge"},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "shop"}],
            "to": [{"group": "", "kind": "Secret", "name": "far"}],
        },
    });
    watched(&api, GRANTS).await;
    api.put(GRANTS, grant);
    let mut changed = watching.events().await;
    while changed.len() < 2 {
        changed.extend(watching.events().await);
    }
    assert_eq!(changed, ["+ReferenceGrant keys/edge", "+Secret keys/far"]);
    assert!(!api.requests(KEYS).is_empty());
    api.delete(GRANTS, "keys", "edge");
    assert_eq!(watching.events().await, ["-ReferenceGrant keys/edge", "-Secret keys/far"]);
}
