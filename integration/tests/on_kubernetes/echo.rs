//! A program behind the waypoint that sends back by HTTP what it is sent, whole or as it comes, and speaks WebSocket.

use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};

use ambit_runtime::netns::NetNs;
use ambit_runtime::socket::{ListenOptions, listen};
use bytes::Bytes;
use futures::{TryStreamExt, future};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, UPGRADE};
use hyper::{HeaderMap, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::task::JoinSet;

/// Where it listens.
pub const PORT: u16 = 9080;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Serves in this network, for ever.
pub async fn serve(network: NetNs) -> anyhow::Result<()> {
    let options = ListenOptions { netns: Some(&network), ..ListenOptions::default() };
    let listener = listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)), &options)?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let service = hyper::service::service_fn(answer);
            let server = auto::Builder::new(TokioExecutor::new());
            // Its end is the client's to notice.
            let _ended = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let mut response = Response::new(nothing());
    if request.headers().get(UPGRADE).is_some_and(|protocol| protocol == "websocket") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
                let _ended = tokio::io::copy(&mut read, &mut write).await;
            }
        });
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, header::HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, header::HeaderValue::from_static("websocket"));
        return Ok(response);
    }
    if request.uri().path() == "/whole" {
        match request.into_body().collect().await {
            Ok(whole) => *response.body_mut() = Full::new(whole.to_bytes()).map_err(|never| match never {}).boxed_unsync(),
            Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
        }
        return Ok(response);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", header::HeaderValue::from_static("0"));
    // What ends a client's messages is no message.
    let messages = BodyStream::new(request.into_body());
    let messages = messages.try_filter(|frame| future::ready(frame.data_ref().is_none_or(|data| !data.is_empty())));
    let came = StreamBody::new(messages).with_trailers(async move { Some(Ok(trailers)) });
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
    *response.body_mut() = came.boxed_unsync();
    Ok(response)
}

fn nothing() -> Body {
    Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync()
}
