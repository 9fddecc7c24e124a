//! A Gateway at the edge of the mesh, whose proxy is of the same kind as the waypoint: clients without identity, in no tunnel.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use crate::Suite;
use crate::carried;
use crate::client::{Answer, over, over_http2};
use crate::mesh::{Driver, Mesh, wait_for};
use crate::secure::{self, Certificate};

/// The Gateway has no Service here, so its ports are dialled as they are in the pod.
const PORT: u16 = 10080;
const OTHER_PORT: u16 = 8081;

const OBJECTS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: ambit
  listeners:
  - {name: example, port: 80, protocol: HTTP, hostname: "*.example.com"}
  - {name: closest, port: 80, protocol: HTTP, hostname: closest.example.com}
  - {name: other, port: 8081, protocol: HTTP}
  - {name: secure, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: missing}]}}
  - {name: tls-example, port: 8443, protocol: HTTPS, hostname: "*.example.com", tls: {certificateRefs: [{name: example}]}}
  - {name: tls-two, port: 8443, protocol: HTTPS, hostname: two.example.com, tls: {certificateRefs: [{name: two}]}}
  - {name: passed-on, port: 8444, protocol: TLS, hostname: "*.example.com", tls: {mode: Passthrough}}
  - {name: ended, port: 8444, protocol: TLS, hostname: end.example.com, tls: {mode: Terminate, certificateRefs: [{name: example}]}}
  - {name: bytes, port: 8445, protocol: TCP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: any-host, namespace: shop}
spec:
  parentRefs: [{name: edge, sectionName: example}, {name: edge, sectionName: tls-example}]
  rules:
  - backendRefs: [{name: billing-v1, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /changed}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-set, value: here}]}
    - type: URLRewrite
      urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
    backendRefs: [{name: billing-v1, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /there}}}]
  - matches: [{path: {type: PathPrefix, value: /guarded}}]
    backendRefs: [{name: billing, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: one-host, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  hostnames: [two.example.com, two.example.org]
  rules: [{backendRefs: [{name: billing-v2, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: raw, namespace: shop}
spec: {selector: {app: billing, version: v1}, ports: [{name: tcp, port: 5432}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: passed-on, namespace: shop}
spec:
  parentRefs: [{name: edge, sectionName: passed-on}]
  hostnames: [pass.example.com]
  rules: [{backendRefs: [{name: raw, port: 5432}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: ended, namespace: shop}
spec:
  parentRefs: [{name: edge, sectionName: ended}]
  hostnames: ["*.example.com"]
  rules: [{backendRefs: [{name: raw, port: 5432}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: bytes, namespace: shop}
spec:
  parentRefs: [{name: edge, sectionName: bytes}]
  rules: [{backendRefs: [{name: raw, port: 5432}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: edge, namespace: shop}
spec:
  action: DENY
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  rules: [{to: [{operation: {methods: [DELETE], ports: ["80"]}}]}]
"#;

pub fn tests(suite: &mut Suite) {
    // A second Envoy; how it asks for its configuration has nothing to do with its listeners.
    if suite.driver == Driver::EnvoySotw {
        return;
    }
    suite.test("serves clients outside of the mesh as a Gateway, by host and by its own identity", outside);
}

async fn outside(mesh: &Mesh) -> anyhow::Result<()> {
    let (wide, two) = (Certificate::made("*.example.com")?, Certificate::made("two.example.com")?);
    let objects = |two: &Certificate| format!("{OBJECTS}{}{}", wide.secret("example"), two.secret("two"));
    mesh.start_edge(&objects(&two)).await?;
    wait_for("the Gateway", || served(mesh, PORT, "a.example.com")).await?;
    wait_for("its other port", || served(mesh, OTHER_PORT, "two.example.org")).await?;
    hosts(mesh).await?;
    filters(mesh).await?;
    way(mesh).await?;
    refusals(mesh).await?;
    carried::outside(mesh, &wide).await?;
    secure::outside(mesh, (&wide, &two), objects).await
}

async fn served(mesh: &Mesh, port: u16, host: &str) -> anyhow::Result<()> {
    let answer = ask(mesh, port, host, "/").await?;
    ensure!(answer.status == 200, "the first request is answered {}", answer.status);
    Ok(())
}

fn request(method: &str, host: &str, path: &str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("host", host).header("x-forwarded-for", "192.0.2.1");
    let request =
        request.header("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/web").header("x-envoy-retry-on", "5xx");
    request.body(Full::default()).expect("a request")
}

async fn send(mesh: &Mesh, port: u16, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    let stream = mesh.client.connect(SocketAddr::new(mesh.edge.ip(), port)).await?;
    let (status, headers, body) = over(stream, request).await?;
    Ok(Answer { status, headers, body })
}

async fn ask(mesh: &Mesh, port: u16, host: &str, path: &str) -> anyhow::Result<Answer> {
    send(mesh, port, request("GET", host, path)).await
}

/// The listener that says the host most closely, then the route that does.
async fn hosts(mesh: &Mesh) -> anyhow::Result<()> {
    let cases = [
        (PORT, "a.example.com", 200, "v1"),
        (PORT, "A.B.Example.com:80", 200, "v1"),
        (PORT, "two.example.com", 200, "v2"),
        (PORT, "example.com", 404, "-"),
        (PORT, "two.example.org", 404, "-"),
        // Its listener has no route.
        (PORT, "closest.example.com", 404, "-"),
        (OTHER_PORT, "two.example.com", 200, "v2"),
        (OTHER_PORT, "two.example.org:8081", 200, "v2"),
        (OTHER_PORT, "a.example.com", 404, "-"),
    ];
    for (port, host, status, pod) in cases {
        let answer = ask(mesh, port, host, "/").await?;
        ensure!((answer.status, answer.pod()) == (status, pod), "{host} at {port}: {} from {}", answer.status, answer.pod());
    }
    let stream = mesh.client.connect(SocketAddr::new(mesh.edge.ip(), PORT)).await?;
    let request = Request::get("http://two.example.com/").body(Full::default())?;
    let (status, body) = over_http2(stream, request).await?;
    ensure!(status == 200 && body.contains("\"pod\":\"v2\""), "over HTTP/2: {status} {body}");
    Ok(())
}

async fn filters(mesh: &Mesh) -> anyhow::Result<()> {
    let seen = ask(mesh, PORT, "a.example.com", "/changed/path?q").await?.seen()?;
    ensure!(seen["path"] == "/path?q" && seen["headers"]["x-set"][0] == "here", "{seen}");
    let moved = ask(mesh, PORT, "a.example.com", "/moved").await?;
    let location = moved.headers.get("location").context("a redirect without a location")?;
    ensure!(moved.status == 302 && location == "http://a.example.com/there", "{} to {location:?}", moved.status);
    Ok(())
}

/// What the endpoint is told of the request's way is the proxy's to say.
async fn way(mesh: &Mesh) -> anyhow::Result<()> {
    let seen = ask(mesh, PORT, "a.example.com", "/").await?.seen()?;
    let headers = &seen["headers"];
    let client = mesh.client.ip();
    ensure!(headers["x-forwarded-for"][0] == format!("192.0.2.1,{client}"), "{headers}");
    ensure!(
        headers["x-forwarded-proto"][0] == "http" && headers["x-envoy-external-address"][0] == client.to_string(),
        "{headers}"
    );
    for taken_out in ["x-forwarded-client-cert", "x-envoy-retry-on"] {
        ensure!(headers.get(taken_out).is_none(), "{taken_out}: {headers}");
    }
    ensure!(headers["host"][0] == "a.example.com", "{headers}");
    Ok(())
}

async fn refusals(mesh: &Mesh) -> anyhow::Result<()> {
    let status = |method, port, host, path| async move {
        Ok::<_, anyhow::Error>(send(mesh, port, request(method, host, path)).await?.status)
    };
    let denied = send(mesh, PORT, request("DELETE", "a.example.com", "/")).await?;
    ensure!(denied.status == 403, "a policy of the Gateway does not hold: {}", denied.status);
    ensure!(!denied.headers.contains_key("x-ambit-policy"), "a stranger is told of the policy");
    ensure!(status("DELETE", OTHER_PORT, "two.example.com", "/").await? == 200, "a policy holds at another port");
    let guarded = status("GET", PORT, "a.example.com", "/guarded").await?;
    ensure!(guarded == 500, "what a waypoint enforces policies for is reached past it: {guarded}");
    ensure!(mesh.client.connect(SocketAddr::new(mesh.edge.ip(), 10443)).await.is_err(), "HTTPS is served without certificates");
    Ok(())
}
