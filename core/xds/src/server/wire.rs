//! The discovery service on the wire: gRPC over HTTP/2 (PROTOCOL-HTTP2 of gRPC), by hand.
//!
//! tonic's codec keeps the buffer of the longest message of a stream, in either direction, as long as the stream lasts. Here the first
//! response, and the first request of a peer that comes back, are tens of megabytes, and the stream lasts for half an hour: a
//! thousand node proxies had the control plane keep 20 GB.

mod requests;
mod responses;

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    metadata::{GRPC_CONTENT_TYPE, MetadataMap},
    server::NamedService,
};

pub(super) use requests::{Ask, Requests};
pub(super) use responses::Answer;

use super::{AdsServer, DeltaSession, SotwSession, ads::Authenticate, stream::Session};
use responses::Encoded;

const NAME: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

/// Before each message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// The service, for a tonic server.
pub struct AdsService<A>(Arc<AdsServer<A>>);

impl<A> AdsService<A> {
    pub(super) fn new(server: AdsServer<A>) -> Self {
        Self(Arc::new(server))
    }

    /// Whether requests for this path are for it.
    pub(super) fn has(path: &str) -> bool {
        let method = path.strip_prefix('/').and_then(|path| path.strip_prefix(NAME));
        method.is_some_and(|method| method.starts_with('/'))
    }
}

impl<A> Clone for AdsService<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A> NamedService for AdsService<A> {
    const NAME: &'static str = NAME;
}

impl<A: Authenticate> Service<http::Request<Body>> for AdsService<A> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let server = Arc::clone(&self.0);
        Box::pin(async move {
            let method = request.uri().path().strip_prefix('/').and_then(|path| path.strip_prefix(NAME));
            Ok(match method {
                Some("/DeltaAggregatedResources") => answer::<_, DeltaSession>(&server, request).await,
                Some("/StreamAggregatedResources") => answer::<_, SotwSession>(&server, request).await,
                _ => Status::unimplemented(format!("there is no {}", request.uri().path())).into_http(),
            })
        })
    }
}

async fn answer<A: Authenticate, S: Session>(server: &AdsServer<A>, request: http::Request<Body>) -> http::Response<Body> {
    let (parts, body) = request.into_parts();
    let requests = Requests::new(body, server.config().max_request);
    let request = tonic::Request::from_parts(MetadataMap::from_headers(parts.headers), parts.extensions, requests);
    match server.open::<S>(request).await {
        Ok(responses) => {
            let mut response = http::Response::new(Body::new(Encoded::new(responses)));
            response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
            response
        }
        Err(refusal) => refusal.into_http(),
    }
}
