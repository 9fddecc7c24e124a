//! A collector of spans: it keeps what is sent to `/v1/traces` and to `/api/v2/spans`, and tells it on `/taken`.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{Response, StatusCode, request::Parts};
use http_body_util::Full;
use serde_json::{Value, json};

static TAKEN: Mutex<Vec<Value>> = Mutex::new(Vec::new());

/// The answer to a request that is for a collector.
pub fn answer(head: &Parts, body: &Bytes) -> Option<Response<Full<Bytes>>> {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut response = Response::new(Full::default());
    match (head.method.as_str(), head.uri.path()) {
        ("POST", path @ ("/v1/traces" | "/api/v2/spans")) => {
            let hex: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
            taken.push(json!({ "path": path, "hex": hex, "text": String::from_utf8_lossy(body) }));
            if path == "/api/v2/spans" {
                *response.status_mut() = StatusCode::ACCEPTED;
            }
        }
        ("GET", "/taken") => *response.body_mut() = Full::from(Value::Array(taken.clone()).to_string()),
        _ => return None,
    }
    Some(response)
}
