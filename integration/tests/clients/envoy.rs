//! An unmodified Envoy, started by `ambit envoy`, as the waypoint of a Gateway on the API server. The node proxy of its client is this
//! process; the pods behind it are not in the mesh, so it reaches them in clear.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{ConnectRequest, Pool, PoolConfig, PoolKey};
use ambit_identity::SpiffeId;
use ambit_integration::wait;
use ambit_tls::control_plane::{ControlPlane, Credentials};
use ambit_tls::{CaClient, CaConfig, Svid, SvidSource as _};
use anyhow::Context as _;
use bytes::Bytes;
use clap::Parser as _;
use http::{HeaderMap, Request, Response};
use http_body_util::Empty;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::world::{PATIENCE, World, pod};

/// The service, and the host of a ServiceEntry.
const WEB: &str = "10.96.0.30:80";
const OUTSIDE: &str = "10.96.0.31:80";
/// Where that host is; an entry cannot say that it is on loopback.
const OUTSIDE_AT: &str = "10.99.0.3";
/// Where a waypoint takes tunnels.
const WAYPOINT: &str = "127.0.0.1:15008";

#[derive(clap::Parser)]
struct Program {
    #[command(flatten)]
    config: ambit::envoy::Config,
}

/// A service of two versions and a host outside, all through the waypoint.
fn objects(ports: [u16; 3]) -> String {
    let [first, second, outside] = ports;
    let service = |name: &str, address: &str, version: &str, port: u16| {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{{address} \
             selector: {{version: {version}}}, ports: [{{name: http, port: 80, targetPort: {port}}}]}}}}\n"
        )
    };
    let entry = format!(
        "---\n{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: outside, namespace: shop}}, spec: {{\
         hosts: [outside.example], addresses: [10.96.0.31], resolution: DNS, \
         ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {outside}}}], endpoints: [{{address: {OUTSIDE_AT}}}]}}}}\n"
    );
    [
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/use-waypoint: waypoint}}}\n---\n\
         {apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: waypoint, namespace: shop}, spec: {\
         gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}\n"
            .to_owned(),
        service("web", "clusterIP: 10.96.0.30,", "v1", first),
        service("web-v2", "", "v2", second),
        entry,
        pod("v1", "{version: v1}"),
        pod("v2", "{version: v2}"),
        pod("caller", "{}"),
        pod("waypoint", "{gateway.networking.k8s.io/gateway-name: waypoint}"),
    ]
    .concat()
}

const ROUTE: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: web, namespace: shop}, spec: {\
                     parentRefs: [{group: '', kind: Service, name: web, port: 80}], \
                     rules: [{matches: [{path: {value: /moved}}], backendRefs: [{name: web-v2, port: 80}]}, {backendRefs: [{name: web, port: 80}]}]}}";

/// A policy that only the waypoint can enforce.
const POLICY: &str = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: web, namespace: shop}, spec: {\
                      action: DENY, targetRefs: [{group: '', kind: Service, name: web}], rules: [{to: [{operation: {paths: [/secret]}}]}]}}";

/// A pod's program: answers with its name.
async fn serve(tasks: &mut JoinSet<()>, address: &str, name: &'static str) -> anyhow::Result<u16> {
    let listener = TcpListener::bind(address).await?;
    let port = listener.local_addr()?.port();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let answer =
                service_fn(move |_| async move { Response::builder().header("x-pod", name).body(Empty::<Bytes>::new()) });
            connections.spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    Ok(port)
}

/// The client's node proxy.
struct Tunnels {
    pool: Pool,
    svid: Svid,
    client: SpiffeId,
    waypoint: SpiffeId,
}

impl Tunnels {
    async fn new(world: &World, token: &Path) -> anyhow::Result<Self> {
        let client: SpiffeId = "spiffe://cluster.local/ns/shop/sa/caller".parse()?;
        let target = ControlPlane::new(world.discovery.to_string(), &world.roots);
        let authority = CaClient::new(CaConfig::new(target, Credentials::new(token, "Kubernetes"), false))?;
        let svid = authority.issue(&client).await?;
        let waypoint = "spiffe://cluster.local/ns/shop/sa/waypoint".parse()?;
        Ok(Self { pool: Pool::new(PoolConfig::default()), svid, client, waypoint })
    }

    /// One request through the waypoint: the status, and the pod that answered.
    async fn get(&self, authority: &str, path: &str) -> anyhow::Result<(u16, String)> {
        let address: SocketAddr = WAYPOINT.parse()?;
        let tls = ambit_tls::client_config(&self.svid, std::slice::from_ref(&self.waypoint))?;
        let destinations = vec![self.waypoint.clone()];
        let key = PoolKey { source: self.client.clone(), destinations, address, source_ip: None, netns: None };
        let request = ConnectRequest { authority: authority.parse()?, headers: HeaderMap::new() };
        let dial = || async {
            let tcp = TcpStream::connect(address).await?;
            ambit_tls::handshake::connect(tcp, Arc::clone(&tls), Duration::from_secs(5)).await
        };
        let (tunnel, _) = self.pool.connect(&key, dial, request).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tunnel)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::get(path).header("host", "web.shop").body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await;
        connection.abort();
        let answer = answer?;
        let pod = answer.headers().get("x-pod").and_then(|name| name.to_str().ok()).unwrap_or("-").to_owned();
        Ok((answer.status().as_u16(), pod))
    }

    /// Waits until a request is answered so.
    async fn until(&self, authority: &str, path: &str, status: u16, pod: &str) -> anyhow::Result<()> {
        let what = format!("GET {authority}{path} answered {status} by {pod}");
        let (_, took) = wait::until(&what, PATIENCE, async || {
            let answer = tokio::time::timeout(Duration::from_secs(5), self.get(authority, path)).await;
            match answer {
                Ok(Ok(answer)) if answer == (status, pod.to_owned()) => Ok(()),
                Ok(Ok(answer)) => Err(format!("{answer:?}")),
                Ok(Err(error)) => Err(format!("{error:#}")),
                Err(_) => Err("no answer".to_owned()),
            }
        })
        .await?;
        println!("{what} after {took:?}");
        Ok(())
    }
}

pub async fn follows(definitions: &[PathBuf]) -> anyhow::Result<()> {
    let world = World::start(definitions, &objects([1; 3])).await?;
    let mut tasks = JoinSet::new();
    world.add_address(OUTSIDE_AT).await?;
    let outside = format!("{OUTSIDE_AT}:0");
    let mut ports = [0; 3];
    for (port, (address, name)) in
        ports.iter_mut().zip([("127.0.1.1:0", "v1"), ("127.0.1.2:0", "v2"), (outside.as_str(), "outside")])
    {
        *port = serve(&mut tasks, address, name).await?;
    }
    world.api.apply(&objects(ports)).await?;
    world.pod_is("v1", "127.0.1.1", true).await?;
    world.pod_is("v2", "127.0.1.2", true).await?;

    let (token, roots) = (world.token("waypoint", "istio-ca").await?, world.roots.display().to_string());
    let (token, discovery) = (token.display().to_string(), world.discovery.to_string());
    let arguments =
        ["envoy", "--name=waypoint", "--namespace=shop", "--service-account=waypoint", "--concurrency=1", "--drain=0"];
    let places = ["--xds-address", &discovery, "--ca-root", &roots, "--token", &token, "--pod-ip=127.0.0.1"];
    let config = Program::try_parse_from(arguments.iter().chain(&places))?.config;
    let (stop, stopped) = oneshot::channel::<()>();
    let envoy = tokio::spawn(ambit::envoy::run_until(config, async { _ = stopped.await }));

    let follows = async {
        let tunnels = Tunnels::new(&world, &world.token("caller", "istio-ca").await?).await?;
        tunnels.until(WEB, "/moved", 200, "v1").await?;
        tunnels.until(OUTSIDE, "/", 200, "outside").await?;
        world.api.apply(ROUTE).await?;
        tunnels.until(WEB, "/moved", 200, "v2").await?;
        tunnels.until(WEB, "/secret", 200, "v1").await?;
        world.api.apply(POLICY).await?;
        tunnels.until(WEB, "/secret", 403, "-").await?;
        world.api.kubectl(&["delete", "authorizationpolicy", "web", "-n", "shop"]).await?;
        tunnels.until(WEB, "/secret", 200, "v1").await?;
        world.pod_is("v1", "127.0.1.1", false).await?;
        tunnels.until(WEB, "/", 503, "-").await
    };
    let followed = follows.await;
    drop(stop);
    let ended = envoy.await?;
    followed?;
    ended.context("Envoy")
}
