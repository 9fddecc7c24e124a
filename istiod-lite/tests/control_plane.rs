//! The control plane as its clients see it: over TLS on loopback, from files that change.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ambit_api::type_url::{ADDRESS, AUTHORIZATION, ENDPOINT, LISTENER, SECRET};
use ambit_tls::{
    CaClient, CaConfig, SvidSource as _,
    control_plane::{self, ControlPlane as Target},
    token::{AUDIENCE, Bound, Claims, ObjectReference, Signer},
};
use ambit_xds::{
    Node, Rejected, Resource,
    client::{self, Credentials, DeltaClient, Subscription, Subscriptions},
    node,
};
use istiod_lite::{ClusterConfig, Config, ControlPlane};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: uid-web, labels: {app: web}}
spec: {nodeName: n1, serviceAccountName: web, containers: [{name: c, image: x}]}
status: {phase: Running, podIP: 10.244.1.2, podIPs: [{ip: 10.244.1.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: ztunnel-1, namespace: istio-system, uid: uid-ztunnel-1}
spec: {nodeName: n1, serviceAccountName: ztunnel, containers: [{name: c, image: x}]}
status: {phase: Running, podIP: 10.244.1.3, podIPs: [{ip: 10.244.1.3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: gate-1, namespace: shop, uid: uid-gate-1, labels: {gateway.networking.k8s.io/gateway-name: gate}}
spec: {nodeName: n1, serviceAccountName: waypoints, containers: [{name: c, image: x}]}
status: {phase: Running, podIP: 10.244.1.4, podIPs: [{ip: 10.244.1.4}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
";

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], selector: {app: web}, ports: [{port: 80}]}
";

/// A control plane with its directories, stopped at the end.
struct Running {
    dir: TempDir,
    discovery: SocketAddr,
    monitoring: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), istiod_lite::Error>>,
}

impl Running {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("objects")).unwrap();
        fs::write(dir.path().join("objects/base.yaml"), OBJECTS).unwrap();
        Self::start(dir, "[::1]:0".parse().unwrap()).await
    }

    async fn start(dir: TempDir, listen: SocketAddr) -> Self {
        let config = Config {
            source_dirs: vec![dir.path().join("objects")],
            cluster: ClusterConfig::default(),
            state_dir: dir.path().join("state"),
            listen,
            monitoring: "[::1]:0".parse().unwrap(),
            trust_domain: "cluster.local".parse().unwrap(),
            cluster_id: "Kubernetes".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            node_accounts: vec!["istio-system/ztunnel".parse().unwrap()],
            certificate_seconds: 3600,
            root_margin_seconds: 300,
            serving_names: vec!["mesh.example".to_owned()],
            jwks: istiod_lite::jwks::Options::default(),
        };
        let control_plane = ControlPlane::start(config).await.unwrap();
        let (discovery, monitoring) = (control_plane.discovery_address().unwrap(), control_plane.monitoring_address().unwrap());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(control_plane.run(async move {
            let _ = stopped.await;
        }));
        Self { dir, discovery, monitoring, stop: Some(stop), task }
    }

    /// Stops in order, as at SIGTERM, and gives the directories back.
    async fn stop(mut self) -> TempDir {
        let begin = Instant::now();
        self.stop.take();
        self.task.await.unwrap().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(3), "took {:?}", begin.elapsed());
        self.dir
    }

    fn write(&self, file: &str, text: &str) {
        write(self.dir.path(), file, text);
    }

    /// Waits until a page has this.
    async fn shows(&self, path: &str, part: &str) {
        let begin = Instant::now();
        loop {
            let page = self.page(path).await;
            if page.contains(part) {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(10), "{page}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("state/root-cert.pem")
    }

    /// The file of a token for "namespace/account pod".
    fn token(&self, caller: &str) -> PathBuf {
        let (account, pod) = caller.split_once(' ').unwrap();
        let (namespace, name) = account.split_once('/').unwrap();
        let bound = Bound {
            namespace: namespace.parse().unwrap(),
            pod: Some(ObjectReference::new(pod, format!("uid-{pod}"))),
            serviceaccount: ObjectReference::new(name, ""),
            node: None,
        };
        let signer = Signer::load_or_create(&self.dir.path().join("state")).unwrap();
        let path = self.dir.path().join(format!("token-{pod}"));
        fs::write(&path, signer.sign(&Claims::new(&[AUDIENCE], bound, Duration::from_mins(10))).unwrap()).unwrap();
        path
    }

    fn client(&self, caller: &str, node: Node, types: &[&str]) -> Client {
        let held = Held::default();
        let types = types.iter().map(|type_url| Subscription::wildcard(type_url, held.handler(type_url))).collect();
        let target = client::Target::tls(self.discovery.to_string(), self.root());
        let credentials = Credentials::new(self.token(caller), "Kubernetes");
        let client = DeltaClient::new(target, node, credentials, types, Subscriptions::new());
        Client { held, task: tokio::spawn(client.run()) }
    }

    fn node_proxy(&self) -> Client {
        let id = node("ztunnel~10.244.1.3~ztunnel-1.istio-system~istio-system.svc.cluster.local", &[("NAME", "ztunnel-1")]);
        self.client("istio-system/ztunnel ztunnel-1", id, &[AUTHORIZATION, ADDRESS])
    }

    fn ca(&self, caller: &str, impersonate: bool) -> CaClient {
        let target = Target::new(self.discovery.to_string(), self.root());
        let credentials = control_plane::Credentials::new(self.token(caller), "Kubernetes");
        CaClient::new(CaConfig::new(target, credentials, impersonate)).unwrap()
    }

    async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.monitoring).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }
}

/// Replaces a file in one step, as `kubectl` and editors do.
fn write(dir: &Path, file: &str, text: &str) {
    let (temporary, path) = (dir.join("new"), dir.join("objects").join(file));
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, path).unwrap();
}

/// Names and versions that a client holds.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<BTreeMap<String, String>>>, Arc<Mutex<usize>>);

impl Held {
    fn handler(&self, type_url: &str) -> impl FnMut(Vec<Resource>, Vec<String>) -> Vec<Rejected> + Send + 'static {
        let (this, kind) = (self.clone(), type_url.rsplit('.').next().unwrap_or_default().to_owned());
        move |upserts, removals| {
            let mut held = this.0.lock().unwrap();
            *this.1.lock().unwrap() += upserts.len();
            removals.iter().for_each(|name| drop(held.remove(&format!("{kind} {name}"))));
            held.extend(upserts.into_iter().map(|resource| (format!("{kind} {}", resource.name), resource.version)));
            Vec::new()
        }
    }
}

struct Client {
    held: Held,
    task: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    fn version(&self, name: &str) -> Option<String> {
        self.held.0.lock().unwrap().get(name).cloned()
    }

    /// Waits until the version of a name is another than `old` (`None`: until it is there, or gone), and says how long it took.
    async fn other_than(&self, name: &str, old: Option<String>) -> Duration {
        let begin = Instant::now();
        while self.version(name) == old {
            assert!(begin.elapsed() < Duration::from_secs(10), "{name} stays {old:?} among {:?}", self.held.0.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        begin.elapsed()
    }
}

const WEB_POD: &str = "Address Kubernetes//Pod/shop/web";
const WEB_SERVICE: &str = "Address shop/web.shop.svc.cluster.local";

#[tokio::test]
async fn a_node_proxy_sees_a_changed_file_within_a_second() {
    let running = Running::new().await;
    let client = running.node_proxy();
    client.other_than(WEB_POD, None).await;
    assert_eq!(client.version(WEB_SERVICE), None);
    running.write("service.yaml", SERVICE);
    let appeared = client.other_than(WEB_SERVICE, None).await;
    let pod = client.version(WEB_POD);
    running.write("base.yaml", &OBJECTS.replace("10.244.1.2", "10.244.1.9"));
    let changed = client.other_than(WEB_POD, pod).await;
    let service = client.version(WEB_SERVICE);
    fs::remove_file(running.dir.path().join("objects/service.yaml")).unwrap();
    let removed = client.other_than(WEB_SERVICE, service).await;
    assert!(
        [appeared, changed, removed].iter().all(|time| *time < Duration::from_secs(1)),
        "{appeared:?} {changed:?} {removed:?}"
    );
    running.stop().await;
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_explained() {
    let running = Running::new().await;
    let client = running.node_proxy();
    client.other_than(WEB_POD, None).await;
    running.write("service.yaml", SERVICE);
    client.other_than(WEB_SERVICE, None).await;
    let before = client.version(WEB_SERVICE);
    running.write("service.yaml", &SERVICE.replace("port: 80", "port: eighty"));
    let begin = Instant::now();
    let page = loop {
        let page = running.page("/debug/errors").await;
        if page.contains("service.yaml") {
            break page;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "{page}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(page.contains("spec.ports[0].port") && page.contains("\"line\": 5"), "{page}");
    assert_eq!(client.version(WEB_SERVICE), before);
    running.stop().await;
}

#[tokio::test]
async fn a_restart_sends_a_client_nothing_it_has() {
    let running = Running::new().await;
    let client = running.node_proxy();
    client.other_than(WEB_POD, None).await;
    let sent = *client.held.1.lock().unwrap();
    let address = running.discovery;
    let dir = running.stop().await;
    write(dir.path(), "service.yaml", &SERVICE.replace("app: web", "app: none"));
    let running = Running::start(dir, address).await;
    client.other_than(WEB_SERVICE, None).await;
    assert_eq!(*client.held.1.lock().unwrap() - sent, 1, "only the new service");
    running.stop().await;
}

#[tokio::test]
async fn a_waypoint_sees_its_own_gateway_and_nothing_else() {
    let running = Running::new().await;
    let id = |gateway| node("waypoint~10.244.1.4~gate-1.shop~shop.svc.cluster.local", &[("GATEWAY_NAME", gateway)]);
    let own = running.client("shop/waypoints gate-1", id("gate"), &[LISTENER]);
    let other = running.client("shop/waypoints gate-1", id("other"), &[LISTENER]);
    let web = running.client("shop/web web", id("gate"), &[LISTENER]);
    let as_node = running.client("shop/waypoints gate-1", node("ztunnel~1", &[]), &[ADDRESS]);
    let by_account = running.client("shop/gate gate-2", id("gate"), &[LISTENER]);
    own.other_than("Listener connect_terminate", None).await;
    by_account.other_than("Listener connect_terminate", None).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for refused in [other, web, as_node] {
        assert!(refused.held.0.lock().unwrap().is_empty());
    }
    let page = running.page("/debug/syncz").await;
    assert!(page.contains("waypoint/shop/gate") && !page.contains("waypoint/shop/other"), "{page}");
    running.stop().await;
}

/// A node in each of two zones, with a pod of a service that prefers what is near, and one of its waypoint.
fn zones(first: &str, second: &str) -> String {
    let mut text = "
apiVersion: v1
kind: Service
metadata: {name: near, namespace: shop, labels: {istio.io/use-waypoint: gate}}
spec: {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], selector: {app: near}, ports: [{name: http, port: 80}], trafficDistribution: PreferClose}
---
apiVersion: v1
kind: Pod
metadata: {name: gate-2, namespace: shop, uid: uid-gate-2, labels: {gateway.networking.k8s.io/gateway-name: gate}}
spec: {nodeName: n2, serviceAccountName: waypoints, containers: [{name: c, image: x}]}
status: {phase: Running, podIP: 10.244.2.4, podIPs: [{ip: 10.244.2.4}]}
"
    .to_owned();
    for (at, zone) in [(1, first), (2, second)] {
        text += &format!(
            "---
apiVersion: v1
kind: Node
metadata: {{name: n{at}, labels: {{topology.kubernetes.io/zone: {zone}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: near-{at}, namespace: shop, labels: {{app: near}}}}
spec: {{nodeName: n{at}, serviceAccountName: near, containers: [{{name: c, image: x}}]}}
status: {{phase: Running, podIPs: [{{ip: 10.244.{at}.7}}], conditions: [{{type: Ready, status: \"True\"}}]}}
"
        );
    }
    text
}

#[tokio::test]
async fn a_waypoint_is_sent_what_is_near_to_its_own_node_and_follows_it() {
    const NEAR: &str = "ClusterLoadAssignment inbound-vip|80|http|near.shop.svc.cluster.local";
    let running = Running::new().await;
    running.write("zones.yaml", &zones("a", "b"));
    let on = |pod: &str| {
        let id = node(format!("waypoint~10.244.1.4~{pod}.shop~shop.svc.cluster.local"), &[("GATEWAY_NAME", "gate")]);
        running.client(&format!("shop/waypoints {pod}"), id, &[ENDPOINT])
    };
    running.node_proxy().other_than("Address Kubernetes//Pod/shop/gate-2", None).await;
    let (first, second) = (on("gate-1"), on("gate-2"));
    first.other_than(NEAR, None).await;
    second.other_than(NEAR, None).await;
    assert_ne!(first.version(NEAR), second.version(NEAR));
    // The node of the first is in another zone, as who comes anew is sent it.
    let before = first.version(NEAR);
    running.write("zones.yaml", &zones("b", "a"));
    first.other_than(NEAR, before).await;
    let anew = on("gate-1");
    anew.other_than(NEAR, None).await;
    let begin = Instant::now();
    while first.version(NEAR) != anew.version(NEAR) || first.version(NEAR) == second.version(NEAR) {
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?} {:?}", first.version(NEAR), anew.version(NEAR));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.stop().await;
}

/// A Gateway at the edge of the mesh with a certificate, and a pod that only looks like its proxy.
fn edge() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["edge.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    let data = serde_json::json!({"tls.crt": certificate.pem(), "tls.key": key.serialize_pem()});
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: shop}}
spec: {{gatewayClassName: ambit, listeners: [{{name: tls, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: cert}}]}}}}]}}
---
apiVersion: v1
kind: Secret
metadata: {{name: cert, namespace: shop}}
type: kubernetes.io/tls
stringData: {data}
---
apiVersion: v1
kind: Pod
metadata: {{name: edge-2, namespace: shop, uid: uid-edge-2, labels: {{gateway.networking.k8s.io/gateway-name: edge}}}}
spec: {{nodeName: n1, serviceAccountName: waypoints, containers: [{{name: c, image: x}}]}}
status: {{phase: Running, podIP: 10.244.1.9, podIPs: [{{ip: 10.244.1.9}}]}}
"
    )
}

#[tokio::test]
async fn the_private_key_of_a_gateway_is_sent_to_its_own_service_account_alone() {
    let running = Running::new().await;
    let id = |gateway| node("waypoint~10.244.1.9~edge-1.shop~shop.svc.cluster.local", &[("GATEWAY_NAME", gateway)]);
    // Before it is there, too.
    let early = running.client("shop/waypoints edge-2", id("edge"), &[SECRET, LISTENER]);
    // And while it is a waypoint, which the label is enough for.
    let waypoint = edge()
        .replace("ClassName: ambit", "ClassName: istio-waypoint")
        .replace("port: 443, protocol: HTTPS", "port: 15008, protocol: HBONE");
    running.write("edge.yaml", &waypoint);
    let before = running.client("shop/waypoints edge-2", id("edge"), &[SECRET, LISTENER]);
    before.other_than("Listener connect_terminate", None).await;
    running.write("edge.yaml", &edge());
    let own = running.client("shop/edge edge-1", id("edge"), &[SECRET, LISTENER]);
    own.other_than("Secret certificate|shop/cert", None).await;
    own.other_than("Listener ingress|443", None).await;
    let others = [
        early,
        running.client("shop/waypoints edge-2", id("edge"), &[SECRET, LISTENER]),
        running.client("shop/gate gate-2", id("gate"), &[SECRET]),
        running.client("shop/gate gate-3", id("edge"), &[SECRET]),
        running.client("shop/web web", node("web", &[("GENERATOR", "grpc")]), &[SECRET]),
        running.client("istio-system/ztunnel ztunnel-1", node("ztunnel~1", &[]), &[SECRET]),
    ];
    tokio::time::sleep(Duration::from_millis(300)).await;
    for other in others.iter().chain([&before]) {
        let held = other.held.0.lock().unwrap();
        assert!(!held.keys().any(|name| name.starts_with("Secret") || name.contains("ingress")), "{held:?}");
    }
    // Without its reference the key is taken back.
    running.write("edge.yaml", &edge().replace("name: cert}]", "name: other}]"));
    let begin = Instant::now();
    while own.version("Secret certificate|shop/cert").is_some() {
        assert!(begin.elapsed() < Duration::from_secs(10), "it is held still");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // An account of its name that is there for others gets none, and who was let in before it was seen gets no more.
    running.write(
        "account.yaml",
        &format!("{SERVICE}---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: edge, namespace: shop}}\n"),
    );
    running.node_proxy().other_than(WEB_SERVICE, None).await;
    running.write("edge.yaml", &edge());
    let late = running.client("shop/edge edge-3", id("edge"), &[SECRET]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    for client in [&own, &late] {
        assert_eq!(client.version("Secret certificate|shop/cert"), None);
    }
    running.stop().await;
}

#[tokio::test]
async fn certificates_follow_the_pods_of_the_node() {
    let running = Running::new().await;
    let (web, ghost) = ("spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/ghost");
    let node = running.ca("istio-system/ztunnel ztunnel-1", true);
    assert_eq!(node.issue(&web.parse().unwrap()).await.unwrap().id().to_string(), web);
    let refused = node.issue(&ghost.parse().unwrap()).await.unwrap_err().to_string();
    assert!(refused.contains("Unauthenticated"), "{refused}");
    let own = running.ca("shop/web web", false);
    assert!(own.issue(&web.parse().unwrap()).await.is_ok());
    let impostor = running.ca("shop/web web", true);
    assert!(impostor.issue(&"spiffe://cluster.local/ns/istio-system/sa/ztunnel".parse().unwrap()).await.is_err());
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_trusts_another_root_does_not_speak_to_us() {
    let running = Running::new().await;
    let other = Running::new().await;
    let client = {
        let target = client::Target::tls(running.discovery.to_string(), other.root());
        let held = Held::default();
        let types = vec![Subscription::wildcard(ADDRESS, held.handler(ADDRESS))];
        let credentials = Credentials::new(running.token("istio-system/ztunnel ztunnel-1"), "Kubernetes");
        let client = DeltaClient::new(target, node("ztunnel~1", &[]), credentials, types, Subscriptions::new());
        Client { held, task: tokio::spawn(client.run()) }
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(client.held.0.lock().unwrap().is_empty());
    other.stop().await;
    running.stop().await;
}

#[tokio::test]
async fn the_monitoring_pages_answer() {
    let running = Running::new().await;
    // Of an address at which nothing is asked without --jwks-local-addresses.
    let targets = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gate}]";
    let rule = "jwtRules: [{issuer: i, jwksUri: 'https://127.0.0.1/keys'}]";
    let head = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: t, namespace: shop}";
    running.write("tokens.yaml", &format!("{head}\nspec: {{{targets}, {rule}}}\n"));
    running.shows("/debug/jwks", "127.0.0.1 of 127.0.0.1 is an address of this machine").await;
    running.shows("/debug/status", "spec.jwtRules[0].jwksUri: no keys from https://127.0.0.1/keys").await;
    let client = running.node_proxy();
    client.other_than(WEB_POD, None).await;
    for (path, expected) in [
        ("/healthz/ready", "ready"),
        ("/metrics", "pilot_xds_pushes"),
        ("/metrics", "istiod_lite_jwks_fetches_total{result=\"failed\"}"),
        ("/debug/status", "Gateway shop/gate"),
        ("/debug/config", "Kubernetes//Pod/shop/web"),
        ("/debug/syncz", "ztunnel~10.244.1.3~ztunnel-1.istio-system"),
    ] {
        let page = running.page(path).await;
        assert!(page.starts_with("HTTP/1.1 200") && page.contains(expected), "{path}: {page}");
    }
    running.stop().await;
}
