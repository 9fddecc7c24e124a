//! Sending spans to the collector.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use metrics::counter;
use tokio::net::TcpStream;
use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Collector, Message, encode, lost, metric};

/// Spans that go in one request.
const BATCH: usize = 512;
/// How long the first one waits for others.
const WAIT: Duration = Duration::from_secs(1);
/// How long a request may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Requests for one batch, at most, and the pause after the first that failed; it doubles.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Exporter {
    collector: Collector,
    envelope: [String; 2],
    /// The last batch was lost, which was said.
    failing: bool,
}

/// Why a request was in vain.
#[derive(Debug)]
enum Failure {
    Unreachable(io::Error),
    Timeout,
    /// Worth another attempt.
    Busy(StatusCode),
    Refused(StatusCode),
}

impl Failure {
    /// As the metric has it.
    const fn label(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Timeout => "timeout",
            Self::Busy(_) => "busy",
            Self::Refused(_) => "refused",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "{error}"),
            Self::Timeout => write!(f, "no answer within {} s", LIMIT.as_secs()),
            Self::Busy(status) | Self::Refused(status) => write!(f, "it answered {status}"),
        }
    }
}

/// Spans that go together.
#[derive(Default)]
struct Batch {
    spans: Vec<String>,
    /// Who waits for them to be sent.
    waiting: Vec<oneshot::Sender<()>>,
    ended: bool,
}

impl Exporter {
    pub(super) fn new(collector: Collector, resource: &[(&str, &str)]) -> Self {
        Self { collector, envelope: encode::envelope(resource), failing: false }
    }

    /// Sends what comes until nobody is left who could send more.
    pub(super) async fn run(mut self, mut queue: Receiver<Message>) {
        loop {
            let batch = collect(&mut queue).await;
            if !batch.spans.is_empty() {
                self.send(&batch.spans).await;
            }
            for waiting in batch.waiting {
                // Whoever waited may have gone.
                let _told = waiting.send(());
            }
            if batch.ended {
                return;
            }
        }
    }

    /// Sends spans, or loses them. That the collector takes none is said once, until it does.
    async fn send(&mut self, spans: &[String]) {
        let failure = self.attempts(spans).await.err();
        let (failed, collector, count) = (self.failing, &self.collector, spans.len());
        self.failing = failure.is_some();
        match failure {
            None => {
                counter!(metric::SPANS_SENT).increment(count as u64);
                if failed {
                    tracing::info!(%collector, "the collector takes spans again");
                }
            }
            Some(failure) => {
                lost(count as u64);
                if failed {
                    tracing::debug!(error = %failure, %collector, spans = count, "the collector still takes no spans");
                } else {
                    let metrics = [metric::SPANS_DROPPED, metric::SPAN_EXPORT_FAILURES].join(" and ");
                    tracing::warn!(
                        error = %failure, %collector, spans = count,
                        "the collector does not take spans: they are lost until it does, counted in {metrics}"
                    );
                }
            }
        }
    }

    async fn attempts(&self, spans: &[String]) -> Result<(), Failure> {
        let [before, after] = &self.envelope;
        let body = Bytes::from([before, &*spans.join(","), after].concat());
        let (mut pause, mut attempt) = (PAUSE, 1);
        loop {
            let failure = match tokio::time::timeout(LIMIT, self.post(body.clone())).await {
                Ok(Ok(status)) if status.is_success() => return Ok(()),
                // These are worth another attempt (OTLP specification, "Retryable Response Codes").
                Ok(Ok(status)) if matches!(status.as_u16(), 429 | 502 | 503 | 504) => Failure::Busy(status),
                Ok(Ok(status)) => Failure::Refused(status),
                Ok(Err(error)) => Failure::Unreachable(error),
                Err(_) => Failure::Timeout,
            };
            counter!(metric::SPAN_EXPORT_FAILURES, "reason" => failure.label()).increment(1);
            tracing::debug!(error = %failure, collector = %self.collector, attempt, "the collector did not take spans");
            if attempt == ATTEMPTS || matches!(failure, Failure::Refused(_)) {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
            (pause, attempt) = (pause * 2, attempt + 1);
        }
    }

    async fn post(&self, body: Bytes) -> io::Result<StatusCode> {
        let stream = TcpStream::connect(&self.collector.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let request = Request::post(&self.collector.path)
            .header(HOST, &self.collector.authority)
            .header(CONTENT_TYPE, "application/json")
            .header(CONNECTION, "close")
            .body(Full::new(body))
            .map_err(io::Error::other)?;
        let answer = async move { sender.send_request(request).await.map(|answer| answer.status()) };
        // What it answers besides the status, and how the connection ends then, is of no use here.
        let (status, _ended) = tokio::join!(answer, connection);
        status.map_err(io::Error::other)
    }
}

/// The next spans: until there are enough of them, or the first has waited long enough.
async fn collect(queue: &mut Receiver<Message>) -> Batch {
    let mut batch = Batch::default();
    let mut until = None;
    while batch.spans.len() < BATCH {
        let message = match until {
            None => queue.recv().await,
            Some(until) => match tokio::time::timeout_at(until, queue.recv()).await {
                Ok(message) => message,
                Err(_) => break,
            },
        };
        match message {
            Some(Message::Span(span)) => {
                until.get_or_insert_with(|| Instant::now() + WAIT);
                batch.spans.push(span);
            }
            Some(Message::Flush(waiting)) => {
                batch.waiting.push(waiting);
                break;
            }
            None => {
                batch.ended = true;
                break;
            }
        }
    }
    batch
}
