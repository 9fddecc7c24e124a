//! A client whose node proxy opens tunnels to the waypoint.

use std::net::SocketAddr;

use ambit_hbone::{ConnectError, ConnectRequest, Pool, PoolConfig, PoolKey, TunnelStream};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{Mesh, WAYPOINT, certificates, id};

pub type Body = Full<Bytes>;

pub async fn tunnel(mesh: &Mesh, identity: &str, to: SocketAddr) -> Result<TunnelStream, ConnectError> {
    tunnel_to(mesh, identity, &to.to_string()).await
}

pub async fn tunnel_to(mesh: &Mesh, identity: &str, authority: &str) -> Result<TunnelStream, ConnectError> {
    let pool = Pool::new(PoolConfig::default());
    let opened = tunnel_in(&pool, mesh, identity, authority).await;
    // The last clone of a pool ends its connections; a test's tunnel lives as long as the test.
    std::mem::forget(pool);
    opened
}

/// A tunnel in a connection that this pool has, or in a new one.
pub async fn tunnel_in(pool: &Pool, mesh: &Mesh, identity: &str, authority: &str) -> Result<TunnelStream, ConnectError> {
    let store = certificates(&mesh.authority);
    let svid = store.get(&id(identity)).await.expect("a certificate");
    let key =
        PoolKey { source: id(identity), destinations: vec![id(WAYPOINT)], address: mesh.address, source_ip: None, netns: None };
    let dial = || async move {
        let config = ambit_tls::client_config(&svid, &[id(WAYPOINT)]).expect("a configuration");
        let tcp = tokio::net::TcpStream::connect(mesh.address).await?;
        ambit_tls::handshake::connect(tcp, config, std::time::Duration::from_secs(5)).await
    };
    let mut headers = HeaderMap::new();
    headers.insert("baggage", "k8s.deployment.name=web,service.name=web".parse().expect("a value"));
    let request = ConnectRequest { authority: authority.parse().expect("an authority"), headers };
    pool.connect(&key, dial, request).await.map(|(stream, _)| stream)
}

/// An HTTP/1.1 connection to a service.
pub async fn http1(mesh: &Mesh, identity: &str, to: SocketAddr) -> http1::SendRequest<Body> {
    let stream = tunnel(mesh, identity, to).await.expect("a tunnel");
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection.with_upgrades());
    sender
}

/// An HTTP/2 connection to a service.
pub async fn http2(mesh: &Mesh, identity: &str, to: SocketAddr) -> http2::SendRequest<Body> {
    let stream = tunnel(mesh, identity, to).await.expect("a tunnel");
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    sender
}

pub fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", "billing.shop").body(Body::default()).expect("a request")
}

/// Status, headers and text of a response.
pub async fn read(response: Response<Incoming>) -> (u16, HeaderMap, String) {
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.expect("a body").to_bytes();
    (head.status.as_u16(), head.headers, String::from_utf8_lossy(&bytes).into_owned())
}

/// One request on a connection of its own.
pub async fn once(mesh: &Mesh, identity: &str, to: SocketAddr, request: Request<Body>) -> (u16, HeaderMap, String) {
    let mut sender = http1(mesh, identity, to).await;
    read(sender.send_request(request).await.expect("a response")).await
}
