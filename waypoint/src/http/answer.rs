//! Answers the waypoint gives itself. gRPC clients get them as a gRPC status, as Envoy gives its local replies.

use ambit_model::{Reason, Refusal};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::ResponseBody;
use crate::observe::Record;

/// The longest text that gRPC clients are told, in bytes, which is a header to them: one that is longer than their limit has them get nothing.
const LONGEST_MESSAGE: usize = 4096;

/// What an answer depends on besides its status.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// The request is a gRPC call.
    pub grpc: bool,
}

/// A refusal: `status`, its reason and policy in headers, and a short text.
pub fn refused(record: &mut Record, style: Style, status: StatusCode, refusal: &Refusal) -> Response<ResponseBody> {
    record.refused(refusal);
    let text = match refusal.reason {
        // Envoy's words, which clients know.
        reason if reason.is_policy() && status == StatusCode::FORBIDDEN => "RBAC: access denied".to_owned(),
        Reason::TokenInvalid => refusal.detail.clone(),
        // Of what is not passed on it says what that is: an upgrade, or CONNECT.
        Reason::RequestInvalid if status == StatusCode::FORBIDDEN => refusal.detail.clone(),
        reason => reason.sentence().trim().trim_end_matches('.').to_lowercase(),
    };
    plain(record, style, status, text, crate::terminate::reason_headers(refusal))
}

/// An answer of `status` with a text.
pub fn plain(
    record: &mut Record,
    style: Style,
    status: StatusCode,
    text: impl Into<Bytes>,
    headers: HeaderMap,
) -> Response<ResponseBody> {
    let text: Bytes = text.into();
    record.received = if style.grpc { 0 } else { text.len() as u64 };
    record.status = Some(if style.grpc { 200 } else { status.as_u16() });
    let response = unrecorded(style, status, text, headers);
    record.answered(response.headers());
    response
}

/// The same of which nothing is recorded.
pub fn unrecorded(style: Style, status: StatusCode, text: Bytes, headers: HeaderMap) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::local(Bytes::new()));
    *response.headers_mut() = headers;
    if style.grpc {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(grpc_status(status)));
        // Bytes that are no text are no message.
        let message = std::str::from_utf8(&text).ok().and_then(|text| text.get(..text.len().min(LONGEST_MESSAGE)));
        if let Some(message) = message.and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert("grpc-message", message);
        }
        return response;
    }
    *response.status_mut() = status;
    if !text.is_empty() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        *response.body_mut() = ResponseBody::local(text);
    }
    response
}

/// Has a route make its changes of an answer of ours. What these say of its type goes before what we do, but a call's is what it is, and what
/// has no body has none (so does Envoy).
pub fn changed(headers: &mut HeaderMap, changes: impl FnOnce(&mut HeaderMap)) {
    let own = headers.remove(header::CONTENT_TYPE);
    changes(headers);
    match own {
        None => drop(headers.remove(header::CONTENT_TYPE)),
        Some(own) if own == "application/grpc" || !headers.contains_key(header::CONTENT_TYPE) => {
            headers.insert(header::CONTENT_TYPE, own);
        }
        Some(_) => {}
    }
}

/// The status of an answer as an endpoint is judged by it: for an answer to a gRPC call that consists of its status, the one that goes with
/// that (so does Envoy).
pub fn status<B>(response: &Response<B>) -> u16 {
    let grpc = response.headers().get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
    grpc.map_or(response.status().as_u16(), http_status)
}

/// The HTTP status for a gRPC status, the reverse of the mapping below (`google.rpc.Code`).
fn http_status(grpc: u16) -> u16 {
    match grpc {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// The gRPC status for an HTTP status ("HTTP to gRPC Status Code Mapping" of the gRPC documentation).
pub fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_says_the_type_of_a_text_but_not_that_of_a_call_or_of_nothing() {
        for (own, made, expected) in [
            (Some("text/plain"), Some("text/html"), Some("text/html")),
            (Some("text/plain"), None, Some("text/plain")),
            (Some("application/grpc"), Some("text/html"), Some("application/grpc")),
            (Some("application/grpc"), None, Some("application/grpc")),
            (None, Some("text/html"), None),
        ] {
            let mut headers: HeaderMap =
                own.map(|own| (header::CONTENT_TYPE, HeaderValue::from_static(own))).into_iter().collect();
            changed(&mut headers, |headers| match made {
                Some(made) => drop(headers.append(header::CONTENT_TYPE, HeaderValue::from_static(made))),
                None => drop(headers.remove(header::CONTENT_TYPE)),
            });
            let found: Vec<_> = headers.get_all(header::CONTENT_TYPE).iter().collect();
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{own:?} {made:?}");
        }
    }
}
