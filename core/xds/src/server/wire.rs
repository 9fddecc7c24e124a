//! The discovery service on the wire: gRPC over HTTP/2 (PROTOCOL-HTTP2 of gRPC), by hand.
//!
//! tonic's codec keeps the buffer of the longest message of a stream, in either direction, as long as the stream lasts. Here the first
//! response, and the first request of a peer that comes back, are tens of megabytes, and the stream lasts for half an hour: a
//! thousand node proxies had the control plane keep 20 GB.

use std::{
    convert::Infallible,
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use ambit_api::envoy::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use bytes::Bytes;
use http_body::{Body as _, Frame};
use prost::{DecodeError, Message};
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    metadata::{GRPC_CONTENT_TYPE, MetadataMap},
    server::NamedService,
};

use super::{
    AdsServer, DeltaSession, SotwSession,
    ads::Authenticate,
    request::DeltaRequest,
    response::{DeltaResponse, Resources},
    stream::{Due, Responses, Session},
    turns::Turn,
};
use crate::Node;

const NAME: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

/// Bytes that are the same for others are copied up to here: a second part is a second frame.
const COPIED: usize = 8 << 10;

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
    let requests = Requests { body, buffered: Vec::new(), longest: server.config().max_request, message: PhantomData };
    let request = tonic::Request::from_parts(MetadataMap::from_headers(parts.headers), parts.extensions, requests);
    match server.open::<S>(request).await {
        Ok(responses) => {
            let mut response = http::Response::new(Body::new(Encoded { responses, rest: None, ended: false }));
            response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
            response
        }
        Err(refusal) => refusal.into_http(),
    }
}

/// A request of either variant of the protocol.
pub(super) trait Ask: Sized + Send + 'static {
    /// # Errors
    /// When it is none.
    fn decode(bytes: Bytes) -> Result<Self, DecodeError>;

    /// Who asks, where it is said, which is taken out.
    fn node(&mut self) -> Option<Node>;

    /// Whether a response is refused.
    fn refuses(&self) -> bool;
}

impl Ask for DiscoveryRequest {
    fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        Message::decode(bytes)
    }

    fn node(&mut self) -> Option<Node> {
        self.node.take()
    }

    fn refuses(&self) -> bool {
        self.error_detail.is_some()
    }
}

impl Ask for DeltaRequest {
    fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        Self::decode(bytes)
    }

    fn node(&mut self) -> Option<Node> {
        self.message.node.take()
    }

    fn refuses(&self) -> bool {
        self.message.error_detail.is_some()
    }
}

/// A response of either variant of the protocol.
pub(super) trait Answer: Send + 'static {
    /// Its bytes after [`room`] for what stands before it; those that are the same for others are by themselves.
    fn parts(self) -> (Vec<u8>, Option<Arc<Vec<u8>>>);
}

impl Answer for DiscoveryResponse {
    fn parts(self) -> (Vec<u8>, Option<Arc<Vec<u8>>>) {
        let mut bytes = room(self.encoded_len());
        self.encode_raw(&mut bytes);
        (bytes, None)
    }
}

impl Answer for DeltaResponse {
    fn parts(self) -> (Vec<u8>, Option<Arc<Vec<u8>>>) {
        match self.resources {
            Resources::Fields(fields) if fields.len() <= COPIED => {
                let mut bytes = room(self.head.encoded_len() + fields.len());
                self.head.put(&mut bytes);
                bytes.extend_from_slice(&fields);
                (bytes, None)
            }
            Resources::Fields(fields) => {
                let mut bytes = room(self.head.encoded_len());
                self.head.put(&mut bytes);
                (bytes, Some(fields))
            }
            Resources::Some(entries) => {
                let length = entries.iter().map(|entry| entry.encoded.field_len()).sum::<usize>();
                let mut bytes = room(self.head.encoded_len() + length);
                self.head.put(&mut bytes);
                entries.iter().for_each(|entry| entry.encoded.put_field(&mut bytes));
                (bytes, None)
            }
        }
    }
}

/// What a peer asks, message by message.
#[derive(Debug)]
pub(super) struct Requests<R> {
    body: Body,
    buffered: Vec<u8>,
    longest: usize,
    message: PhantomData<fn() -> R>,
}

impl<R: Ask> Requests<R> {
    /// The next request; `None` when the peer has no more. Nothing is lost when this is dropped before it is done.
    ///
    /// # Errors
    /// When it is compressed, too long or not one, or the connection broke.
    pub(super) async fn message(&mut self) -> Result<Option<R>, Status> {
        poll_fn(|context| self.poll_message(context)).await
    }

    /// As [`Self::message`].
    pub(super) fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<R>, Status>> {
        loop {
            if let Some(request) = cut(&mut self.buffered, self.longest)? {
                return Poll::Ready(Ok(Some(request)));
            }
            if !ready!(self.poll_read(context))? {
                return Poll::Ready(if self.buffered.is_empty() {
                    Ok(None)
                } else {
                    Err(Status::internal("the stream ended within a request"))
                });
            }
        }
    }

    /// Waits until something of the next request is there, or none will come.
    ///
    /// # Errors
    /// When the connection broke.
    pub(super) async fn begun(&mut self) -> Result<(), Status> {
        while self.buffered.is_empty() && poll_fn(|context| self.poll_read(context)).await? {}
        Ok(())
    }

    /// Reads on; false when there is no more.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<bool, Status>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context)).transpose()?;
        let more = frame.is_some();
        frame.and_then(|frame| frame.into_data().ok()).into_iter().for_each(|data| self.buffered.extend_from_slice(&data));
        Poll::Ready(Ok(more))
    }
}

/// Takes the first message out of `buffered`, if it is there whole.
fn cut<R: Ask>(buffered: &mut Vec<u8>, longest: usize) -> Result<Option<R>, Status> {
    let Some(([compressed, length @ ..], rest)) = buffered.split_first_chunk::<HEAD>() else { return Ok(None) };
    if *compressed != 0 {
        return Err(Status::unimplemented("compressed requests are not supported"));
    }
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > longest {
        return Err(Status::resource_exhausted(format!("a request of {length} bytes is longer than {longest}")));
    }
    if rest.len() < length {
        return Ok(None);
    }
    // What follows gets memory of its own, so that what one long request took is not kept.
    let rest = buffered.split_off(HEAD + length);
    let message = Bytes::from(std::mem::replace(buffered, rest)).slice(HEAD..);
    R::decode(message).map(Some).map_err(|error| Status::invalid_argument(format!("not a request: {error}")))
}

/// What a session says, each response in memory of its own.
struct Encoded<R> {
    responses: Responses<R>,
    /// The second part of the response that is under way.
    rest: Option<Bytes>,
    ended: bool,
}

impl<R: Answer> http_body::Body for Encoded<R> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(rest) = self.rest.take() {
            return Poll::Ready(Some(Ok(Frame::data(rest))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let end = match ready!(self.responses.as_mut().poll_next(context)).map(|due| due.and_then(sealed)) {
            Some(Ok((first, rest))) => {
                self.rest = rest;
                return Poll::Ready(Some(Ok(Frame::data(first))));
            }
            Some(Err(refusal)) => refusal,
            None => Status::ok(""),
        };
        self.ended = true;
        let mut trailers = http::HeaderMap::new();
        Poll::Ready(Some(end.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}

/// A part of a response, which may be shared with others, and its turn, which is over when the transport needs the bytes no more: it takes a
/// response whole before the peer has room for it, and asks for the next one.
struct Sealed<B> {
    bytes: B,
    _turn: Option<Turn>,
}

impl AsRef<[u8]> for Sealed<Vec<u8>> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Sealed<Arc<Vec<u8>>> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A response as it is on the wire, in one part or two.
fn sealed<R: Answer>(Due { response, turn }: Due<R>) -> Result<(Bytes, Option<Bytes>), Status> {
    let (first, rest) = response.parts();
    let first = framed(first, rest.as_ref().map_or(0, |rest| rest.len()))?;
    let rest = rest.map(|bytes| Bytes::from_owner(Sealed { bytes, _turn: turn.clone() }));
    let first = if turn.is_some() { Bytes::from_owner(Sealed { bytes: first, _turn: turn }) } else { first.into() };
    Ok((first, rest))
}

/// Memory for so many bytes of a message, after what will stand before it.
fn room(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + length);
    bytes.resize(HEAD, 0);
    bytes
}

/// Says in the [`room`] before a message how long it is, with a `rest` that follows.
fn framed(mut bytes: Vec<u8>, rest: usize) -> Result<Vec<u8>, Status> {
    let length = bytes.len().saturating_sub(HEAD) + rest;
    let told =
        u32::try_from(length).map_err(|_| Status::resource_exhausted(format!("a response of {length} bytes cannot be sent")))?;
    if let Some([_, head @ ..]) = bytes.first_chunk_mut::<HEAD>() {
        *head = told.to_be_bytes();
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(type_url: &str) -> DiscoveryRequest {
        DiscoveryRequest { type_url: type_url.to_owned(), ..DiscoveryRequest::default() }
    }

    #[test]
    fn requests_are_cut_wherever_they_are_torn_and_leave_nothing_behind() {
        let sent = |name: &str| {
            let request = request(name);
            let mut bytes = room(request.encoded_len());
            request.encode_raw(&mut bytes);
            framed(bytes, 0).unwrap()
        };
        let sent = [sent("a"), sent("b")].concat();
        let mut buffered = Vec::new();
        let mut cuts = Vec::new();
        for byte in sent {
            buffered.push(byte);
            cuts.extend(cut::<DiscoveryRequest>(&mut buffered, 100).unwrap());
        }
        assert_eq!(cuts, [request("a"), request("b")]);
        assert_eq!(buffered.capacity(), 0);
    }

    #[test]
    fn what_is_compressed_too_long_or_no_request_is_refused() {
        let refused = |bytes: &[u8]| cut::<DiscoveryRequest>(&mut bytes.to_vec(), 10).unwrap_err().code();
        assert_eq!(refused(&[1, 0, 0, 0, 0]), tonic::Code::Unimplemented);
        assert_eq!(refused(&[0, 0xff, 0xff, 0xff, 0xff]), tonic::Code::ResourceExhausted);
        assert_eq!(refused(&[0, 0, 0, 0, 11]), tonic::Code::ResourceExhausted);
        assert_eq!(refused(&[0, 0, 0, 0, 1, 0xff]), tonic::Code::InvalidArgument);
    }
}
