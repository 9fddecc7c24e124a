//! Readiness, as a kubelet looks for it: does something accept connections, does a path answer 200.

use std::net::SocketAddr;
use std::time::Duration;

use ambit_runtime::netns::NetNs;
use ambit_runtime::socket::{ConnectOptions, connect};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::error::{Error, Result};

/// Patience for one look.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Whether a server on this port of the namespace's loopback accepts connections.
pub async fn accepts(netns: &NetNs, port: u16) -> bool {
    let look = async { dial(netns, port).await.is_ok() };
    tokio::time::timeout(TIMEOUT, look).await.unwrap_or(false)
}

/// Whether `GET path` on this port of the namespace's loopback is answered with 200.
pub async fn answers_ok(netns: &NetNs, port: u16, path: &str) -> bool {
    get(netns, port, path).await.is_ok_and(|(status, _)| status == StatusCode::OK)
}

/// `GET path` on this port of the namespace's loopback: status and body.
///
/// # Errors
/// If there is no answer within a second.
pub async fn get(netns: &NetNs, port: u16, path: &str) -> Result<(StatusCode, String)> {
    let failed = |error: &dyn std::fmt::Display| Error::Call(format!("GET {path} on port {port}: {error}"));
    let ask = async {
        let stream = dial(netns, port).await.map_err(|error| failed(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        let request = Request::get(path).header(hyper::header::HOST, "localhost").body(Empty::<Bytes>::new());
        let request = request.map_err(|error| failed(&error))?;
        let exchange = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            Ok::<_, hyper::Error>((status, answer.into_body().collect().await?.to_bytes()))
        };
        tokio::pin!(connection, exchange);
        let answer = tokio::select! {
            answer = &mut exchange => answer,
            ended = &mut connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(error),
            },
        };
        let (status, body) = answer.map_err(|error| failed(&error))?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(TIMEOUT, ask).await.unwrap_or_else(|_| Err(failed(&"no answer within a second")))
}

async fn dial(netns: &NetNs, port: u16) -> std::io::Result<TcpStream> {
    let options = ConnectOptions { netns: Some(netns), ..ConnectOptions::default() };
    match connect(SocketAddr::from(([127, 0, 0, 1], port)), &options).await {
        Ok(stream) => Ok(stream),
        Err(_) => connect(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)), &options).await,
    }
}
