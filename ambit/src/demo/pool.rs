//! Keep-alive HTTP/1.1 connections to one program, renewed every few seconds as any cautious client does.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio_util::task::AbortOnDropHandle;

use super::dial::Dialer;
use crate::error::{Error, Result};

/// Age after which a connection is not used again.
const MAX_AGE: Duration = Duration::from_secs(3);

/// Connections kept while idle.
const MAX_IDLE: usize = 16;

/// Patience for a whole request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    born: Instant,
    _driver: AbortOnDropHandle<()>,
}

/// The connections to one program.
pub struct Pool {
    dialer: Dialer,
    authority: String,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    /// No connections yet to `host:port`.
    pub fn new(host: &str, port: u16) -> Self {
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Self { dialer: Dialer::new(host, port), authority, idle: Mutex::default() }
    }

    /// The `host:port` of requests.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// If there is no connection or no complete answer within five seconds.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>> {
        match tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Call("no answer within 5 s".into())),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>> {
        let mut connection = match self.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let answer = connection.sender.send_request(request).await;
        let (parts, body) = answer.map_err(|error| Error::Call(describe(&error)))?.into_parts();
        let body = body.collect().await.map_err(|error| Error::Call(describe(&error)))?.to_bytes();
        self.put(connection);
        Ok(Response::from_parts(parts, body))
    }

    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| connection.born.elapsed() < MAX_AGE && !connection.sender.is_closed());
        // One whose last exchange is not quite over is left for later.
        let ready = idle.iter().rposition(|connection| connection.sender.is_ready())?;
        Some(idle.swap_remove(ready))
    }

    fn put(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    async fn connect(&self) -> Result<Connection> {
        let stream = self.dialer.dial().await.map_err(|cause| Error::io("connecting", cause))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, driver) = handshake.map_err(|error| Error::Call(describe(&error)))?;
        let driver = tokio::spawn(async move {
            // Its failure is the failure of the request in flight, which reports it.
            let _reported = driver.await;
        });
        Ok(Connection { sender, born: Instant::now(), _driver: AbortOnDropHandle::new(driver) })
    }
}

/// The error with its causes on one line.
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
