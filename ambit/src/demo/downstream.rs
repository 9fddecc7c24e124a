//! Calling another program over HTTP, with every request counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, StatusCode};

use super::pool::Pool;
use super::stats::{Edge, Registry};
use super::{MARKER, MARKER_HEADER, VERSION_HEADER};
use crate::demo::config::DownstreamArg;
use crate::error::{Error, Result};

/// How long a program waits at its start for those it calls before it begins anyway.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// Pause between two looks whether a downstream has come up.
const START_RETRY: Duration = Duration::from_millis(40);

/// An answer with its whole body.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// Body as text.
    pub body: String,
}

/// A program called over HTTP.
#[derive(Clone)]
pub struct Downstream {
    pool: Arc<Pool>,
    edge: Arc<Edge>,
}

impl Downstream {
    /// A caller of the program at `to`, counted in `registry`.
    pub fn new(to: &DownstreamArg, registry: &Registry) -> Self {
        let edge = registry.edge(&to.host, to.port, "http");
        Self { pool: Arc::new(Pool::new(&to.host, to.port)), edge }
    }

    /// Sends a request and counts it; any status below 400, and 404, is an answer.
    ///
    /// # Errors
    /// If there is no answer, or an answer that says that the request was refused or failed.
    pub async fn call(&self, method: Method, path: &str, body: String) -> Result<Answer> {
        let start = Instant::now();
        let request = self.request(method, path, body)?;
        let outcome = self.pool.send(request).await.and_then(|answer| {
            let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let status = answer.status();
            if status.as_u16() >= 400 && status != StatusCode::NOT_FOUND {
                let reason = header("x-ambit-reason").map(|reason| format!(" ({reason})")).unwrap_or_default();
                return Err(Error::Call(format!("{status}{reason}")));
            }
            // A 404 that no demonstration program wrote comes from something in between.
            let version = header(VERSION_HEADER).ok_or_else(|| Error::Call(format!("{status} from something unknown")))?;
            let body = String::from_utf8_lossy(answer.body()).into_owned();
            Ok((version, Answer { status, body }))
        });
        match outcome {
            Ok((version, answer)) => {
                self.edge.record(start.elapsed(), Ok(&version));
                Ok(answer)
            }
            Err(error) => {
                self.edge.record(start.elapsed(), Err(error.to_string()));
                Err(error)
            }
        }
    }

    /// Waits until the program and all that it calls have started; gives up after a while, for it may be refused for good.
    pub async fn wait_started(&self) {
        wait(|| async {
            let Ok(request) = self.request(Method::GET, "/readyz", String::new()) else { return false };
            self.pool.send(request).await.is_ok_and(|answer| answer.status() == StatusCode::OK)
        })
        .await;
    }

    fn request(&self, method: Method, path: &str, body: String) -> Result<Request<Full<Bytes>>> {
        let request = Request::builder().method(method).uri(path).header(hyper::header::HOST, self.pool.authority());
        let request = request.header(MARKER_HEADER, MARKER).header(hyper::header::USER_AGENT, "ambit-demo");
        request.body(Full::from(body)).map_err(|error| Error::Call(error.to_string()))
    }
}

/// Repeats `probe` until it says yes or the patience for a start runs out.
pub async fn wait<P, F>(probe: P)
where
    P: Fn() -> F,
    F: Future<Output = bool>,
{
    let until_yes = async {
        while !probe().await {
            tokio::time::sleep(START_RETRY).await;
        }
    };
    let _gave_up = tokio::time::timeout(START_PATIENCE, until_yes).await;
}
