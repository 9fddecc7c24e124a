//! The admin server: readiness, metrics, and debug pages of a program over HTTP/1.1.
//!
//! ```no_run
//! # async fn example(listener: tokio::net::TcpListener, metrics: ambit_runtime::telemetry::Metrics,
//! #   readiness: ambit_runtime::readiness::Readiness, drain: ambit_runtime::drain::Watch) {
//! use ambit_runtime::admin::{Reply, Server};
//! Server::new()
//!     .with_readiness(readiness)
//!     .with_metrics(metrics)
//!     .get("/config_dump", |_query| Reply::json(&["state"]))
//!     .run(listener, drain)
//!     .await;
//! # }
//! ```

mod reply;
mod serve;

pub use reply::Reply;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use http::{Method, StatusCode};

use crate::profile;
use crate::readiness::Readiness;
use crate::telemetry::{Metrics, change_log_filter, log_filter};

/// The query string of a request, decoded as far as `name=value` pairs separated by `&` (no percent-decoding).
#[derive(Clone, Debug, Default)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    fn parse(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (k.into(), v.into())).collect())
    }

    /// The value of a parameter; empty if it was given without one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether a parameter is there, with a value or without, that does not say no.
    pub fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value, "false" | "0"))
    }

    /// What a log is to be changed by: `level` as it is, and what Envoy's page takes, `paths=PART:LEVEL,...` and `PART=LEVEL`.
    fn levels(&self) -> String {
        let level = |text: &str| text.replace("warning", "warn").replace("critical", "error");
        let mut changes = Vec::new();
        for (name, value) in self.0.iter().filter(|(name, value)| *name != "reset" && !value.is_empty()) {
            match name.as_str() {
                // What is said of everything comes before what is said of parts.
                "level" => changes.insert(0, level(value)),
                "paths" => {
                    for part in decoded(value).unwrap_or_default().split(',') {
                        match part.strip_prefix("*:") {
                            Some(all) => changes.insert(0, level(all)),
                            None => changes.push(level(part)),
                        }
                    }
                }
                part => changes.push(format!("{}={}", decoded(part).unwrap_or_default(), level(value))),
            }
        }
        changes.join(",")
    }
}

/// Undoes percent-encoding (RFC 3986, section 2.1); `None` if it is none of UTF-8 text.
pub fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |letter: &u8| char::from(*letter).to_digit(16);
                bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
                after
            }
            (b'%', _) => return None,
            (letter, after) => {
                bytes.push(*letter);
                after
            }
        };
    }
    String::from_utf8(bytes).ok()
}

/// What is said to a change of the log that cannot be made.
const LOGGING: &str = "\
POST /logging                            what is logged now
POST /logging?level=LEVEL                log everything from this level on: off, error, warn, info, debug, trace
POST /logging?level=PART=LEVEL,PART=...  log these parts from these levels on, as ztunnel::outbound=debug
POST /logging?PART=LEVEL                 the same for one part, as Envoy's page takes it; so is paths=PART:LEVEL,...
POST /logging?reset                      log what was logged at the start
";

/// What answers a request: at once, or after a while.
#[derive(Clone)]
enum Handler {
    Now(Arc<dyn Fn(&Query) -> Reply + Send + Sync>),
    Later(Arc<dyn Fn(Query) -> Answering + Send + Sync>),
}

type Answering = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// Routes of an admin server. Most handlers are synchronous: they render state that is already there.
#[derive(Clone, Default)]
pub struct Server {
    routes: BTreeMap<(String, Method), Handler>,
}

impl Server {
    /// A server without routes, answering 404 to everything; `/` lists the routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a page for GET (and HEAD).
    #[must_use]
    pub fn get(self, path: &str, handler: impl Fn(&Query) -> Reply + Send + Sync + 'static) -> Self {
        self.route(Method::GET, path, handler)
    }

    /// As [`Server::get`], for a page that takes so long to write that it is written on a thread of its own.
    #[must_use]
    pub fn get_aside(self, path: &str, handler: impl Fn(&Query) -> Reply + Send + Sync + 'static) -> Self {
        let handler = Arc::new(handler);
        self.later(path, move |query| {
            let handler = Arc::clone(&handler);
            async move {
                tokio::task::spawn_blocking(move || handler(&query))
                    .await
                    .unwrap_or_else(|error| Reply::text(format!("{error}\n")).status(StatusCode::INTERNAL_SERVER_ERROR))
            }
        })
    }

    /// Adds an action for POST.
    #[must_use]
    pub fn post(self, path: &str, handler: impl Fn(&Query) -> Reply + Send + Sync + 'static) -> Self {
        self.route(Method::POST, path, handler)
    }

    /// `/healthz/ready`: 200 when ready, else 503 with the pending tasks, one a line. Also `/healthz/live`, always 200.
    #[must_use]
    pub fn with_readiness(self, readiness: Readiness) -> Self {
        self.get("/healthz/live", |_| Reply::text("live\n")).get("/healthz/ready", move |_| {
            let pending = readiness.pending();
            if pending.is_empty() {
                return Reply::text("ready\n");
            }
            let lines = pending.iter().map(|task| format!("waiting for {task}\n")).collect::<String>();
            Reply::text(lines).status(StatusCode::SERVICE_UNAVAILABLE)
        })
    }

    /// `/metrics` and `/stats/prometheus`: the metrics of this process in the Prometheus text format.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        let other = metrics.clone();
        self.get("/metrics", move |_| Reply::prometheus(metrics.render()))
            .get("/stats/prometheus", move |_| Reply::prometheus(other.render()))
    }

    /// `/logging`: what the program logs (GET), and changes of it (POST): `?level=debug` for everything, `?level=ztunnel::outbound=debug`
    /// for a part, `?reset` for what it started with.
    #[must_use]
    pub fn with_logging(self) -> Self {
        let now = || match log_filter() {
            Some(filter) => Reply::text(format!("log level: {filter}\n")),
            None => Reply::text("the log is not set up\n").status(StatusCode::NOT_FOUND),
        };
        let change = move |query: &Query| {
            let (level, reset) = (query.levels(), query.is_set("reset"));
            match change_log_filter(&level, reset) {
                _ if level.is_empty() && !reset => now(),
                Ok(()) => now(),
                Err(error) => Reply::text(format!("{error}\n{LOGGING}")).status(StatusCode::BAD_REQUEST),
            }
        };
        self.get("/logging", move |_| now()).post("/logging", change)
    }

    fn route(mut self, method: Method, path: &str, handler: impl Fn(&Query) -> Reply + Send + Sync + 'static) -> Self {
        self.routes.insert((path.to_owned(), method), Handler::Now(Arc::new(handler)));
        self
    }

    /// Profiles of the process: `/debug/pprof/profile`, `/debug/pprof/heap`, `/debug/memory`. For the loopback device only: they cost
    /// processor time.
    #[must_use]
    pub fn with_profiles(self) -> Self {
        self.later("/debug/pprof/profile", profile::cpu)
            .later("/debug/pprof/heap", profile::heap)
            .get("/debug/memory", profile::memory)
    }

    /// Adds a page for GET that takes a while. Its future is dropped when the client goes away.
    fn later<F: Future<Output = Reply> + Send + 'static>(
        mut self,
        path: &str,
        handler: impl Fn(Query) -> F + Send + Sync + 'static,
    ) -> Self {
        let handler = Handler::Later(Arc::new(move |query| Box::pin(handler(query))));
        self.routes.insert((path.to_owned(), Method::GET), handler);
        self
    }

    async fn answer(&self, method: &Method, path: &str, query: Option<&str>) -> Reply {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        match self.routes.get(&(path.to_owned(), method.clone())) {
            Some(Handler::Now(handler)) => return handler(&Query::parse(query)),
            Some(Handler::Later(handler)) => return handler(Query::parse(query)).await,
            None => {}
        }
        if path == "/" && method == Method::GET {
            return Reply::text(self.routes.keys().map(|(path, method)| format!("{method} {path}\n")).collect::<String>());
        }
        if self.routes.keys().any(|(known, _)| known == path) {
            return Reply::text("method not allowed\n").status(StatusCode::METHOD_NOT_ALLOWED);
        }
        Reply::text("not found\n").status(StatusCode::NOT_FOUND)
    }
}
