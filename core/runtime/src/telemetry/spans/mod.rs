//! Spans of connections and requests, sent to a collector over OTLP/HTTP in its JSON encoding (OpenTelemetry protocol specification).
//! Nobody waits for the collector: what it does not take is counted and lost.

mod encode;
mod export;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::Uri;
use metrics::counter;
use tokio::sync::{mpsc, oneshot};

use super::{Entry, Trace, metric};
use export::Exporter;

/// Spans that may wait; more are lost.
const QUEUE: usize = 4096;

/// A collector: `http://host[:port][/path]`. As for the standard variable `OTEL_EXPORTER_OTLP_ENDPOINT`, `/v1/traces` is added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// Host and port, as a connection is opened to.
    address: String,
    /// What the `host` header says.
    authority: String,
    path: String,
}

impl FromStr for Collector {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(|_| "it is not a URL")?;
        if uri.scheme_str() != Some("http") {
            return Err("it does not begin with http://, which is all that is spoken");
        }
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or("it names no host")?;
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let path = format!("{}/v1/traces", uri.path().trim_end_matches('/'));
        Ok(Self { address, authority: authority.to_string(), path })
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path.strip_suffix("/v1/traces").unwrap_or(&self.path))
    }
}

/// Where spans go. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Spans {
    queue: mpsc::Sender<Message>,
    sample: f64,
}

#[derive(Debug)]
enum Message {
    /// A span, encoded.
    Span(String),
    /// Everything before this is to be sent now; it is told when that was tried.
    Flush(oneshot::Sender<()>),
}

impl Spans {
    /// Spans for `collector`, of a `sample` (0 to 1) of the traces that begin here, said to be of `resource`; and the task that sends them.
    pub fn new(collector: Collector, sample: f64, resource: &[(&str, &str)]) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        (Self { queue, sample }, Exporter::new(collector, resource).run(waiting))
    }

    /// Begins a trace, of which spans are sent or not.
    #[must_use]
    pub fn begin(&self) -> Trace {
        Trace::new(fastrand::f64() < self.sample)
    }

    /// Has a span made of what has ended now, if its trace is one of those of which they are sent.
    pub fn send(&self, entry: &Entry<'_>, trace: &Trace) {
        if !trace.sampled {
            return;
        }
        // Encoded only when there is room.
        match self.queue.try_reserve() {
            Ok(place) => place.send(Message::Span(encode::span(entry, trace, jiff::Timestamp::now()))),
            Err(_) => lost(1),
        }
    }

    /// Tries to send what waits, for `limit` at most.
    pub async fn flush(&self, limit: Duration) {
        let (tell, told) = oneshot::channel();
        let flushed = async {
            if self.queue.send(Message::Flush(tell)).await.is_ok() {
                let _ended_either_way = told.await;
            }
        };
        if tokio::time::timeout(limit, flushed).await.is_err() {
            tracing::warn!("the collector did not take the last spans in time");
        }
    }
}

fn lost(spans: u64) {
    counter!(metric::SPANS_DROPPED).increment(spans);
}

#[cfg(test)]
mod tests;
