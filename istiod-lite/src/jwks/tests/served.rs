//! From an issuer to what a waypoint is sent, and what its author is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ambit_api::type_url;
use ambit_xds::server::Cache;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::client::{Server, answer};
use crate::index::MeshConfig;
use crate::jwks::{Fetcher, Options, View, first_round};
use crate::mesh::Mesh;
use crate::push::{self, Pusher, waypoint_view};
use crate::source::testing::objects;
use crate::source::{Event, Kind, NamespacedName, ObjectKey};
use crate::{status, translate::waypoint};

/// A waypoint, a Service that it serves, and an issuer at PORT.
const MESH: &str = "apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: gate}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {clusterIP: 10.96.0.10, selector: {app: api}, ports: [{name: http, port: 80}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: api}]
  jwtRules: [{issuer: i, jwksUri: 'http://127.0.0.1:PORT/keys'}]
";
const ONE: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
/// The second public key of RFC 8032, section 7.1.
const OTHER: &str = "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw";

/// A control plane that follows an issuer who can be told what to answer.
struct Bed {
    mesh: Arc<Mesh>,
    cache: Cache,
    answer: Arc<Mutex<String>>,
    view: View,
    gateway: NamespacedName,
    _server: Server,
}

impl Bed {
    async fn start(first: String) -> Self {
        let shared = Arc::new(Mutex::new(first));
        let said = Arc::clone(&shared);
        let server = Server::start(None, move |_| Some(said.lock().unwrap().clone())).await;
        let mesh = Arc::new(Mesh::new(MeshConfig::new("cluster.local".parse().unwrap(), "Kubernetes")));
        let (cache, options) =
            (Cache::new(), Options { jwks_refresh_seconds: 1, jwks_local_addresses: true, ..Options::default() });
        let (pusher, view) = (Pusher::new(cache.clone()), View::new(&options));
        let text = MESH.replace("PORT", &server.port.to_string());
        pusher.apply(&mesh, objects(&text).into_iter().map(Event::Upsert).collect());
        mesh.advance();
        let (batches, received) = mpsc::channel(4);
        tokio::spawn(Fetcher::new(Arc::clone(&mesh), batches, view.clone(), &options).run());
        tokio::spawn(push::follow(Arc::clone(&mesh), pusher, received));
        Self { mesh, cache, answer: shared, view, gateway: NamespacedName::new("shop", "gate"), _server: server }
    }

    fn answers(&self, answer: String) {
        *self.answer.lock().unwrap() = answer;
    }

    /// Which of the keys the waypoint's listeners have.
    fn sent(&self) -> Vec<&'static str> {
        let resources = waypoint::translate(&self.mesh.index(), &self.gateway).unwrap();
        let has = |key: &&str| {
            resources.listeners.iter().any(|(_, any)| any.value.windows(key.len()).any(|window| window == key.as_bytes()))
        };
        [ONE, OTHER].into_iter().filter(has).collect()
    }

    /// The version of the listener as sessions have it.
    fn version(&self) -> String {
        self.cache.read(&waypoint_view(&self.gateway), type_url::LISTENER, |held| {
            held.get("main_internal").unwrap().version.to_string()
        })
    }

    fn condition(&self) -> String {
        let key = ObjectKey { kind: Kind::RequestAuthentication, name: NamespacedName::new("shop", "tokens") };
        match status::of(&self.mesh.index(), &key, None) {
            None => "nothing".to_owned(),
            Some(said) => {
                let said = &said.conditions[0];
                format!("{}={} {}: {}", said.r#type, said.status, said.reason, said.message)
            }
        }
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn keys(x: &str) -> String {
    answer("200 OK", &format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}]}}"#))
}

#[tokio::test]
async fn keys_that_change_go_to_the_waypoint_and_those_there_outlast_an_issuer_that_is_away() {
    let bed = Bed::start(answer("503 Service Unavailable", "")).await;
    assert_eq!(bed.condition(), "nothing", "before anybody was asked");
    first_round(&bed.mesh).await;
    assert!(!bed.mesh.index().awaits_keys());
    let said = bed.condition();
    assert!(
        said.starts_with("WaypointAccepted=False KeysNotFetched: spec.jwtRules[0].jwksUri: no keys from http://127.0.0.1"),
        "{said}"
    );
    assert!(said.contains(": it answers 503: no token of this issuer is believed"), "{said}");
    assert_eq!(bed.sent(), [""; 0]);
    let without = bed.version();

    bed.answers(keys(ONE));
    until("the first keys", || bed.sent() == [ONE]).await;
    until("another listener", || bed.version() != without).await;
    assert_eq!(bed.condition(), "WaypointAccepted=True Accepted: Attached to the waypoints of its targets");
    let with_one = bed.version();

    bed.answers(answer("503 Service Unavailable", ""));
    let lines = || serde_json::to_value(bed.view.lines()).unwrap();
    until("a failure", || lines()[0]["failures"].as_u64() > Some(0)).await;
    assert!(lines()[0]["keys"] == true && lines()[0]["error"] == "it answers 503", "{}", lines());
    assert_eq!((bed.sent(), bed.version()), (vec![ONE], with_one.clone()));
    until("a word on it", || {
        let said = bed.condition();
        said.starts_with("WaypointAccepted=True Accepted: Attached") && said.ends_with("503: the keys that came before hold")
    })
    .await;

    // What is not listed any more is not believed, also where nothing is.
    bed.answers(answer("200 OK", r#"{"keys":[]}"#));
    until("no keys", || bed.sent().is_empty()).await;
    let said = bed.condition();
    assert!(said.starts_with("WaypointAccepted=False KeysNotFetched") && said.contains("it has no keys"), "{said}");

    bed.answers(keys(OTHER));
    until("other keys", || bed.sent() == [OTHER]).await;
    until("another listener", || bed.version() != with_one).await;

    // What nobody asks for any more is forgotten.
    let key = ObjectKey { kind: Kind::RequestAuthentication, name: NamespacedName::new("shop", "tokens") };
    Pusher::new(bed.cache.clone()).apply(&bed.mesh, vec![Event::Delete(key)]);
    bed.mesh.advance();
    until("no keys", || bed.mesh.index().learned().is_empty() && bed.view.lines().is_empty()).await;
}
