//! docs/envoy.md has a line for every message and field of Envoy's that a waypoint is sent, and the tests that it names are there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use prost_reflect::{DynamicMessage, ReflectMessage, Value};

use super::{Any, descriptors, input, kinds, of_waypoint};
use crate::source::NamespacedName;
use crate::translate::waypoint::{Place, translate_for};

/// The inputs of the golden tests, and what they leave out.
const INPUTS: [&str; 13] = [
    "whole",
    "routes",
    "policies",
    "requests",
    "direct",
    "kinds",
    "edge",
    "authorizers",
    "https",
    "processors",
    "traces",
    "logs",
    "hashes",
];
const MORE: &str = with_waypoint!(
    r#"
apiVersion: v1
kind: Service
metadata: {name: a, namespace: shop}
spec: {clusterIP: 10.96.0.10, selector: {app: a}, ports: [{name: http, port: 80}, {name: one, port: 81}, {name: two, port: 82}]}
---
apiVersion: v1
kind: Service
metadata: {name: both, namespace: shop}
spec: {clusterIP: 10.96.0.77, clusterIPs: [10.96.0.77, "fd00::77"], selector: {app: both}, ports: [{name: http, port: 80}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: one-of-both, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: both}]
  rules: [{when: [{key: destination.ip, values: ["fd00::/8"]}]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: weighted, namespace: shop}
spec:
  hosts: [weighted.example.com]
  addresses: [240.0.0.1]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 192.0.2.7, weight: 3}, {address: 192.0.2.8, weight: 1}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: a, port: 80}]
  rules:
  - retry: {codes: [503], attempts: 2, backoff: 1s}
    sessionPersistence: {type: Header, sessionName: x-session}
    timeouts: {request: 5s, backendRequest: 1s}
    filters:
    - {type: CORS, cors: {allowOrigins: ["https://a.example"], allowMethods: [GET], allowHeaders: [x], exposeHeaders: [y], allowCredentials: true}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}, percent: 10}}
    backendRefs:
    - name: a
      port: 80
      filters:
      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, value: y}], remove: [z]}}
      - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x, value: y}], remove: [z]}}
      - {type: URLRewrite, urlRewrite: {hostname: b.example}}
  - matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
---
apiVersion: ambit.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: a, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: a, sectionName: http}]
  limits: {retries: 5}
  loadBalancing: {slowStart: {aggression: 1.5, minWeightPercent: 5}}
  admission: {minConcurrency: 5, maxConcurrency: 500, statusOnReject: 429}
  outlierDetection: {consecutiveGatewayErrors: 2, interval: 1s, baseEjectionTime: 1s, successRate: {minimumHosts: 3, requestVolume: 10, stdevFactor: 1500}, failurePercentage: {threshold: 90, minimumHosts: 2, requestVolume: 20}}
---
apiVersion: v1
kind: Service
metadata: {name: checked, namespace: shop}
spec: {clusterIP: 10.96.0.11, selector: {app: checked}, ports: [{name: http2, port: 80}, {name: grpc, port: 81}, {name: http, port: 82}]}
---
apiVersion: v1
kind: Pod
metadata: {name: checked-1, namespace: shop, labels: {app: checked}, annotations: {ambient.istio.io/redirection: enabled}}
spec: {serviceAccountName: checked, nodeName: node-1, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 10.244.1.5}], phase: Running, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: ambit.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: checked-http2, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: checked, sectionName: http2}]
  healthCheck: {http: {path: /healthz, expectedStatuses: [200, 204]}}
  outlierDetection: {}
  retryBudget: {minConcurrent: 5}
---
apiVersion: ambit.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: checked-grpc, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: checked, sectionName: grpc}]
  healthCheck: {grpc: {service: shop.Cart}}
---
apiVersion: ambit.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: checked-tcp, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: checked, sectionName: http}]
  healthCheck: {tcp: {}}
---
apiVersion: ambit.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: one, namespace: shop}
spec: {targetRefs: [{kind: Service, name: a, sectionName: one}], admission: {normalLatency: 20ms}, loadBalancing: {policy: LeastRequest, slowStart: {}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a, namespace: shop}
spec: {host: a, trafficPolicy: {outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 3}}}
---
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {topology.kubernetes.io/region: east, topology.kubernetes.io/zone: a, topology.istio.io/subzone: s}}
---
apiVersion: v1
kind: Pod
metadata: {name: checked-2, namespace: shop, labels: {app: checked}}
spec: {serviceAccountName: checked, nodeName: node-2, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 10.244.2.5}], phase: Running, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Service
metadata: {name: near, namespace: shop}
spec: {clusterIP: 10.96.0.12, selector: {app: checked}, ports: [{name: http, port: 80}], trafficDistribution: PreferClose}
---
apiVersion: v1
kind: Service
metadata: {name: shared, namespace: shop}
spec: {clusterIP: 10.96.0.13, selector: {app: checked}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shared, namespace: shop}
spec: {host: shared, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: "*", to: {"*": 100}}]}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a, namespace: shop}
spec: {hosts: [a], http: [{match: [{withoutHeaders: {x: {exact: y}}}], directResponse: {status: 403, body: {string: "no"}}}]}
---
apiVersion: ambit.dev/v1alpha1
kind: RequestPolicy
metadata: {name: a, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: a}], limits: {maxBodyBytes: 1000, maxHeaderBytes: 2000}}
"#
);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The messages that are sent, each with the fields that are set somewhere.
#[derive(Default)]
struct Sent(BTreeMap<String, BTreeSet<String>>);

impl Sent {
    fn everything() -> Self {
        let mut sent = Self::default();
        for yaml in INPUTS.into_iter().map(input).chain([MORE.to_owned()]) {
            let resources = of_waypoint(&yaml);
            kinds(&resources).into_iter().flat_map(|(_, resources)| resources).for_each(|(_, any)| sent.any(any));
        }
        let index = super::index(MORE);
        let place = Place::of_node(&index, "node-1").unwrap();
        let near = translate_for(&index, &NamespacedName::new("shop", "waypoint"), &[place]).unwrap();
        near.placed.values().flatten().for_each(|(_, any)| sent.any(any));
        sent
    }

    fn any(&mut self, any: &Any) {
        let name = any.type_url.rsplit('/').next().unwrap();
        let descriptor = descriptors().get_message_by_name(name).unwrap_or_else(|| panic!("{name} has no descriptor"));
        self.message(&DynamicMessage::decode(descriptor, any.value.as_slice()).unwrap());
    }

    fn message(&mut self, message: &DynamicMessage) {
        let descriptor = message.descriptor();
        if let (Some(url), Some(value)) = (message.get_field_by_name("type_url"), message.get_field_by_name("value"))
            && descriptor.full_name() == "google.protobuf.Any"
        {
            let (url, value) = (url.as_str().unwrap().to_owned(), value.as_bytes().unwrap().to_vec());
            return self.any(&Any { type_url: url, value });
        }
        // What everybody knows.
        if descriptor.full_name().starts_with("google.protobuf.") {
            return;
        }
        let fields: Vec<_> = message.fields().collect();
        let known = self.0.entry(descriptor.full_name().to_owned()).or_default();
        known.extend(fields.iter().map(|(field, _)| field.name().to_owned()));
        for (_, value) in fields {
            self.value(value);
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Message(message) => self.message(message),
            Value::List(values) => values.iter().for_each(|value| self.value(value)),
            Value::Map(values) => values.values().for_each(|value| self.value(value)),
            _ => {}
        }
    }
}

/// The lines of the tables: message, fields, and the tests that they name.
fn table() -> Vec<(String, BTreeSet<String>, Vec<String>)> {
    let text = std::fs::read_to_string(root().join("docs/envoy.md")).unwrap();
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let lines = text
        .lines()
        .filter(|line| line.starts_with("| `envoy.") || line.starts_with("| `xds.") || line.starts_with("| `opentelemetry."));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [message, fields, _, tests] = cells[..] else { panic!("four cells: {line}") };
            (message.trim_matches('`').to_owned(), quoted(fields).into_iter().collect(), quoted(tests))
        })
        .collect()
}

#[test]
fn every_field_that_a_waypoint_is_sent_has_a_line_and_no_other_has() {
    let mut listed = Sent::default();
    for (message, fields, _) in table() {
        let known = listed.0.entry(message.clone()).or_default();
        for field in fields {
            assert!(known.insert(field.clone()), "{message}.{field} has two lines");
        }
    }
    let sent = Sent::everything();
    assert!(sent.0.len() > 100, "{} messages", sent.0.len());
    let without = |one: &Sent, other: &Sent| {
        let mut rest = Vec::new();
        for (message, fields) in &one.0 {
            match other.0.get(message) {
                None => rest.push(format!("{message} {fields:?}")),
                Some(known) => rest.extend(fields.difference(known).map(|field| format!("{message}.{field}"))),
            }
        }
        rest
    };
    let (missing, gone) = (without(&sent, &listed), without(&listed, &sent));
    assert!(missing.is_empty() && gone.is_empty(), "docs/envoy.md has no line for {missing:#?}, and {gone:#?} are not sent");
}

#[test]
fn every_test_that_the_table_of_envoys_fields_names_is_there() {
    let mut sources = String::new();
    for part in ["core", "istiod-lite", "waypoint", "integration"] {
        collect(&root().join(part), &mut sources);
    }
    for (message, fields, tests) in table() {
        assert!(!tests.is_empty(), "{message} {fields:?} names no test");
        let there = |test: &&String| !sources.contains(&format!("fn {test}(")) && !sources.contains(&format!("\"{test}\""));
        let gone: Vec<&String> = tests.iter().filter(there).collect();
        assert!(gone.is_empty(), "{message} names {gone:?}");
    }
}

fn collect(dir: &Path, sources: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}
