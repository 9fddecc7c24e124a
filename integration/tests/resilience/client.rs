//! A client whose node proxy is this process.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ambit_hbone::{ConnectRequest, Pool, PoolConfig, PoolKey, TunnelStream};
use ambit_testbed::Pod;
use ambit_tls::Svid;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::OnceCell;

use crate::mesh::identity;

/// By which the tries of one request are known.
pub const ID: &str = "x-test-id";

/// Opens tunnels to the waypoint.
pub struct Caller {
    pod: Pod,
    waypoint: SocketAddr,
    svid: Svid,
    pool: Pool,
}

impl Caller {
    pub fn new(pod: Pod, waypoint: SocketAddr, svid: Svid) -> Self {
        Self { pod, waypoint, svid, pool: Pool::new(PoolConfig::default()) }
    }

    /// A tunnel to port 80 of a service.
    async fn tunnel(&self, service: Ipv4Addr) -> anyhow::Result<TunnelStream> {
        let waypoint = identity("waypoint");
        let tls = ambit_tls::client_config(&self.svid, std::slice::from_ref(&waypoint))?;
        let destinations = vec![waypoint];
        let key = PoolKey { source: identity("client"), destinations, address: self.waypoint, source_ip: None, netns: None };
        let request = ConnectRequest { authority: format!("{service}:80").parse()?, headers: HeaderMap::new() };
        let dial = || async {
            let tcp = self.pod.connect(self.waypoint).await?;
            ambit_tls::handshake::connect(tcp, tls, Duration::from_secs(10)).await
        };
        Ok(self.pool.connect(&key, dial, request).await.map(|(tunnel, _)| tunnel)?)
    }

    /// One request over HTTP/1.1, in a tunnel of its own.
    pub async fn once(&self, service: Ipv4Addr, request: Request<Full<Bytes>>) -> anyhow::Result<u16> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.tunnel(service).await?)).await?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await;
        let status = match answer {
            Ok(answer) => ended(answer).await.map(|(status, _)| status),
            Err(error) => Err(error.into()),
        };
        connection.abort();
        status
    }
}

/// Requests to a service, over one connection of HTTP/2.
pub struct Channel {
    service: Ipv4Addr,
    sender: OnceCell<http2::SendRequest<Full<Bytes>>>,
}

impl Channel {
    pub fn new(service: Ipv4Addr) -> Self {
        Self { service, sender: OnceCell::new() }
    }

    /// What a GET is answered, as status and headers, once the answer has come whole.
    pub async fn get(&self, caller: &Caller, path: &str, id: &str) -> anyhow::Result<(u16, HeaderMap)> {
        let open = || {
            Box::pin(async {
                let tunnel = caller.tunnel(self.service).await?;
                let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tunnel)).await?;
                tokio::spawn(connection);
                anyhow::Ok(sender)
            })
        };
        let mut sender = self.sender.get_or_try_init(open).await?.clone();
        let request = Request::get(format!("http://{}{path}", self.service)).header(ID, id).body(Full::default())?;
        ended(sender.send_request(request).await?).await
    }
}

async fn ended(answer: Response<Incoming>) -> anyhow::Result<(u16, HeaderMap)> {
    let (head, body) = answer.into_parts();
    body.collect().await?;
    Ok((head.status.as_u16(), head.headers))
}
