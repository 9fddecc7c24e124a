//! The connections of a discovery server, each of which is one task.

use std::{convert::Infallible, fmt::Display, pin::pin};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    task::JoinSet,
};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{
    body::Body,
    codegen::{BoxFuture, Service as _, http},
    service::Routes,
    transport::server::Connected,
};

use super::{
    AdsServer, Authenticate, ServerConfig,
    connection::{Begun, Here, OneTask},
    gathered::Gathered,
    wire::AdsService,
};

/// Bytes of requests of one stream that come before they are read. A thousand node proxies that come back say what they have at once, and
/// wait for their turn with what is here already.
const WINDOW: u32 = 64 << 10;
/// Streams of one connection at a time.
const STREAMS: u32 = 256;

impl<A: Authenticate> AdsServer<A> {
    /// Serves these connections, over which `others` are asked for what is not discovery. It ends when there are no more; or when it is
    /// to be drained, and each connection has ended: they are told to send no more requests, and end after their last stream.
    pub async fn serve<IO, E>(self, incoming: impl Stream<Item = Result<IO, E>>, others: Routes)
    where
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        E: Display,
    {
        let mut connections = accept(self, incoming, others.prepare()).await;
        while connections.join_next().await.is_some() {}
    }
}

/// Takes connections until there are no more or it is to be drained, and takes none after.
async fn accept<IO, E, A: Authenticate>(
    server: AdsServer<A>,
    incoming: impl Stream<Item = Result<IO, E>>,
    others: Routes,
) -> JoinSet<()>
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    E: Display,
{
    let (mut connections, drain, config) = (JoinSet::new(), server.drain(), server.config().clone());
    let ads = server.into_service();
    let mut incoming = pin!(incoming);
    let mut drained = pin!(drained(drain.clone()));
    loop {
        let next = tokio::select! {
            () = &mut drained => return connections,
            Some(_) = connections.join_next() => continue,
            next = incoming.next() => next,
        };
        match next {
            Some(Ok(io)) => drop(connections.spawn(serve(io, &config, ads.clone(), others.clone(), drain.clone()))),
            Some(Err(error)) => tracing::debug!(%error, "a connection to the discovery server failed before it began"),
            None => return connections,
        }
    }
}

fn serve<IO, A: Authenticate>(
    io: IO,
    config: &ServerConfig,
    ads: AdsService<A>,
    others: Routes,
    drain: watch::Receiver<bool>,
) -> impl Future<Output = ()> + Send + use<IO, A>
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let info = io.connect_info();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let mut request = request.map(Body::new);
        // The address of the peer, and its certificate where it has one.
        request.extensions_mut().insert(info.clone());
        answer(&ads, &others, request)
    });
    let begun = Begun::new();
    let connection = http2(begun.executor(), config).serve_connection(TokioIo::new(Gathered(io)), service);
    let task = OneTask::new(begun, Box::pin(connection), http2::Connection::graceful_shutdown, Box::pin(drained(drain)));
    async move {
        if let Err(error) = task.await {
            tracing::debug!(%error, "a connection to the discovery server failed");
        }
    }
}

fn answer<A: Authenticate>(
    ads: &AdsService<A>,
    others: &Routes,
    request: http::Request<Body>,
) -> BoxFuture<http::Response<Body>, Infallible> {
    if AdsService::<A>::has(request.uri().path()) { ads.clone().call(request) } else { Box::pin(others.clone().call(request)) }
}

fn http2(here: Here, config: &ServerConfig) -> http2::Builder<Here> {
    let mut http2 = http2::Builder::new(here);
    http2
        .timer(TokioTimer::new())
        .keep_alive_interval(config.keepalive)
        .keep_alive_timeout(config.keepalive_timeout)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(2 * WINDOW);
    http2
}

/// Completes when it is to be drained, and never when nobody can say so any more.
pub(super) async fn drained(mut drain: watch::Receiver<bool>) {
    let never = drain.wait_for(|drain| *drain).await.is_err();
    if never {
        std::future::pending::<()>().await;
    }
}
