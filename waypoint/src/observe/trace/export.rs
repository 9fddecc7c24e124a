//! The queues of spans, and what becomes of what waits in them. Nobody waits for a collector, no other one either: what it does not take is counted
//! and lost.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ambit_runtime::telemetry::metric;
use futures::future::join_all;
use metrics::counter;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Ended,
    post::{Failure, send},
};
use crate::{
    compiled::Collector,
    observe::lanes::{Begun, IDLE, Lanes},
    proxy::Proxy,
};

/// Spans that may wait for a collector; more are lost.
const QUEUE: usize = 4096;
/// Spans that go in one request.
const BATCH: usize = 512;
/// How long the first one waits for others.
const WAIT: Duration = Duration::from_secs(1);

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
    use crate::{
        compiled::{Speaks, Tracing},
        observe::trace::context::Place,
    };

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
