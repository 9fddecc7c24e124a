//! From YAML to the decisions of a node proxy: what is translated here is read and judged by the same model that the
//! node proxy runs.

use std::net::SocketAddr;

use ambit_identity::{SpiffeId, TrustDomain};
use ambit_model::authorize::{Connection, authorize};
use ambit_model::convert::{Entry, decode_policy};
use ambit_model::plan::{Hop, Plan, Request, Unobserved, plan};
use ambit_model::state::MeshState;
use ambit_model::workload::Workload;
use istiod_lite::index::{ChangedKey, Index, MeshConfig};
use istiod_lite::source::{Directory, Source};
use istiod_lite::translate::{authorization, external, workload};
use prost::Message;

const GATEWAY: &str = "
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
";

/// The waypoint's own Service and pod, as whoever runs it writes them.
const WAYPOINT: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: gate, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: gate}}
spec: {selector: {gateway.networking.k8s.io/gateway-name: gate}, clusterIP: 10.96.1.1, ports: [{port: 15008}]}
---
apiVersion: v1
kind: Pod
metadata: {name: gate-1, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: gate, networking.istio.io/tunnel: http}}
spec: {serviceAccountName: gate, nodeName: n1, containers: []}
status: {podIP: 10.244.1.9, conditions: [{type: Ready, status: 'True'}]}
";

fn namespace(labels: &str) -> String {
    format!("\n---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{labels}}}}}\n")
}

fn service(labels: &str) -> String {
    format!(
        "\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: api, namespace: shop, labels: {{{labels}}}}}\n\
         spec: {{selector: {{app: api}}, clusterIP: 10.96.0.1, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n"
    )
}

fn pod(name: &str, app: &str, ip: &str, captured: bool) -> String {
    let redirection = if captured { "enabled" } else { "pending" };
    format!(
        "\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}, \
         annotations: {{ambient.istio.io/redirection: {redirection}}}}}\n\
         spec: {{serviceAccountName: {app}, nodeName: n1, containers: []}}\n\
         status: {{podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}\n"
    )
}

fn policy(spec: &str) -> String {
    format!(
        "\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
    )
}

fn peer_authentication(namespace: &str, spec: &str) -> String {
    format!(
        "\n---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// What a node proxy holds after it was sent everything that follows from the text.
async fn mesh(text: &str) -> MeshState {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("mesh.yaml"), text).unwrap();
    let mut source = Directory::new(vec![directory.path().to_owned()]).unwrap();
    let events = source.next().await.unwrap();
    assert_eq!(*source.problems(), [], "in\n{text}");
    let mut index = Index::new(MeshConfig::new("cluster.local".parse::<TrustDomain>().unwrap(), "Kubernetes"));
    let changed: std::collections::BTreeSet<ChangedKey> = events.into_iter().flat_map(|event| index.apply(event)).collect();
    let mut state = MeshState::new();
    for key in changed {
        let (name, made) = match key {
            ChangedKey::Workload(name) => (index.config().pod_uid(&name), workload::workload(&index, &name)),
            ChangedKey::Service(name) => (index.config().service_key(&name), workload::service(&index, &name)),
            ChangedKey::Policy(name) => {
                if let Some(made) = authorization::policy(&index, &name) {
                    state.insert_policy(decode_policy(&name.to_string(), &made.encode_to_vec()).unwrap());
                }
                continue;
            }
            ChangedKey::External(key) => (key.uid(index.config()), external::workload(&index, &key)),
            ChangedKey::Host(host) => (format!("{}/{}", host.namespace, host.name), external::host(&index, &host)),
            ChangedKey::Waypoint(_) | ChangedKey::Endpoints { .. } | ChangedKey::Clients(_) => continue,
        };
        if let Some(made) = made {
            state.insert(Entry::decode(&name, &made.encode_to_vec()).unwrap());
        }
    }
    state
}

fn pod_named<'a>(state: &'a MeshState, name: &str) -> &'a Workload {
    state.workload(&format!("Kubernetes//Pod/shop/{name}")).expect("the pod is a workload")
}

/// Where a connection from pod `web` to an address goes, as one line.
async fn goes(text: &str, destination: &str) -> String {
    let state = mesh(&format!("{text}{}", pod("web", "web", "10.244.1.1", true))).await;
    let source = pod_named(&state, "web");
    let destination: SocketAddr = destination.parse().unwrap();
    match plan(&state, Request { source, destination, random: 0, avoid: &[], observed: &Unobserved }) {
        Plan::Hbone(to) => {
            let hop = if to.hop == Hop::Waypoint { "waypoint" } else { "endpoint" };
            let expected: Vec<String> = to.expected.iter().map(SpiffeId::principal).collect();
            format!("{hop} {} for {} as {}", to.dial, to.authority, expected.join(","))
        }
        Plan::Passthrough(to) => format!("plain {}", to.dial),
        Plan::Resolve(to) => format!("resolve {}", to.hostname),
        Plan::Deny(denied) => format!("deny {}", denied.refusal.reason.label()),
    }
}

/// What pod `api` makes of a connection to one of its ports: `ok`, or the reason and the policy.
async fn answers(text: &str, caller: Option<&str>, port: u16) -> String {
    let state = mesh(&format!("{text}{}", pod("api", "api", "10.244.1.2", true))).await;
    let connection = Connection {
        source: caller.map(|principal| format!("spiffe://{principal}").parse().unwrap()),
        source_ip: "10.244.1.1".parse().unwrap(),
        destination: SocketAddr::from(([10, 244, 1, 2], port)),
    };
    match authorize(&state, pod_named(&state, "api"), &connection) {
        Ok(_) => "ok".to_owned(),
        Err(refusal) => {
            format!("{} {}", refusal.reason.label(), refusal.policy.map(|policy| policy.to_string()).unwrap_or_default())
        }
    }
}

const WEB: Option<&str> = Some("cluster.local/ns/shop/sa/web");

#[tokio::test]
async fn a_service_leads_to_its_pod_by_hbone_once_captured_and_in_clear_before() {
    let captured = format!("{}{}", service(""), pod("api", "api", "10.244.1.2", true));
    assert_eq!(
        goes(&captured, "10.96.0.1:80").await,
        "endpoint 10.244.1.2:15008 for 10.244.1.2:8080 as cluster.local/ns/shop/sa/api"
    );
    let pending = format!("{}{}", service(""), pod("api", "api", "10.244.1.2", false));
    assert_eq!(goes(&pending, "10.96.0.1:80").await, "plain 10.244.1.2:8080");
}

#[tokio::test]
async fn a_service_with_a_waypoint_leads_to_the_waypoint() {
    let ready = format!("{}status: {{addresses: [{{value: 10.96.1.1}}]}}\n", GATEWAY);
    let rest = format!("{WAYPOINT}{}{}", namespace("istio.io/use-waypoint: gate"), pod("api", "api", "10.244.1.2", true));
    let expected = "waypoint 10.244.1.9:15008 for 10.96.0.1:80 as cluster.local/ns/shop/sa/gate";
    assert_eq!(goes(&format!("{ready}{rest}{}", service("")), "10.96.0.1:80").await, expected);
    // The pod's own address is not the waypoint's, which serves services.
    assert!(goes(&format!("{ready}{rest}{}", service("")), "10.244.1.2:8080").await.starts_with("endpoint"));
}

#[tokio::test]
async fn a_waypoint_that_cannot_be_used_is_never_gone_around() {
    let rest = format!("{WAYPOINT}{}", pod("api", "api", "10.244.1.2", true));
    let missing = format!("{rest}{}", service("istio.io/use-waypoint: gate"));
    assert_eq!(goes(&missing, "10.96.0.1:80").await, "deny waypoint_missing", "no Gateway");
    let not_ready = format!("{GATEWAY}{missing}");
    assert_eq!(goes(&not_ready, "10.96.0.1:80").await, "deny waypoint_missing", "no address");
    let by_namespace = format!("{rest}{}{}", namespace("istio.io/use-waypoint: gate"), service(""));
    assert_eq!(goes(&by_namespace, "10.96.0.1:80").await, "deny waypoint_missing", "asked for by the namespace");
    let elsewhere = GATEWAY
        .replace("namespace: shop}", "namespace: bank}")
        .replace("}]}\n", "}]}\nstatus: {addresses: [{value: 10.96.1.1}]}\n");
    let labels = "istio.io/use-waypoint: gate, istio.io/use-waypoint-namespace: bank";
    assert_eq!(
        goes(&format!("{elsewhere}{rest}{}", service(labels)), "10.96.0.1:80").await,
        "deny waypoint_missing",
        "not admitted"
    );
}

#[tokio::test]
async fn what_a_policy_does_not_allow_is_refused_by_its_name() {
    assert_eq!(answers("", WEB, 8080).await, "ok", "no policy");
    let allow_nothing = policy("{}");
    assert!(answers(&allow_nothing, WEB, 8080).await.ends_with(" shop/p"));
    let by_caller = policy("{rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]}");
    assert_eq!(answers(&by_caller, WEB, 8080).await, "ok");
    assert!(answers(&by_caller, Some("cluster.local/ns/shop/sa/other"), 8080).await.ends_with(" shop/p"));
    assert!(answers(&by_caller, None, 8080).await.ends_with(" shop/p"), "no identity");
    let all = policy("{rules: [{}]}");
    assert_eq!(answers(&all, None, 8080).await, "ok");
}

#[tokio::test]
async fn what_a_policy_denies_is_refused_by_its_name() {
    assert!(answers(&policy("{action: DENY, rules: [{}]}"), WEB, 8080).await.ends_with(" shop/p"));
    assert_eq!(answers(&policy("{action: DENY}"), WEB, 8080).await, "ok", "no rules match nothing");
    let by_port = policy("{action: DENY, selector: {matchLabels: {app: api}}, rules: [{to: [{operation: {ports: ['9090']}}]}]}");
    assert_eq!(answers(&by_port, WEB, 8080).await, "ok");
    assert!(answers(&by_port, WEB, 9090).await.ends_with(" shop/p"));
    let of_others = by_port.replace("app: api", "app: other");
    assert_eq!(answers(&of_others, WEB, 9090).await, "ok");
}

#[tokio::test]
async fn conditions_on_requests_never_let_more_through_at_l4() {
    let get = "[{to: [{operation: {methods: [GET]}}]}]";
    assert!(answers(&policy(&format!("{{rules: {get}}}")), WEB, 8080).await.ends_with(" shop/p"));
    assert!(answers(&policy(&format!("{{action: DENY, rules: {get}}}")), WEB, 8080).await.ends_with(" shop/p"));
    assert!(answers(&policy("{action: CUSTOM, provider: {name: x}, rules: [{}]}"), WEB, 8080).await.ends_with(" shop/p"));
    assert_eq!(answers(&policy("{action: AUDIT, selector: {matchLabels: {app: api}}, rules: [{}]}"), WEB, 8080).await, "ok");
}

#[tokio::test]
async fn strict_peer_authentication_refuses_callers_without_identity() {
    for namespace in ["shop", "istio-system"] {
        let strict = peer_authentication(namespace, "{mtls: {mode: STRICT}}");
        assert_eq!(answers(&strict, WEB, 8080).await, "ok");
        assert_eq!(answers(&strict, None, 8080).await, "strict_mtls_required istio-system/istio_converted_static_strict");
    }
    let ports = "{selector: {matchLabels: {app: api}}, mtls: {mode: STRICT}, portLevelMtls: {9090: {mode: PERMISSIVE}}}";
    let ports = peer_authentication("shop", ports);
    assert_eq!(answers(&ports, None, 9090).await, "ok");
    assert!(answers(&ports, None, 8080).await.ends_with(" shop/converted_peer_authentication_p"));
    assert_eq!(answers(&peer_authentication("other", "{mtls: {mode: STRICT}}"), None, 8080).await, "ok");
}

#[tokio::test]
async fn a_service_without_selector_leads_to_the_addresses_of_its_slices_and_to_a_pod_as_one() {
    let service = "
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.96.0.7, ports: [{name: tcp, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints: [{addresses: [ADDRESS]}]
ports: [{name: tcp, port: 15432}]
";
    let outside = service.replace("ADDRESS", "192.0.2.1");
    assert_eq!(goes(&outside, "10.96.0.7:5432").await, "plain 192.0.2.1:15432");
    let inside = format!("{}{}", service.replace("ADDRESS", "10.244.1.2"), pod("api", "api", "10.244.1.2", true));
    let expected = "endpoint 10.244.1.2:15008 for 10.244.1.2:15432 as cluster.local/ns/shop/sa/api";
    assert_eq!(goes(&inside, "10.96.0.7:5432").await, expected, "a pod is not left for plain text because a slice names it");
}

#[tokio::test]
async fn a_service_entry_leads_to_its_addresses_its_names_or_through_as_it_is() {
    let entry = |rest: &str| {
        format!(
            "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: out, namespace: shop}}
spec: {{hosts: [out.example.com], addresses: [240.0.0.1], ports: [{{number: 443, name: tls, protocol: TLS, targetPort: 8443}}], {rest}}}
"
        )
    };
    let fixed = entry("resolution: STATIC, endpoints: [{address: 192.0.2.1, ports: {tls: 9443}}]");
    assert_eq!(goes(&fixed, "240.0.0.1:443").await, "plain 192.0.2.1:9443");
    assert_eq!(goes(&entry("resolution: DNS"), "240.0.0.1:443").await, "resolve out.example.com");
    assert_eq!(goes(&entry("resolution: NONE"), "240.0.0.1:443").await, "plain 240.0.0.1:443");
    let machine = "
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm, namespace: shop, labels: {app: out}}
spec: {address: 192.0.2.2, serviceAccount: vm, labels: {networking.istio.io/tunnel: http}}
";
    let greedy = fixed.replace("[240.0.0.1]", "[10.96.0.1, 10.244.1.3]");
    let inside = format!("{greedy}{}{}", service(""), pod("api", "api", "10.244.1.3", true));
    for address in ["10.96.0.1:80", "10.244.1.3:8080"] {
        let expected = "endpoint 10.244.1.3:15008 for 10.244.1.3:8080 as cluster.local/ns/shop/sa/api";
        assert_eq!(goes(&inside, address).await, expected, "an entry does not take what is sent to a Service or pod");
    }
    let selecting = entry("resolution: STATIC, location: MESH_INTERNAL, workloadSelector: {labels: {app: out}}");
    let expected = "endpoint 192.0.2.2:15008 for 192.0.2.2:8443 as cluster.local/ns/shop/sa/vm";
    assert_eq!(goes(&format!("{selecting}{machine}"), "240.0.0.1:443").await, expected);
}
