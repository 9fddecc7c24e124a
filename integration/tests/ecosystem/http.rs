//! One request over HTTP/1.1 on a connection of its own.

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Asks for a page of this host on this connection.
pub async fn get(stream: TcpStream, host: &str, path: &str) -> anyhow::Result<Answer> {
    let (mut sender, driver) = handshake(TokioIo::new(stream)).await?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(async move {
        // Its failure is that of the request.
        let _told = driver.await;
    }));
    let request = Request::get(path).header(header::HOST, host).body(Empty::<Bytes>::new())?;
    let (head, body) = sender.send_request(request).await.context("sending a request")?.into_parts();
    let body = body.collect().await.context("reading an answer")?.to_bytes();
    Ok(Answer { status: head.status, headers: head.headers, body })
}
