//! Sending spans to their collectors, by clusters of the configuration. Nobody waits for a collector, no other one either: what it does not take is
//! counted and lost.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ambit_runtime::telemetry::metric;
use futures::future::join_all;
use http::{HeaderValue, Method, StatusCode, Version, header};
use metrics::counter;
use prost::Message as _;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{Ended, otlp, zipkin};
use crate::{
    compiled::{Collector, Speaks},
    http::call::{self, Question, grpc},
    observe::lanes::{Begun, IDLE, Lanes},
    proxy::Proxy,
};

/// Spans that may wait for a collector; more are lost.
const QUEUE: usize = 4096;
/// Spans that go in one request.
const BATCH: usize = 512;
/// How long the first one waits for others.
const WAIT: Duration = Duration::from_secs(1);
/// The pause before a batch that was in vain is sent once more.
const PAUSE: Duration = Duration::from_millis(500);

/// Where spans of requests go. Clones share the queues.
#[derive(Debug, Clone)]
pub struct Spans {
    lanes: Arc<Lanes<Message>>,
    start: Arc<Start>,
}

/// What begins with the first span that is told of.
#[derive(Debug)]
struct Start {
    done: AtomicBool,
    /// What the waypoint is called.
    node: OnceLock<String>,
    /// By whom they are sent, where it is not who has the first.
    home: OnceLock<(Weak<Proxy>, Handle)>,
}

#[derive(Debug)]
enum Message {
    Span(Box<Ended>),
    /// Everything before this is to be sent now; it is told when that was tried.
    Flush(oneshot::Sender<()>),
}

impl Default for Spans {
    fn default() -> Self {
        let start = Start { done: AtomicBool::new(false), node: OnceLock::new(), home: OnceLock::new() };
        Self { lanes: Arc::new(Lanes::new(QUEUE)), start: Arc::new(start) }
    }
}

impl Spans {
    /// What the waypoint is called from now on.
    pub fn name(&self, node: &str) {
        // It has no other name later.
        let _named_already = self.start.node.set(node.to_owned());
    }

    /// Has spans sent by tasks of the calling one's runtime, through tunnels of `proxy`: no request waits for their thread.
    pub fn send_from(&self, proxy: &Arc<Proxy>) {
        // It stays with the first.
        let _set_already = self.start.home.set((Arc::downgrade(proxy), Handle::current()));
    }

    pub(super) fn node(&self) -> Option<&str> {
        self.start.node.get().map(String::as_str)
    }

    /// Begins to send what is told, unless that has begun: who has no collector needs no task for it.
    pub(super) fn start(&self, proxy: &Arc<Proxy>) {
        if self.start.done.load(Ordering::Relaxed) {
            return;
        }
        self.start.done.store(true, Ordering::Relaxed);
        if let Some(begun) = self.lanes.begun() {
            match self.start.home.get() {
                Some((proxy, runtime)) => runtime.spawn(run(proxy.clone(), begun)),
                None => tokio::spawn(run(Arc::downgrade(proxy), begun)),
            };
        }
    }

    pub(super) fn send(&self, mut ended: Ended) {
        let Some(place) = self.lanes.place(&ended.tracing.collector.cluster) else { return lost(1) };
        ended._room = place.room(ended.size());
        match ended._room {
            Some(_) => place.put(Message::Span(Box::new(ended))),
            None => lost(1),
        }
    }

    /// Tries to send what waits, for `limit` at most.
    pub async fn flush(&self, limit: Duration) {
        if !self.start.done.load(Ordering::Relaxed) {
            return;
        }
        let flushed = join_all(self.lanes.queues().into_iter().map(flushed));
        if timeout(limit, flushed).await.is_err() {
            tracing::warn!("a collector did not take the last spans in time");
        }
    }
}

/// Completes when it was tried to send what is in a queue now.
async fn flushed(queue: mpsc::Sender<Message>) {
    let (tell, told) = oneshot::channel();
    if queue.send(Message::Flush(tell)).await.is_ok() {
        let _ended_either_way = told.await;
    }
}

fn lost(spans: usize) {
    counter!(metric::SPANS_DROPPED).increment(spans as u64);
}

/// Sends what comes for as long as the proxy is there, to each collector at its own pace.
async fn run(proxy: Weak<Proxy>, mut begun: mpsc::UnboundedReceiver<Begun<Message>>) {
    let mut tasks = JoinSet::new();
    while let Some((cluster, queue)) = begun.recv().await {
        tasks.spawn(send_all(proxy.clone(), cluster, queue));
        // Those that have ended are not kept.
        while tasks.try_join_next().is_some() {}
    }
}

/// Sends what comes for one collector, until nothing more does.
async fn send_all(proxy: Weak<Proxy>, cluster: Arc<str>, mut queue: mpsc::Receiver<Message>) {
    // Those that took nothing last time, which was said.
    let mut failing: Vec<Arc<Collector>> = Vec::new();
    loop {
        let first = match timeout(IDLE, queue.recv()).await {
            Ok(first) => first,
            Err(_) => {
                let Some(proxy) = proxy.upgrade() else { return };
                proxy.spans.lanes.give_up(&cluster);
                drop(proxy);
                queue.recv().await
            }
        };
        let Some(first) = first else { return };
        let (spans, waiting) = collect(first, &mut queue).await;
        let Some(proxy) = proxy.upgrade() else { return };
        let batches = by_collector(spans);
        let mut sends = Vec::with_capacity(batches.len());
        for (collector, spans) in &batches {
            sends.push(send(&proxy, collector, spans));
        }
        let sent = join_all(sends).await;
        for ((collector, spans), outcome) in batches.iter().zip(sent) {
            said(&mut failing, collector, spans.len(), outcome);
        }
        if let Some(waiting) = waiting {
            // Whoever waited may have gone.
            let _told = waiting.send(());
        }
    }
}

/// The next spans: until there are enough of them, or the first has waited long enough, or somebody waits for them to be sent.
async fn collect(first: Message, queue: &mut mpsc::Receiver<Message>) -> (Vec<Ended>, Option<oneshot::Sender<()>>) {
    let until = Instant::now() + WAIT;
    let (mut spans, mut message) = (Vec::new(), Some(first));
    loop {
        match message {
            Some(Message::Span(span)) => spans.push(*span),
            Some(Message::Flush(waiting)) => return (spans, Some(waiting)),
            None => return (spans, None),
        }
        if spans.len() >= BATCH {
            return (spans, None);
        }
        message = timeout_at(until, queue.recv()).await.ok().flatten();
    }
}

/// Several collectors may be behind one cluster, by other paths, or while the configuration changes.
fn by_collector(spans: Vec<Ended>) -> Vec<(Arc<Collector>, Vec<Ended>)> {
    let mut batches: Vec<(Arc<Collector>, Vec<Ended>)> = Vec::new();
    for span in spans {
        match batches.iter_mut().find(|(collector, _)| **collector == *span.tracing.collector) {
            Some((_, batch)) => batch.push(span),
            None => batches.push((span.tracing.collector.clone(), vec![span])),
        }
    }
    batches
}

/// Why spans were not taken.
#[derive(Debug)]
enum Failure {
    Unreachable(String),
    Timeout(Duration),
    /// Worth another attempt.
    Busy(StatusCode),
    Refused(String),
}

impl Failure {
    /// As the metric has it.
    const fn label(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Timeout(_) => "timeout",
            Self::Busy(_) => "busy",
            Self::Refused(_) => "refused",
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(why) | Self::Refused(why) => f.write_str(why),
            Self::Timeout(limit) => write!(f, "no answer within {limit:?}"),
            Self::Busy(status) => write!(f, "it answered {status}"),
        }
    }
}

/// Sends spans to their collector, and once more where that may help.
async fn send(proxy: &Proxy, collector: &Collector, spans: &[Ended]) -> Result<(), Failure> {
    let mut again = true;
    loop {
        let outcome = timeout(collector.timeout, Box::pin(post(proxy, collector, spans))).await;
        let failure = match outcome.unwrap_or(Err(Failure::Timeout(collector.timeout))) {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        counter!(metric::SPAN_EXPORT_FAILURES, "reason" => failure.label()).increment(1);
        if !again || matches!(failure, Failure::Refused(_)) {
            return Err(failure);
        }
        again = false;
        sleep(PAUSE).await;
    }
}

async fn post(proxy: &Proxy, collector: &Collector, spans: &[Ended]) -> Result<(), Failure> {
    let identity = &proxy.identity;
    let own = || format!("{}.{}", identity.service_account(), identity.namespace());
    let service = collector.service.clone().unwrap_or_else(own);
    let (question, version) = match collector.speaks {
        Speaks::OtlpGrpc => {
            let request = otlp::request(&service, spans);
            (grpc::question(&request, &collector.path, &collector.authority), Version::HTTP_2)
        }
        Speaks::OtlpHttp => {
            let body = otlp::request(&service, spans).encode_to_vec();
            (by_http(collector, "application/x-protobuf", body), Version::HTTP_11)
        }
        Speaks::Zipkin { .. } => (by_http(collector, "application/json", zipkin::request(&service, spans)), Version::HTTP_11),
    };
    let snapshot = proxy.config.load_full();
    // Collectors have addresses of their own.
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let answer = call::send(proxy, &snapshot, (&*collector.cluster, nowhere), question, version).await;
    let answer = answer.map_err(Failure::Unreachable)?;
    match answer.head.status {
        // These are worth another attempt (OTLP specification, "Retryable Response Codes").
        status if matches!(status.as_u16(), 429 | 502 | 503 | 504) => Err(Failure::Busy(status)),
        status if !status.is_success() => Err(Failure::Refused(format!("it answered {status}"))),
        _ if collector.speaks == Speaks::OtlpGrpc => grpc::message::<otlp::Response>(&answer).map(drop).map_err(Failure::Refused),
        _ => Ok(()),
    }
}

fn by_http(collector: &Collector, content: &'static str, body: Vec<u8>) -> Question {
    let mut head = http::Request::new(());
    *head.method_mut() = Method::POST;
    head.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content));
    head.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    Question { head, path: collector.path.clone(), authority: collector.authority.clone(), body: body.into() }
}

/// Counts what became of spans. That a collector takes none is said once, until it does.
fn said(failing: &mut Vec<Arc<Collector>>, collector: &Arc<Collector>, count: usize, outcome: Result<(), Failure>) {
    let known = failing.iter().position(|other| other == collector);
    let cluster = &collector.cluster;
    match (outcome, known) {
        (Ok(()), known) => {
            counter!(metric::SPANS_SENT).increment(count as u64);
            if let Some(known) = known {
                failing.swap_remove(known);
                tracing::info!(%cluster, "the collector takes spans again");
            }
        }
        (Err(error), Some(_)) => {
            lost(count);
            tracing::debug!(%error, %cluster, spans = count, "the collector still takes no spans");
        }
        (Err(error), None) => {
            lost(count);
            // Of collectors that are no more nothing more is said.
            failing.retain(|other| other.cluster != collector.cluster);
            failing.push(collector.clone());
            let metrics = [metric::SPANS_DROPPED, metric::SPAN_EXPORT_FAILURES].join(" and ");
            tracing::warn!(
                %error, %cluster, spans = count,
                "the collector does not take spans: they are lost until it does, counted in {metrics}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{compiled::Tracing, observe::trace::context::Place};

    fn ended(cluster: &str) -> Ended {
        let collector = Collector {
            cluster: cluster.into(),
            authority: "collector".into(),
            path: "/".into(),
            timeout: Duration::from_secs(1),
            service: None,
            speaks: Speaks::OtlpHttp,
        };
        let tracing = Tracing {
            collector: Arc::new(collector),
            client: 100,
            random: 10_000,
            overall: 10_000,
            request_ids: true,
            operation: "ingress".into(),
            longest_path: 256,
            tags: Vec::new(),
        };
        let place = Place::of(&http::HeaderMap::new(), Speaks::OtlpHttp, || true);
        Ended {
            tracing: Arc::new(tracing),
            place,
            state: String::new(),
            begun: 1,
            ended: 2,
            told: Vec::new(),
            failed: false,
            _room: None,
        }
    }

    #[tokio::test]
    async fn no_more_spans_wait_than_there_is_room_for() {
        let spans = Spans::default();
        let mut begun = spans.lanes.begun().unwrap();
        for _ in 0..QUEUE + 10 {
            spans.send(ended("one"));
        }
        spans.send(ended("two"));
        let (_, mut queue) = begun.try_recv().unwrap();
        assert_eq!(queue.len(), QUEUE);
        let first = queue.recv().await.unwrap();
        let (first, waiting) = collect(first, &mut queue).await;
        assert_eq!((first.len(), waiting.is_none()), (BATCH, true));
        let (_, other) = begun.try_recv().unwrap();
        assert_eq!(other.len(), 1, "what waits for one collector takes no place of another");
        // Until something has begun there is nothing to wait for.
        spans.flush(Duration::from_secs(60)).await;
    }

    #[test]
    fn spans_with_long_headers_wait_by_what_they_take() {
        let spans = Spans::default();
        let mut begun = spans.lanes.begun().unwrap();
        for _ in 0..20 {
            let long = "a".repeat(1 << 20);
            spans.send(Ended { told: vec![("user_agent".into(), long)], ..ended("one") });
        }
        let (_, mut queue) = begun.try_recv().unwrap();
        assert_eq!(queue.len(), 15, "of 16 MiB");
        // What was sent makes room for others.
        assert!(matches!(queue.try_recv(), Ok(Message::Span(_))));
        (0..2).for_each(|_| spans.send(Ended { state: "a".repeat(1 << 20), ..ended("one") }));
        assert_eq!(queue.len(), 15);
    }

    #[test]
    fn each_collector_is_sent_its_own() {
        let batches = by_collector(["one", "two", "one"].map(ended).into());
        let sizes: Vec<_> = batches.iter().map(|(collector, spans)| (&*collector.cluster, spans.len())).collect();
        assert_eq!(sizes, [("one", 2), ("two", 1)]);
    }
}
