//! What a peer asks, as it comes on the wire.

use std::{
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use ambit_api::envoy::pb::envoy::service::discovery::v3::DiscoveryRequest;
use bytes::Bytes;
use http_body::Body as _;
use prost::{DecodeError, Message};
use tonic::{Status, body::Body};

use super::HEAD;
use crate::{Node, server::request::DeltaRequest};

/// A request of either variant of the protocol.
pub(in crate::server) trait Ask: Sized + Send + 'static {
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

/// What a peer asks, message by message.
#[derive(Debug)]
pub(in crate::server) struct Requests<R> {
    body: Body,
    buffered: Vec<u8>,
    longest: usize,
    message: PhantomData<fn() -> R>,
}

impl<R: Ask> Requests<R> {
    /// The requests in `body`, of which none may be longer than this.
    pub(super) fn new(body: Body, longest: usize) -> Self {
        Self { body, buffered: Vec::new(), longest, message: PhantomData }
    }

    /// The next request; `None` when the peer has no more. Nothing is lost when this is dropped before it is done.
    ///
    /// # Errors
    /// When it is compressed, too long or not one, or the connection broke.
    pub(in crate::server) async fn message(&mut self) -> Result<Option<R>, Status> {
        poll_fn(|context| self.poll_message(context)).await
    }

    /// As [`Self::message`].
    pub(in crate::server) fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<R>, Status>> {
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
    pub(in crate::server) async fn begun(&mut self) -> Result<(), Status> {
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

#[cfg(test)]
mod tests {
    use super::super::responses::{framed, room};
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
