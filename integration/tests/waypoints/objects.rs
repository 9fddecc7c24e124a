//! The objects of the mesh: what people write, and what an API server would add.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use ambit_testbed::Families;

/// Addresses of the services, as written; see [`over`].
pub const BILLING: &str = "10.96.0.10";
pub const LIAR: &str = "10.96.0.13";
pub const EMPTY: &str = "10.96.0.15";
pub const H2C: &str = "10.96.0.16";
pub const LOCKED: &str = "10.96.0.17";
pub const OUTSIDE: &str = "10.96.0.18";
pub const LOOKED_UP: &str = "10.96.0.19";

const FIXED: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop, labels: {istio.io/waypoint-for: all}}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "ambitExplain: {administrators: [shop/web]}"}
---
apiVersion: v1
kind: Service
metadata: {name: billing, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd96::10"]
  selector: {app: billing}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 5432}, {name: mystery, port: 9000, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: billing-v1, namespace: shop}
spec: {clusterIP: 10.96.0.11, selector: {app: billing, version: v1}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: billing-v2, namespace: shop}
spec: {clusterIP: 10.96.0.12, selector: {app: billing, version: v2}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: liar, namespace: shop}
spec: {clusterIP: 10.96.0.13, selector: {app: liar}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop}
spec: {clusterIP: 10.96.0.15, selector: {app: nobody}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: modern, namespace: shop}
spec:
  clusterIP: 10.96.0.16
  selector: {app: billing, version: v1}
  ports: [{name: h2, port: 80, targetPort: 8080, appProtocol: kubernetes.io/h2c}]
---
apiVersion: v1
kind: Service
metadata: {name: locked, namespace: shop}
spec:
  clusterIP: 10.96.0.17
  selector: {app: billing, version: v1}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 5432}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny-intruder, namespace: shop}
spec:
  action: DENY
  targetRefs: [{group: "", kind: Service, name: billing}]
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/intruder]}}]
    to: [{operation: {paths: ["/secret*"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-web, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: locked}]
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]
    to: [{operation: {methods: [GET], paths: ["/open*"]}}]
  - from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]
    to: [{operation: {ports: ["5432"]}}]
  - from: [{source: {ipBlocks: [10.244.0.0/16]}}]
    to: [{operation: {paths: [/by-address]}}]
  - from: [{source: {ipBlocks: [192.0.2.0/24]}}]
    to: [{operation: {paths: [/claimed]}}]
  - from: [{source: {remoteIpBlocks: [10.244.0.0/16], notRemoteIpBlocks: [192.0.2.0/24]}}]
    to: [{operation: {paths: [/by-remote]}}]
  - from: [{source: {remoteIpBlocks: [192.0.2.0/24]}}]
    to: [{operation: {paths: [/claimed-remote]}}]
  - to: [{operation: {paths: [/when-remote]}}]
    when: [{key: remote.ip, values: [10.244.0.0/16], notValues: [192.0.2.0/24]}]
  - to: [{operation: {paths: [/when-claimed]}}]
    when: [{key: remote.ip, values: [192.0.2.0/24]}]
"#;

const ROUTES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: billing, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: billing, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /split}}]
    backendRefs: [{name: billing-v1, port: 80, weight: @V1@}, {name: billing-v2, port: 80, weight: @V2@}]
  - matches: [{path: {type: PathPrefix, value: /v1}}, {path: {type: Exact, value: /exact/v1}}]
    backendRefs: [{name: billing-v1, port: 80}]
  - matches:
    - {path: {type: PathPrefix, value: /v1/v2}}
    - {path: {type: RegularExpression, value: "/re/[a-z]+/v2"}}
    - {path: {type: PathPrefix, value: /v1}, headers: [{name: X-Version, value: v2}]}
    - {path: {type: PathPrefix, value: /v1}, headers: [{name: x-re, type: RegularExpression, value: "v[2-9]"}]}
    - {path: {type: PathPrefix, value: /v1}, queryParams: [{name: version, value: v2}]}
    - {path: {type: PathPrefix, value: /v1}, method: PUT}
    backendRefs: [{name: billing-v2, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /headers}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: x-set, value: "100%"}]
        add: [{name: x-add, value: two}]
        remove: [x-remove]
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-answer, value: yes-it-is}], remove: [x-remove-me]}
    backendRefs: [{name: billing-v1, port: 80}]
    timeouts: {request: 30s}
  - matches: [{path: {type: PathPrefix, value: /rewrite/prefix}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: new.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /xyz}}}]
    backendRefs: [{name: billing-v1, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /rewrite/root}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: billing-v1, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /rewrite/full}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /one}}}]
    backendRefs: [{name: billing-v1, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /redirect}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {scheme: https, hostname: example.org, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /to}}
  - matches: [{path: {type: PathPrefix, value: /invalid}}]
    backendRefs: [{name: missing, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /half}}]
    backendRefs: [{name: billing-v1, port: 80}, {name: missing, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /none}}]
  - matches: [{path: {type: PathPrefix, value: /empty}}]
    backendRefs: [{name: empty, port: 80}]
  - matches: [{path: {type: Exact, value: /slow}}]
    backendRefs: [{name: billing-v1, port: 80}]
    timeouts: {request: 500ms}
  - matches: [{path: {type: PathPrefix, value: /secret}}]
    backendRefs: [{name: billing-v1, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /upgrade}}]
    backendRefs: [{name: billing-v1, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: consumer, namespace: tests}
spec:
  parentRefs: [{group: "", kind: Service, name: billing, namespace: shop, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /consumer}}]
    backendRefs: [{name: billing, namespace: shop, port: 80}]
"#;

/// Hosts of ServiceEntries, both served by somebody at `address` who is not of the mesh: one whose endpoints are addresses, and one whose
/// endpoints the waypoint has to look up.
pub fn outside(families: Families, address: IpAddr) -> String {
    let entry = |name: &str, virtual_address: &str, resolution: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{hosts: [{name}.example], addresses: [\"{virtual_address}\"], resolution: {resolution}, \
             ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}], endpoints: [{{address: \"{address}\"}}]}}\n"
        )
    };
    over(families, &[entry("outside", OUTSIDE, "STATIC"), entry("looked-up", LOOKED_UP, "DNS")].join("---\n"))
}

/// A pod as an API server would show it.
pub struct PodObject<'a> {
    pub name: &'a str,
    pub app: &'a str,
    pub account: &'a str,
    pub addresses: Vec<IpAddr>,
}

/// What was written for IPv4, in a mesh of these families: 10.96.0.7 is fd96::7.
pub fn over(families: Families, yaml: &str) -> String {
    match families {
        Families::Dual => yaml.to_owned(),
        Families::Ipv6 => {
            let yaml = yaml.replace("10.96.0.10, \"fd96::10\"", "fd96::10").replace("10.244.0.0/16", "\"fd44::/16\"");
            yaml.replace("10.96.0.", "fd96::")
        }
    }
}

/// As [`over`], for the authority of a tunnel.
pub fn authority_over(families: Families, authority: &str) -> String {
    match (families, authority.parse()) {
        (Families::Ipv6, Ok(SocketAddr::V4(at))) if at.ip().octets().starts_with(&[10, 96, 0]) => {
            format!("[{}]:{}", over(families, &at.ip().to_string()), at.port())
        }
        _ => authority.to_owned(),
    }
}

/// The services, policies and pods.
pub fn fixed(families: Families, pods: &[PodObject<'_>]) -> String {
    let mut yaml = over(families, FIXED.trim());
    for PodObject { name, app, account, addresses } in pods {
        let addresses: Vec<String> = addresses.iter().map(|ip| format!("{{ip: \"{ip}\"}}")).collect();
        let _infallible = write!(
            yaml,
            "\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  {{name: {name}, namespace: shop, uid: uid-{name}, \
             labels: {{app: {app}, version: {name}}}, annotations: {{ambient.istio.io/redirection: enabled}}}}\n\
             spec: {{serviceAccountName: {account}, nodeName: node-1, containers: [{{name: c, image: i}}]}}\n\
             status: {{podIPs: [{}], phase: Running, conditions: [{{type: Ready, status: \"True\"}}]}}",
            addresses.join(", ")
        );
    }
    yaml
}

/// The routes, with the weights of `/split`.
pub fn routes(v1: u32, v2: u32) -> String {
    ROUTES.trim().replace("@V1@", &v1.to_string()).replace("@V2@", &v2.to_string())
}
