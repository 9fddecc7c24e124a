//! Asking by gRPC: one message each way, without compression (the gRPC documentation, "gRPC over HTTP2"). Calls in which more are said are in
//! `http::callout`.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use prost::Message;

use super::{Answer, Question};

/// What comes before a message: whether it is compressed, and its length.
pub const PREFIX: usize = 5;

/// The request that calls the method at `path` with a message.
pub fn question(message: &impl Message, path: &str, authority: &str) -> Question {
    Question { head: head(), path: path.to_owned(), authority: authority.to_owned(), body: framed(message) }
}

/// A message as it goes over the wire.
pub fn framed(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    // Bodies and headers of requests have limits far below.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(&message);
    framed.freeze()
}

/// The head of a call, without where it goes.
pub fn head() -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = Method::POST;
    let headers = head.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    head
}

/// The message of an answer.
///
/// # Errors
/// Why it has none.
pub fn message<M: Message + Default>(Answer { head, body, trailers }: &Answer) -> Result<M, String> {
    if head.status != StatusCode::OK {
        return Err(format!("it answers a call with {}", head.status));
    }
    // An answer without a message has its status in its head.
    let end = trailers.as_ref().unwrap_or(&head.headers);
    match text(end, "grpc-status").and_then(|status| status.parse::<u32>().ok()) {
        Some(0) => {}
        Some(status) => return Err(format!("gRPC status {status}: {}", text(end, "grpc-message").unwrap_or_default())),
        None => return Err("its answer has no gRPC status".into()),
    }
    let (prefix, message) = body.split_at_checked(PREFIX).ok_or("its answer has no message")?;
    let &[0, a, b, c, d] = prefix else { return Err("its answer is compressed".into()) };
    if u32::from_be_bytes([a, b, c, d]) as usize != message.len() {
        return Err("its answer is other than one message".into());
    }
    M::decode(message).map_err(|error| format!("its answer cannot be read: {error}"))
}

/// A header that is text.
pub fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use ambit_api::envoy::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};

    use super::*;

    fn message(answer: &Answer) -> Result<CheckResponse, String> {
        super::message(answer)
    }

    fn answer(status: u16, grpc: &str, in_head: bool, body: &'static [u8]) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", grpc.parse().unwrap());
        let (mut head, ()) = http::Response::builder().status(status).body(()).unwrap().into_parts();
        let trailers = match in_head {
            true => {
                head.headers = headers;
                None
            }
            false => Some(headers),
        };
        Answer { head, body: Bytes::from_static(body), trailers }
    }

    #[test]
    fn only_one_whole_message_with_a_good_status_is_an_answer() {
        assert!(message(&answer(200, "0", false, b"\0\0\0\0\0")).is_ok());
        for (answer, why) in [
            (answer(503, "0", false, b"\0\0\0\0\0"), "503"),
            (answer(200, "14", false, b"\0\0\0\0\0"), "gRPC status 14"),
            (answer(200, "12", true, b""), "gRPC status 12"),
            (answer(200, "x", false, b"\0\0\0\0\0"), "no gRPC status"),
            (answer(200, "0", true, b""), "no message"),
            (answer(200, "0", false, b"\x01\0\0\0\0"), "compressed"),
            (answer(200, "0", false, b"\0\0\0\0\x02a"), "other than one message"),
            (answer(200, "0", false, b"\0\0\0\0\0\0\0\0\0\0"), "other than one message"),
            (answer(200, "0", false, b"\0\0\0\0\x01\xff"), "cannot be read"),
        ] {
            let said = message(&answer).unwrap_err();
            assert!(said.contains(why), "{why}: {said}");
        }
    }

    #[test]
    fn a_question_is_one_message_with_its_length() {
        let asked = question(&CheckRequest::default(), "/a.B/C", "a.example");
        assert_eq!((asked.path.as_str(), asked.body.as_ref()), ("/a.B/C", &b"\0\0\0\0\0"[..]));
        assert_eq!(asked.head.headers()[header::CONTENT_TYPE], "application/grpc");
    }
}
