//! What an admin page answers.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

/// Status, content type and body of an answer.
#[derive(Clone, Debug)]
pub struct Reply {
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
}

impl Reply {
    /// Plain text with status 200.
    pub fn text(body: impl Into<String>) -> Self {
        Self { status: StatusCode::OK, content_type: "text/plain; charset=utf-8", body: Bytes::from(body.into()) }
    }

    /// Pretty-printed JSON with status 200; 500 with the reason if the value cannot be written as JSON.
    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec_pretty(value) {
            Ok(body) => Self { status: StatusCode::OK, content_type: "application/json", body: Bytes::from(body) },
            Err(error) => Self::text(format!("cannot write this as JSON: {error}\n")).status(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    /// JSON that is written already, with status 200.
    pub fn json_text(body: Vec<u8>) -> Self {
        Self { status: StatusCode::OK, content_type: "application/json", body: Bytes::from(body) }
    }

    /// Anything else with status 200, for a program to save.
    pub fn bytes(body: Vec<u8>) -> Self {
        Self { status: StatusCode::OK, content_type: "application/octet-stream", body: Bytes::from(body) }
    }

    /// Prometheus text exposition format, version 0.0.4.
    pub fn prometheus(body: String) -> Self {
        Self { status: StatusCode::OK, content_type: "text/plain; version=0.0.4; charset=utf-8", body: Bytes::from(body) }
    }

    /// The same with another status.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        response
    }
}
