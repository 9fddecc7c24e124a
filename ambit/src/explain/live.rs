//! The question to a running node proxy or waypoint, which answers by the decisions that it makes itself.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::Answer;
use crate::error::{Error, Result};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may be, bytes.
const MOST: usize = 16 << 20;

/// Explains a connection by asking the node proxy at `ztunnel`.
///
/// # Errors
/// When it is not reached, or does not know the pod or the host.
pub(super) async fn connection(ztunnel: &str, from: &str, to: &str) -> Result<Answer> {
    if from.chars().chain(to.chars()).any(|letter| !letter.is_ascii_graphic() || "&#%?".contains(letter)) {
        return Err(Error::Invalid("a name has a character that no name of the mesh has".to_owned()));
    }
    let read = explained("node proxy", ztunnel, &format!("/explain?from={from}&to={to}")).await?;
    match (read.get("explanation"), read.get("text").and_then(Value::as_str)) {
        (Some(explanation), Some(text)) => Ok(Answer { explanation: explanation.clone(), text: text.to_owned() }),
        _ => Err(Error::Call(format!("asking the node proxy at {ztunnel}: it answered, and not with an explanation"))),
    }
}

/// Explains a request by asking the waypoint at `waypoint`; `query` is what its page takes.
///
/// # Errors
/// When it is not reached, or there is no such request.
pub(super) async fn request(waypoint: &str, query: &[(&str, &str)]) -> Result<Value> {
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    let mut read = explained("waypoint", waypoint, &format!("/explain?{}", query.join("&"))).await?;
    match read.get_mut("explanation").map(Value::take) {
        Some(explanation) => Ok(explanation),
        None => Err(Error::Call(format!("asking the waypoint at {waypoint}: it answered, and not with an explanation"))),
    }
}

/// Percent-encoded (RFC 3986, section 2.1).
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// What the page at `path` of this proxy says.
async fn explained(whom: &str, url: &str, path: &str) -> Result<Value> {
    let failed = |why: String| Error::Call(format!("asking the {whom} at {url}: {why}"));
    let base: Uri = url.parse().map_err(|error| failed(format!("{error}")))?;
    let (Some("http"), Some(authority)) = (base.scheme_str(), base.authority()) else {
        return Err(failed("it is not of the form http://HOST:PORT".to_owned()));
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let ask = get(host, authority.port_u16().unwrap_or(80), path);
    let (status, body) = match tokio::time::timeout(PATIENCE, ask).await {
        Ok(answered) => answered.map_err(|error| failed(error.to_string()))?,
        Err(_) => return Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))),
    };
    let read: Value = serde_json::from_slice(&body).map_err(|_| failed(format!("it answered {status}, and not with JSON")))?;
    if let Some(error) = read.get("error").and_then(Value::as_str) {
        return Err(Error::Invalid(error.to_owned()));
    }
    if status == StatusCode::OK { Ok(read) } else { Err(failed(format!("it answered {status}, and not with an explanation"))) }
}

/// Why nothing was answered.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A page of an admin or monitoring server.
pub(crate) async fn get(host: &str, port: u16, path: &str) -> std::result::Result<(StatusCode, Bytes), Cause> {
    let stream = TcpStream::connect((host, port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header(hyper::header::HOST, "localhost").body(Empty::<Bytes>::new())?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        Ok::<_, Cause>((status, Limited::new(answer.into_body(), MOST).collect().await?.to_bytes()))
    };
    tokio::pin!(connection, exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.into()),
        },
    }
}
