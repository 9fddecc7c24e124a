//! A client whose node proxy is this process: each request in a tunnel of its own to the waypoint.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ambit_hbone::{ConnectError, ConnectRequest, PoolKey, TunnelStream};
use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::mesh::{Mesh, identity};
use crate::objects::authority_over;

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    /// The pod that answered.
    pub fn pod(&self) -> &str {
        self.headers.get("x-pod").and_then(|value| value.to_str().ok()).unwrap_or("-")
    }

    /// What the pod says it was asked.
    pub fn seen(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| format!("the answer is {} {}", self.status, self.body))
    }
}

pub fn get(path: &str) -> Request<Full<Bytes>> {
    request("GET", path, &[])
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut builder = Request::builder().method(method).uri(path).header("host", "billing.shop");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Full::default()).expect("a request")
}

impl Mesh {
    /// Opens a tunnel to an address, as it is written for IPv4, as a service account.
    pub async fn tunnel(&self, account: &str, authority: &str) -> anyhow::Result<Result<TunnelStream, ConnectError>> {
        let (svid, waypoint) = (self.svid(account)?, identity("waypoint"));
        let tls = ambit_tls::client_config(&svid, std::slice::from_ref(&waypoint))?;
        let address = SocketAddr::new(self.waypoint.ip(), 15008);
        let key = PoolKey { source: identity(account), destinations: vec![waypoint], address, source_ip: None, netns: None };
        let request =
            ConnectRequest { authority: authority_over(self.bed.families(), authority).parse()?, headers: HeaderMap::new() };
        let dial = || async {
            let tcp = self.client.connect(address).await?;
            ambit_tls::handshake::connect(tcp, tls, Duration::from_secs(5)).await
        };
        Ok(self.pool.connect(&key, dial, request).await.map(|(tunnel, _)| tunnel))
    }

    /// One request to a service.
    pub async fn request(&self, account: &str, vip: &str, port: u16, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let vip: IpAddr = vip.parse()?;
        let tunnel = self.tunnel(account, &SocketAddr::new(vip, port).to_string()).await??;
        let (status, headers, body) = over(tunnel, request).await?;
        Ok(Answer { status, headers, body })
    }
}

/// One request over a connection of HTTP/1.1.
pub async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<(u16, HeaderMap, String)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    connection.abort();
    Ok((parts.status.as_u16(), parts.headers, String::from_utf8_lossy(&body).into_owned()))
}

/// One request over a connection of HTTP/2.
pub async fn over_http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<(u16, String)> {
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
