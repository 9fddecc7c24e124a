//! What a processor is told, and what it says of bodies, as messages have it.

use ambit_api::envoy::pb::envoy::{
    config::core::v3::{HeaderMap as PbHeaders, HeaderValue as PbHeader},
    service::ext_proc::v3::{BodyMutation, HttpBody, HttpHeaders, body_mutation::Mutation},
};
use bytes::Bytes;
use http::HeaderMap;

/// Headers, after these pseudo headers.
pub fn headers(pseudo: &[(&str, &str)], headers: &HeaderMap, end_of_stream: bool) -> HttpHeaders {
    HttpHeaders { headers: Some(fields(pseudo, headers)), end_of_stream, ..Default::default() }
}

/// Headers or trailers, after these pseudo headers.
pub fn fields(pseudo: &[(&str, &str)], headers: &HeaderMap) -> PbHeaders {
    let header = |key: &str, value: &[u8]| PbHeader { key: key.to_owned(), raw_value: value.to_vec(), ..Default::default() };
    let pseudo = pseudo.iter().map(|(name, value)| header(name, value.as_bytes()));
    // The host is among them.
    let fields = headers.iter().filter(|(name, _)| **name != http::header::HOST);
    PbHeaders { headers: pseudo.chain(fields.map(|(name, value)| header(name.as_str(), value.as_bytes()))).collect() }
}

/// A whole body; whether trailers follow is said by what is told as the end.
pub fn body(data: &[u8], end_of_stream: bool) -> HttpBody {
    HttpBody { body: data.to_vec(), end_of_stream, ..Default::default() }
}

/// The body in the place of another, if there is to be one.
///
/// # Errors
/// When it is said in a way that goes with other modes.
pub fn replaced(mutation: Option<BodyMutation>) -> Result<Option<Bytes>, String> {
    match mutation.and_then(|mutation| mutation.mutation) {
        Some(Mutation::Body(body)) => Ok(Some(body.into())),
        Some(Mutation::ClearBody(true)) => Ok(Some(Bytes::new())),
        Some(Mutation::ClearBody(false)) | None => Ok(None),
        Some(Mutation::StreamedResponse(_)) => Err("it streams a body that is told whole, or in pieces".into()),
    }
}
