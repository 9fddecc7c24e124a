//! What serves those who answer requests in clear.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};

/// What is answered.
pub type Answer = Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible>;

/// Has requests to an address answered so until the test ends, in whichever version of HTTP they come.
pub async fn serve<F>(address: SocketAddr, answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static)
where
    F: Future<Output = Answer> + Send + 'static,
{
    let listener = tokio::net::TcpListener::bind(address).await.expect("a port");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(answer.clone());
            tokio::spawn(async move {
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
}
