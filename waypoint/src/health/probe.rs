//! What an endpoint is asked, and what its answer says.

use std::pin::pin;

use ambit_model::balance::Found;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header, response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use crate::{
    compiled::{HealthCheck, Probe},
    proxy::Proxy,
    upstream::{Destination, Stream, open},
};

/// As much is kept of an answer, in bytes.
const KEPT: usize = 4 << 10;
/// What comes before a message of gRPC: whether it is compressed, and its length.
const PREFIX: usize = 5;
const GRPC_PATH: &str = "/grpc.health.v1.Health/Check";
/// What Envoy says.
const AGENT: &str = "Envoy/HC";
/// `SERVING` of `grpc.health.v1.HealthCheckResponse.ServingStatus`.
const SERVING: i32 = 1;

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, Message)]
struct Question {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, PartialEq, Message)]
struct Said {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// An answer, to its end.
struct Answer {
    head: response::Parts,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

type Failed = (Found, String);

fn silent(what: impl Into<String>) -> Failed {
    (Found::Silent, what.into())
}

/// Asks the endpoint at `to`. Without a limit of time but that of the connection.
///
/// # Errors
/// What was found instead of a good answer, in words too.
pub async fn ask(proxy: &Proxy, to: &Destination, check: &HealthCheck) -> Result<(), Failed> {
    let stream = open(proxy, to, HeaderMap::new(), check.timeout).await.map_err(|refusal| silent(refusal.to_string()))?;
    match &check.probe {
        Probe::Tcp => Ok(()),
        Probe::Http { host, path, http2, expected } => {
            let answer = exchange(stream, http(host, path, *http2)?, *http2).await?;
            let status = answer.head.status;
            match expected.iter().any(|range| range.contains(&i64::from(status.as_u16()))) {
                true => Ok(()),
                false => Err((Found::Ill, format!("it answers {path} with {status}"))),
            }
        }
        Probe::Grpc { authority, service } => said(&exchange(stream, grpc(authority, service)?, true).await?),
    }
}

fn http(host: &str, path: &str, http2: bool) -> Result<Request<Full<Bytes>>, Failed> {
    let mut request = Request::new(Full::default());
    address(&mut request, host, path, http2)?;
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
    Ok(request)
}

fn grpc(authority: &str, service: &str) -> Result<Request<Full<Bytes>>, Failed> {
    let message = Question { service: service.to_owned() }.encode_to_vec();
    let mut body = BytesMut::with_capacity(PREFIX + message.len());
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    body.extend_from_slice(&message);
    let mut request = Request::new(Full::new(body.freeze()));
    *request.method_mut() = Method::POST;
    address(&mut request, authority, GRPC_PATH, true)?;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
    Ok(request)
}

/// Whom a request is for, and for what, in the form of its version. A name that cannot be an authority goes into the header in both.
fn address(request: &mut Request<Full<Bytes>>, host: &str, path: &str, http2: bool) -> Result<(), Failed> {
    let unsendable = |what: &str| silent(format!("{what:?} cannot be sent"));
    let uri = Uri::builder().scheme("http").authority(host).path_and_query(path).build();
    *request.uri_mut() = match uri {
        Ok(uri) if http2 => uri,
        _ => path.parse().map_err(|_| unsendable(path))?,
    };
    if request.uri().authority().is_none() {
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(host).map_err(|_| unsendable(host))?);
    }
    Ok(())
}

/// Sends a request on a connection of its own.
async fn exchange(stream: Stream, request: Request<Full<Bytes>>, over_http2: bool) -> Result<Answer, Failed> {
    let io = TokioIo::new(stream);
    let broke = |error: hyper::Error| silent(in_words(&error));
    let answered = if over_http2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(broke)?;
        driven(connection, async move { read(sender.send_request(request).await?).await }).await
    } else {
        let (mut sender, connection) = http1::handshake(io).await.map_err(broke)?;
        driven(connection, async move { read(sender.send_request(request).await?).await }).await
    };
    answered.map_err(broke)
}

/// Waits for an answer while its connection goes on.
async fn driven(
    connection: impl Future<Output = hyper::Result<()>>,
    answer: impl Future<Output = hyper::Result<Answer>>,
) -> hyper::Result<Answer> {
    let mut connection = pin!(connection);
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // What has come of the answer before is still there.
        _ = &mut connection => answer.await,
    }
}

async fn read(response: Response<Incoming>) -> hyper::Result<Answer> {
    let (head, mut body) = response.into_parts();
    let (mut kept, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(part) => kept.extend_from_slice(part.get(..part.len().min(KEPT.saturating_sub(kept.len()))).unwrap_or_default()),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok(Answer { head, body: kept.freeze(), trailers })
}

/// What a server says of itself, or of the service that it was asked about.
fn said(answer: &Answer) -> Result<(), Failed> {
    if answer.head.status != StatusCode::OK {
        return Err((Found::Ill, format!("it answers a gRPC call with {}", answer.head.status)));
    }
    // An answer without a message has its status in its head.
    let end = answer.trailers.as_ref().unwrap_or(&answer.head.headers);
    match end.get("grpc-status").and_then(|status| status.to_str().ok()) {
        Some("0") => {}
        Some(status) => return Err((Found::Ill, format!("gRPC status {status}"))),
        None => return Err((Found::Ill, "its answer has no gRPC status".to_owned())),
    }
    let message = match answer.body.split_at_checked(PREFIX) {
        Some(([0, ..], message)) => Said::decode(message).ok(),
        _ => None,
    };
    match message {
        Some(Said { status: SERVING }) => Ok(()),
        Some(Said { status }) => Err((Found::Ill, format!("it is not serving (status {status})"))),
        None => Err((Found::Ill, "its answer cannot be read".to_owned())),
    }
}

fn in_words(error: &hyper::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, grpc: Option<&str>, body: &'static [u8]) -> Answer {
        let (head, ()) = Response::builder().status(status).body(()).unwrap().into_parts();
        let trailers = grpc.map(|status| HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]));
        Answer { head, body: Bytes::from_static(body), trailers }
    }

    #[test]
    fn only_a_server_that_says_it_serves_is_well() {
        assert_eq!(said(&answer(200, Some("0"), b"\0\0\0\0\x02\x08\x01")), Ok(()));
        for (answer, why) in [
            (answer(503, Some("0"), b"\0\0\0\0\x02\x08\x01"), "503"),
            (answer(200, Some("5"), b""), "gRPC status 5"),
            (answer(200, None, b"\0\0\0\0\x02\x08\x01"), "no gRPC status"),
            (answer(200, Some("0"), b"\0\0\0\0\x02\x08\x02"), "not serving (status 2)"),
            (answer(200, Some("0"), b"\0\0\0\0\0"), "not serving (status 0)"),
            (answer(200, Some("0"), b"\x01\0\0\0\0"), "cannot be read"),
            (answer(200, Some("0"), b""), "cannot be read"),
        ] {
            let (found, said) = said(&answer).unwrap_err();
            assert!(found == Found::Ill && said.contains(why), "{why}: {said}");
        }
    }

    #[test]
    fn a_request_names_the_host_as_its_version_does() {
        let one = http("a.example", "/b?c", false).map_err(|(_, why)| why).unwrap();
        assert_eq!((one.uri().to_string().as_str(), one.headers()[header::HOST].to_str().unwrap()), ("/b?c", "a.example"));
        let two = http("a.example", "/b?c", true).map_err(|(_, why)| why).unwrap();
        assert_eq!((two.uri().to_string().as_str(), two.headers().get(header::HOST)), ("http://a.example/b?c", None));
        // The name of a cluster.
        let odd = http("inbound-vip|80|http|a", "/", true).map_err(|(_, why)| why).unwrap();
        assert_eq!((odd.uri().path(), odd.headers()[header::HOST].to_str().unwrap()), ("/", "inbound-vip|80|http|a"));
    }
}
