//! A gRPC call to a cluster in which messages go both ways, without compression (the gRPC documentation, "gRPC over HTTP2").

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::{
    compiled::Snapshot,
    http::{
        call::{
            attempt,
            grpc::{self, PREFIX},
        },
        forward::head,
        headers,
    },
    proxy::Proxy,
    terminate::Tunnel,
    upstream::{Lease, RequestBody, Sent, candidates},
};

/// Where a call goes.
#[derive(Clone, Copy)]
pub struct Callee<'a> {
    /// The shared state.
    pub proxy: &'a Proxy,
    /// The configuration.
    pub snapshot: &'a Snapshot,
    /// The tunnel that the client came through.
    pub tunnel: &'a Tunnel,
    /// The cluster.
    pub cluster: &'a str,
    /// The host asked for.
    pub authority: &'a str,
    /// The method, as a path.
    pub path: &'static str,
    /// The longest message that is taken, in bytes.
    pub longest: usize,
}

/// A call that is under way. Dropped, it ends.
pub struct Stream {
    messages: mpsc::Sender<Bytes>,
    inner: Received<Incoming>,
    /// The place on its connection.
    _lease: Lease,
}

/// What comes back, of which a part may have been read.
struct Received<B> {
    body: B,
    read: BytesMut,
    longest: usize,
    /// The headers, which have the status where no message comes.
    head: HeaderMap,
}

impl Callee<'_> {
    /// Begins a call with its first message, and waits for the head of its answer.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn begin(&self, first: Bytes) -> Result<Stream, String> {
        let Self { proxy, snapshot, tunnel, cluster, authority, path, longest } = *self;
        let cluster = snapshot.clusters.get(cluster).ok_or("there is no such cluster")?;
        let candidates = candidates(cluster, tunnel.destination, None).map_err(|refusal| refusal.to_string())?;
        if !candidates.protocol.is_http2(Version::HTTP_2) {
            return Err("its cluster does not speak HTTP/2".into());
        }
        let head = question(path, authority).map_err(|error| error.to_string())?;
        let request = || {
            let (messages, body) = mpsc::channel(1);
            // There is room for one.
            let _ = messages.try_send(first.clone());
            (self::head(&head).map(|()| RequestBody::fed(body)), messages)
        };
        let (sent, messages) = attempt(proxy, &candidates, true, false, request).await?;
        Stream::of(messages, sent, longest)
    }
}

fn question(path: &str, authority: &str) -> Result<Request<()>, http::Error> {
    let mut head = grpc::head();
    headers::target(&mut head, path, authority, true)?;
    Ok(head)
}

impl Stream {
    fn of(messages: mpsc::Sender<Bytes>, Sent { response, lease }: Sent, longest: usize) -> Result<Self, String> {
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(format!("it answers a call with {}", head.status));
        }
        let inner = Received { body, read: BytesMut::new(), longest, head: head.headers };
        Ok(Self { messages, inner, _lease: lease })
    }

    /// Where further messages are said, one after the other. Where nobody reads them any more, what comes back says why.
    pub fn messages(&self) -> mpsc::Sender<Bytes> {
        self.messages.clone()
    }

    /// The next message; `None` when the other side has ended the call with a good status.
    ///
    /// # Errors
    /// When there is none, nor will be.
    pub async fn hear(&mut self) -> Result<Option<Bytes>, String> {
        self.inner.next().await
    }
}

impl<B> Received<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(message) = self.taken()? {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else {
                let head = std::mem::take(&mut self.head);
                return self.ended(&head);
            };
            match frame.map_err(|error| format!("its stream broke off: {error}"))?.into_data() {
                Ok(data) => self.read.extend_from_slice(&data),
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => return self.ended(&trailers),
                    Err(_) => continue,
                },
            }
        }
    }

    /// A message that has come whole.
    fn taken(&mut self) -> Result<Option<Bytes>, String> {
        let Some(&[compressed, a, b, c, d]) = self.read.first_chunk::<PREFIX>() else { return Ok(None) };
        if compressed != 0 {
            return Err("its answer is compressed".into());
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.longest {
            return Err(format!("its answer has more than {} bytes", self.longest));
        }
        if self.read.len() < PREFIX + length {
            return Ok(None);
        }
        self.read.advance(PREFIX);
        Ok(Some(self.read.split_to(length).freeze()))
    }

    /// What the end says.
    fn ended(&self, end: &HeaderMap) -> Result<Option<Bytes>, String> {
        match grpc::text(end, "grpc-status").and_then(|status| status.parse::<u32>().ok()) {
            Some(0) if self.read.is_empty() => Ok(None),
            Some(0) => Err("its answer ends within a message".into()),
            Some(status) => Err(format!("gRPC status {status}: {}", grpc::text(end, "grpc-message").unwrap_or_default())),
            None => Err("its stream has ended without a gRPC status".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::HeaderValue;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    type Part = Result<Frame<Bytes>, Infallible>;

    fn data(bytes: &'static [u8]) -> Part {
        Ok(Frame::data(Bytes::from_static(bytes)))
    }

    fn end(status: &'static str) -> Part {
        Ok(Frame::trailers(
            [(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static(status))].into_iter().collect(),
        ))
    }

    /// All that comes, in words.
    async fn heard(parts: Vec<Part>) -> Vec<String> {
        let body = StreamBody::new(futures::stream::iter(parts));
        let mut received = Received { body, read: BytesMut::new(), longest: 4, head: HeaderMap::new() };
        let mut heard = Vec::new();
        loop {
            match received.next().await {
                Ok(Some(message)) => heard.push(String::from_utf8_lossy(&message).into_owned()),
                Ok(None) => heard.push("end".into()),
                Err(error) => heard.push(error),
            }
            if heard.last().is_some_and(|last| last.len() != 2) {
                return heard;
            }
        }
    }

    #[tokio::test]
    async fn messages_are_read_however_they_come_and_what_is_none_ends_them() {
        let two = vec![data(b"\0\0\0\0\x02a"), data(b"b\0\0\0\0\x02cd\0"), data(b"\0\0\0\x02ef"), end("0")];
        assert_eq!(heard(two).await, ["ab", "cd", "ef", "end"]);
        for (parts, why) in [
            (vec![data(b"\x01\0\0\0\x02ab")], "its answer is compressed"),
            (vec![data(b"\0\0\0\0\x05abcde")], "its answer has more than 4 bytes"),
            (vec![data(b"\0\0\0\0\x02a"), end("0")], "its answer ends within a message"),
            (vec![end("14")], "gRPC status 14: "),
            (vec![], "its stream has ended without a gRPC status"),
        ] {
            assert_eq!(heard(parts).await, [why]);
        }
    }
}
