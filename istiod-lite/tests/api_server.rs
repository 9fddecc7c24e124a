//! The API server as the source, and the election, against a real kube-apiserver with its etcd.

mod clusters;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ambit_cluster::ApiServer;
use ambit_cluster::api_server::client_of;
use ambit_cluster::manifests::Channel;
use ambit_xds::server::Cache;
use clusters::{Link, Watching, demo, eventually, policy_definitions};
use istiod_lite::Mesh;
use istiod_lite::index::MeshConfig;
use istiod_lite::leader::{Elector, LEASE, Terms};
use istiod_lite::push::Pusher;
use istiod_lite::source::kubernetes::Timing;
use istiod_lite::source::{Directory, Event, Source};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tokio::sync::oneshot;

fn service(name: &str, port: u16) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: default}}, spec: {{ports: [{{port: {port}}}]}}}}\n---\n"
    )
}

/// All that is made of events: the version (a hash of the bytes) of each resource, by view, type and name.
fn resources(events: Vec<Event>) -> BTreeMap<String, String> {
    let mesh = Mesh::new(MeshConfig::new("cluster.local".parse().unwrap(), "Kubernetes"));
    let cache = Cache::new();
    Pusher::new(cache.clone()).apply(&mesh, events);
    let mut all = BTreeMap::new();
    for view in cache.views() {
        for type_url in cache.types(&view) {
            let named = |name: &str| format!("{view} {type_url} {name}");
            cache.read(&view, &type_url, |content| {
                all.extend(content.entries().map(|entry| (named(&entry.name), entry.version.to_string())));
            });
        }
    }
    all
}

/// Waits until what a source says makes these resources, besides what the API server says of itself, and has these problems.
async fn until_made(mut source: Watching, wanted: &BTreeMap<String, String>, problems: impl Fn(&[String]) -> bool) {
    let (begin, mut seen) = (Instant::now(), Vec::new());
    loop {
        seen.extend(source.batch().await);
        let mut made = resources(seen.clone());
        let own = ["kubernetes.default.svc", "EndpointSlice/default/kubernetes/"];
        made.retain(|name, _| !own.iter().any(|part| name.contains(part)));
        if made == *wanted && problems(&source.problems()) {
            return;
        }
        let differs = || made.iter().filter(|(name, version)| wanted.get(*name) != Some(version)).collect::<Vec<_>>();
        let lacks = || wanted.keys().filter(|name| !made.contains_key(*name)).collect::<Vec<_>>();
        let problems = source.problems();
        assert!(begin.elapsed() < clusters::PATIENCE, "other: {:#?}, lacking: {:#?}, {problems:?}", differs(), lacks());
    }
}

#[tokio::test]
async fn the_demo_on_an_api_server_yields_what_it_yields_in_a_directory() {
    let api = ApiServer::start().await.unwrap();
    let mut watching = Watching::new(&api.client().await.unwrap(), Timing::default());
    assert_eq!(watching.next().await, [""; 0]);
    assert!(watching.ready.is_ready(), "kinds without a definition are empty: {:?}", watching.ready.pending());

    // Definitions that come later are found.
    api.install_gateway_api(Channel::Experimental).await.unwrap();
    api.install_definitions(&policy_definitions(api.directory())).await.unwrap();
    let demo = demo();
    for namespace in demo.iter().filter(|object| object["kind"] == "Namespace") {
        api.apply(&namespace.to_string()).await.unwrap();
    }
    let all: String = demo.iter().map(|object| format!("{object}\n---\n")).collect();
    api.apply(&all).await.unwrap();
    // What belongs to the kubelets and to us is written to the status, as they do.
    for object in demo.iter().filter(|object| object.get("status").is_some()) {
        let (kind, name) = (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
        let patch = serde_json::json!({ "status": object["status"] }).to_string();
        let namespace = object["metadata"]["namespace"].as_str().unwrap();
        api.kubectl(&["patch", kind, name, "-n", namespace, "--subresource=status", "--type=merge", "-p", &patch]).await.unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("demo.yaml"), all).unwrap();
    let mut files = Directory::new(vec![directory.path().to_owned()]).unwrap();
    let wanted = resources(files.next().await.unwrap());
    assert_eq!(*files.problems(), []);
    assert!(wanted.len() > 20, "{} resources", wanted.len());

    // Both a source that saw everything come, and one that lists it.
    let fresh = Watching::new(&api.client().await.unwrap(), Timing::default());
    for source in [fresh, watching] {
        until_made(source, &wanted, <[String]>::is_empty).await;
    }
}

#[tokio::test]
async fn slices_entries_and_routes_of_all_kinds_on_an_api_server_yield_what_they_yield_in_a_directory() {
    let text = include_str!("clusters/kinds.yaml");
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("kinds.yaml"), text).unwrap();
    let mut files = Directory::new(vec![directory.path().to_owned()]).unwrap();
    let wanted = resources(files.next().await.unwrap());
    // What names only one kind's object: a slice, two entries, a host, and what the waypoint is sent for a route.
    for part in
        ["db-1/192.0.2.1", "WorkloadEntry/shop/vm", "outside/192.0.2.7", "shop/named.example.com", "waypoint/shop/waypoint"]
    {
        assert!(wanted.keys().any(|name| name.contains(part)), "{part}: {wanted:#?}");
    }

    let api = ApiServer::start().await.unwrap();
    // The definitions that everybody has: some of the kinds in them are of this version alone.
    api.install_gateway_api(Channel::Standard).await.unwrap();
    let definitions = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/crds");
    let definitions = [
        "destinationrules",
        "requestauthentications",
        "requestpolicies",
        "serviceentries",
        "telemetries",
        "trafficpolicies",
        "virtualservices",
        "workloadentries",
    ]
    .map(|kind| definitions.join(format!("{kind}.yaml")));
    api.install_definitions(&definitions).await.unwrap();
    let mut watching = Watching::new(&api.client().await.unwrap(), Timing::default());
    watching.next().await;
    let namespace = text.split("\n---\n").next().unwrap();
    api.apply(namespace).await.unwrap();
    api.apply(text).await.unwrap();
    // As Kubernetes makes them of the pods that a Service selects; these are not asked for.
    let label = "endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io";
    let derived = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nendpoints: [{{addresses: [192.0.2.9]}}]\n\
         metadata: {{name: derived, namespace: shop, labels: {{kubernetes.io/service-name: db, {label}}}}}\n"
    );
    api.apply(&derived).await.unwrap();
    let fresh = Watching::new(&api.client().await.unwrap(), Timing::default());
    for source in [fresh, watching] {
        let told = ["RequestAuthentication shop/tokens", "Telemetry shop/quiet"];
        let each = |problems: &[String]| told.iter().all(|part| problems.iter().any(|problem| problem.contains(part)));
        until_made(source, &wanted, |problems| problems.len() == told.len() && each(problems)).await;
    }
}

#[tokio::test]
async fn what_changes_while_we_are_cut_off_and_forgotten_by_the_server_becomes_events() {
    let metrics = ambit_runtime::telemetry::metrics_handle().unwrap();
    let mut api = ApiServer::start().await.unwrap();
    let link = Link::new(api.url()).await;
    let client = client_of(&link.kubeconfig(api.kubeconfig(), api.directory())).await.unwrap();
    api.apply(&(service("a", 80) + &service("b", 80) + &service("c", 80))).await.unwrap();
    let timing = Timing { first_pause: Duration::from_millis(100), longest_pause: Duration::from_secs(1), ..Timing::default() };
    let mut watching = Watching::new(&client, timing);
    let first = watching.next().await;
    assert!(first.contains(&"+Service default/a".to_owned()), "{first:?}");
    api.apply(&service("c", 81)).await.unwrap();
    assert_eq!(watching.events().await, ["+Service default/c"]);
    api.kubectl(&["delete", "service", "c"]).await.unwrap();
    assert_eq!(watching.events().await, ["-Service default/c"]);

    // A short absence: the watch goes on from where it was.
    link.cut();
    api.apply(&service("b", 81)).await.unwrap();
    watching.until(|problems| problems.iter().any(|problem| problem.contains("the API server cannot be reached"))).await;
    assert!(watching.ready.is_ready());
    link.mend();
    assert_eq!(watching.events().await, ["+Service default/b"]);

    // A long one: the server has started anew and etcd was compacted, so that nobody knows what we have missed.
    link.cut();
    api.kubectl(&["delete", "service", "a"]).await.unwrap();
    api.apply(&(service("b", 82) + &service("d", 80))).await.unwrap();
    api.kill_api_server();
    api.compact().await.unwrap();
    api.start_api_server().await.unwrap();
    link.mend();
    let mut events = Vec::new();
    while events.len() < 3 {
        events.extend(watching.events().await);
    }
    assert_eq!(events, ["-Service default/a", "+Service default/b", "+Service default/d"]);
    watching.until(<[String]>::is_empty).await;
    let restarted =
        |line: &str| line.contains("pilot_k8s_watch_restarts") && line.contains("Service\"") && line.contains("expired");
    assert!(metrics.render().lines().any(restarted), "{}", metrics.render());

    // Without etcd and without a server nothing is forgotten.
    api.kill_api_server();
    api.kill_etcd();
    watching.until(|problems| !problems.is_empty()).await;
    api.start_etcd().await.unwrap();
    api.start_api_server().await.unwrap();
    api.apply(&service("e", 80)).await.unwrap();
    assert_eq!(watching.events().await, ["+Service default/e"]);

    // Who may do nothing is told what is missing.
    let nobody = client_of(&api.kubeconfig_of("system:serviceaccount:istio-system:istiod-lite", None).unwrap()).await.unwrap();
    let mut refused = Watching::new(&nobody, timing);
    let _ = tokio::time::timeout(Duration::from_secs(3), refused.source.next()).await;
    let problems = refused.problems();
    let named = |text: &str| problems.iter().any(|problem| problem.contains("cannot list") && problem.contains(text));
    assert!(named("the resource pods of the API group \"\"") && named("istio-system:istiod-lite"), "{problems:#?}");
    assert!(!refused.ready.is_ready());
}

/// How often a leader is to write before it is believed that nobody else does, and how long it waits in between.
const WRITES: u64 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// A replica with a writer that counts.
struct Replica {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
    leadership: istiod_lite::leader::Leadership,
    written: Arc<AtomicU64>,
    writer: tokio::task::JoinHandle<()>,
}

impl Replica {
    fn new(client: &kube::Client, name: &str) -> Self {
        let (elector, leadership) = Elector::new(client, "default", LEASE, name.into(), Terms::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(elector.run(async {
            let _ = stopped.await;
        }));
        let written = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&written);
        let writer = tokio::spawn(leadership.clone().while_leading::<(), _>(move || {
            let counted = Arc::clone(&counted);
            async move {
                loop {
                    counted.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }));
        Self { stop, task, leadership, written, writer }
    }

    async fn leads(&self) -> Duration {
        let begin = Instant::now();
        eventually("a leader", || self.leadership.leads()).await;
        begin.elapsed()
    }

    /// Waits until the writer has written, again and again, and no other one may have in that time, however long it took.
    async fn writes_alone(&self, others: &[&AtomicU64]) {
        let count = |of: &AtomicU64| of.load(Ordering::SeqCst);
        let (begin, before) = (count(&self.written), others.iter().copied().map(count).collect::<Vec<_>>());
        eventually("what the leader writes", || count(&self.written) >= begin + WRITES).await;
        let after: Vec<_> = others.iter().copied().map(count).collect();
        assert_eq!(after, before, "one that does not lead has written");
    }
}

#[tokio::test]
async fn another_replica_leads_when_the_leader_is_killed_or_stops_and_none_writes_without_the_lease() {
    let mut api = ApiServer::start().await.unwrap();
    let client = api.client().await.unwrap();
    let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
    let holder = async || leases.get(LEASE).await.unwrap().spec.unwrap().holder_identity;
    let first = Replica::new(&client, "first");
    first.leads().await;
    let second = Replica::new(&client, "second");
    tokio::time::sleep(Duration::from_secs(3)).await;
    first.writes_alone(&[&second.written]).await;
    assert_eq!(holder().await.as_deref(), Some("first"));

    // Killed: nothing gives the Lease up.
    first.task.abort();
    let took = second.leads().await;
    assert!(took < Duration::from_secs(20), "the other led after {took:?}");
    second.writes_alone(&[&first.written]).await;

    // Stopped: it is given up, and the next need not wait for it to run out.
    let third = Replica::new(&client, "third");
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(second.stop);
    second.task.await.unwrap();
    let took = third.leads().await;
    assert!(took < Duration::from_secs(10), "the other led after {took:?}");
    assert!(!second.writer.is_finished());
    third.writes_alone(&[&first.written, &second.written]).await;
    assert_eq!(holder().await.as_deref(), Some("third"));

    // Cut off: it stops to write before anybody else may begin.
    api.kill_api_server();
    let mut leadership = third.leadership.clone();
    tokio::select! {
        // On a machine that stood still for a while both are due.
        biased;
        () = leadership.lost() => {}
        () = tokio::time::sleep(Duration::from_secs(12)) => panic!("it leads for 12 s without the server"),
    }
    assert!(!third.leadership.leads());
    let written = third.written.load(Ordering::SeqCst);
    tokio::time::sleep(PAUSE * 20).await;
    assert_eq!(third.written.load(Ordering::SeqCst), written, "it writes without the server");
    api.start_api_server().await.unwrap();
    third.leads().await;
    assert_eq!(holder().await.as_deref(), Some("third"));
}

#[tokio::test]
async fn the_program_is_ready_once_all_is_listed_and_gives_its_lease_up() {
    let api = ApiServer::start().await.unwrap();
    api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}").await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let program = clusters::program(Path::new(api.kubeconfig()), state.path()).await;
    program.ready().await;
    let metrics = program.page("/metrics").await;
    for expected in
        ["pilot_k8s_objects{kind=\"Namespace\"}", "pilot_k8s_last_event_seconds{kind=\"Pod\"}", "pilot_k8s_api_reachable"]
    {
        assert!(metrics.contains(expected), "{expected} in {metrics}");
    }
    let leases: Api<Lease> = Api::namespaced(api.client().await.unwrap(), "istio-system");
    let holder = async || leases.get_opt(LEASE).await.unwrap().and_then(|lease| lease.spec?.holder_identity);
    let begin = Instant::now();
    while !holder().await.is_some_and(|holder| holder.starts_with("istiod-lite-1_")) {
        assert!(begin.elapsed() < clusters::PATIENCE, "{:?} leads", holder().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    program.stop().await;
    assert_eq!(holder().await.as_deref(), Some(""));
}
