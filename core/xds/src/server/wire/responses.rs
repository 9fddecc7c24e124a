//! What a session says, as it goes on the wire.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use ambit_api::envoy::pb::envoy::service::discovery::v3::DiscoveryResponse;
use bytes::Bytes;
use http_body::Frame;
use prost::Message;
use tonic::{Status, codegen::http};

use super::HEAD;
use crate::server::{
    response::{DeltaResponse, Resources},
    stream::{Due, Responses},
    turns::Turn,
};

/// Bytes that are the same for others are copied up to here: a second part is a second frame.
const COPIED: usize = 8 << 10;

/// A response of either variant of the protocol.
pub(in crate::server) trait Answer: Send + 'static {
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

/// What a session says, each response in memory of its own.
pub(super) struct Encoded<R> {
    responses: Responses<R>,
    /// The second part of the response that is under way.
    rest: Option<Bytes>,
    ended: bool,
}

impl<R> Encoded<R> {
    pub(super) fn new(responses: Responses<R>) -> Self {
        Self { responses, rest: None, ended: false }
    }
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
pub(super) fn room(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + length);
    bytes.resize(HEAD, 0);
    bytes
}

/// Says in the [`room`] before a message how long it is, with a `rest` that follows.
pub(super) fn framed(mut bytes: Vec<u8>, rest: usize) -> Result<Vec<u8>, Status> {
    let length = bytes.len().saturating_sub(HEAD) + rest;
    let told =
        u32::try_from(length).map_err(|_| Status::resource_exhausted(format!("a response of {length} bytes cannot be sent")))?;
    if let Some([_, head @ ..]) = bytes.first_chunk_mut::<HEAD>() {
        *head = told.to_be_bytes();
    }
    Ok(bytes)
}
