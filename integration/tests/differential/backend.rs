//! The endpoints of all backends: one pod, whose node proxy is this process, and each of whose ports is a backend; and another like it, for
//! services with two endpoints. They answer as a request asks them to, and keep what they were sent.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ambit_hbone::{Incoming, ServerConfig, server};
use ambit_identity::SpiffeId;
use ambit_testbed::Pod;
use ambit_tls::Svid;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming as Body};
use hyper_util::rt::{TokioExecutor, TokioIo};

/// The ports that answer. The last one is that of the services which are called.
pub const PORTS: [u16; 5] = [8080, 8081, 8082, 8083, 8084];
/// The one among them that is sent copies of requests and nothing else.
pub const COPIES: u16 = PORTS[3];
/// The other pod's ports are known by so much more, where it is told which backend something came to.
pub const TWIN: u16 = 10_000;
/// A port that nobody listens on.
pub const CLOSED: u16 = 8090;

/// By which the tries of one request are known.
pub const ID: &str = "x-test-id";
/// The statuses of its tries, with commas; the last one is that of all further ones.
pub const STATUS: &str = "x-test-status";
/// In the place of a status: the connection ends, or the stream where there are several, and there is no answer.
pub const ENDS: &str = "ends";
/// How long each try takes, in milliseconds.
pub const DELAY: &str = "x-test-delay";
/// The header of answers that says the backend.
pub const BACKEND: &str = "x-backend";

/// That of all answers.
const DATE: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

/// A request that came to a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    pub port: u16,
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, Vec<String>>,
    pub length: usize,
}

/// What came, by the id of the request.
#[derive(Debug, Clone, Default)]
pub struct Arrivals(Arc<Mutex<HashMap<String, Vec<Arrival>>>>);

impl Arrivals {
    /// Waits until nothing comes any more (copies come when they come), and gives what came.
    pub async fn settled(&self) -> HashMap<String, Vec<Arrival>> {
        let mut before = usize::MAX;
        loop {
            let now = self.lock().values().map(Vec::len).sum();
            if now == before {
                return self.lock().clone();
            }
            before = now;
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<Arrival>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request, and how many with this id have come before.
    fn note(&self, id: String, arrival: Arrival) -> usize {
        let mut all = self.lock();
        let tries = all.entry(id).or_default();
        let before = tries.iter().filter(|earlier| earlier.port == arrival.port).count();
        tries.push(arrival);
        before
    }
}

/// Serves the pod for the waypoint with this identity; its ports are known by `more` than they are.
pub fn serve(pod: &Pod, svid: &Svid, waypoint: SpiffeId, more: u16, arrivals: &Arrivals) -> anyhow::Result<()> {
    let tls = ambit_tls::server_config(svid, &[])?;
    let listener = pod.listen(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], 15008)))?;
    let seen = arrivals.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, waypoint, seen) = (Arc::clone(&tls), waypoint.clone(), seen.clone());
            tokio::spawn(async move {
                let (stream, peer) = ambit_tls::handshake::accept(stream, tls, Duration::from_secs(5)).await?;
                let known = peer == waypoint;
                let handler = move |incoming| tunnel(incoming, known, more, seen.clone());
                server::serve(stream, &ServerConfig::default(), std::future::pending(), handler).await?;
                anyhow::Ok(())
            });
        }
    });
    Ok(())
}

/// The end of a tunnel.
async fn tunnel(incoming: Incoming, known: bool, more: u16, arrivals: Arrivals) {
    let port = incoming.authority().ok().map(ambit_hbone::Authority::port);
    let Some(port) = port.filter(|port| known && PORTS.contains(port)) else {
        let _gone = incoming.refuse(StatusCode::SERVICE_UNAVAILABLE, HeaderMap::new());
        return;
    };
    let Ok(tunnel) = incoming.accept(HeaderMap::new()) else { return };
    let service = hyper::service::service_fn(move |request| answer(request, port + more, arrivals.clone()));
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.http1().auto_date_header(false).max_buf_size(256 * 1024).http2().auto_date_header(false);
    let _ended = builder.serve_connection(TokioIo::new(tunnel), service).await;
}

async fn answer(mut request: Request<Body>, port: u16, arrivals: Arrivals) -> anyhow::Result<Response<Full<Bytes>>> {
    let length = request.body_mut().collect().await?.to_bytes().len();
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (id, statuses, delay) = (header(ID), header(STATUS), header(DELAY));
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in request.headers().iter().filter(|(name, _)| *name != ID) {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.entry(name.as_str().to_owned()).or_default().push(value);
    }
    if let Some(authority) = request.uri().authority() {
        headers.entry("host".to_owned()).or_default().push(authority.to_string());
    }
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let before = arrivals.note(id, Arrival { port, method: request.method().to_string(), path, headers, length });
    if let Ok(delay) = delay.parse() {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let statuses: Vec<&str> = statuses.split(',').collect();
    let scripted = statuses.get(before).or(statuses.last());
    // Of an error hyper makes the end of what the request came on.
    anyhow::ensure!(scripted != Some(&ENDS), "no answer was asked for");
    let status = scripted.and_then(|status| status.parse().ok()).unwrap_or(200_u16);
    let response =
        Response::builder().status(status).header(BACKEND, port.to_string()).header("server", "fixture").header("date", DATE);
    let response = response.header("x-remove-me", "1").header("set-cookie", "a=1").header("set-cookie", "b=2");
    // These have no body.
    let body = if [204, 304].contains(&status) || request.method() == http::Method::HEAD {
        String::new()
    } else {
        format!("{port} has it")
    };
    Ok(response.header("cache-control", "no-store").body(Full::new(Bytes::from(body)))?)
}
