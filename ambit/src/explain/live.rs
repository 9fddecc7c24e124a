//! The question to a running node proxy, which answers by the decisions that it makes itself.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::Answer;
use super::args::ConnectionArgs;
use crate::error::{Error, Result};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may be, bytes.
const MOST: usize = 16 << 20;

/// Answers by asking the proxy.
///
/// # Errors
/// When it is not reached, or does not know the pod or the host.
pub(super) async fn answer(args: &ConnectionArgs) -> Result<Answer> {
    let failed = |why: String| Error::Call(format!("asking the node proxy at {}: {why}", args.ztunnel));
    let base: Uri = args.ztunnel.parse().map_err(|error| failed(format!("{error}")))?;
    let (Some("http"), Some(authority)) = (base.scheme_str(), base.authority()) else {
        return Err(failed("it is not of the form http://HOST:PORT".to_owned()));
    };
    if args.from.chars().chain(args.to.chars()).any(|letter| !letter.is_ascii_graphic() || "&#%?".contains(letter)) {
        return Err(Error::Invalid("a name has a character that no name of the mesh has".to_owned()));
    }
    let path = format!("/explain?from={}&to={}", args.from, args.to);
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let ask = get(host, authority.port_u16().unwrap_or(80), &path);
    let (status, body) = match tokio::time::timeout(PATIENCE, ask).await {
        Ok(answered) => answered.map_err(|error| failed(error.to_string()))?,
        Err(_) => return Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))),
    };
    let read: Value = serde_json::from_slice(&body).map_err(|_| failed(format!("it answered {status}, and not with JSON")))?;
    if let Some(error) = read.get("error").and_then(Value::as_str) {
        return Err(Error::Invalid(error.to_owned()));
    }
    match (status, read.get("explanation"), read.get("text").and_then(Value::as_str)) {
        (StatusCode::OK, Some(explanation), Some(text)) => Ok(Answer { explanation: explanation.clone(), text: text.to_owned() }),
        _ => Err(failed(format!("it answered {status}, and not with an explanation"))),
    }
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
