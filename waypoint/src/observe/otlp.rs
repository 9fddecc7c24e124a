//! Records for collectors of OpenTelemetry's (OTLP/gRPC, `opentelemetry.proto.collector.logs.v1.LogsService/Export`): gathered, and sent through the
//! cluster of the collector by a task of its own, so that no request waits for one, and no collector for another. What is too much, or does not
//! arrive, is dropped and counted.

pub(super) mod message;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ambit_api::envoy::pb::opentelemetry::proto::common::v1::{AnyValue, KeyValue, any_value::Value};
use ambit_model::access_log::Text;
use ambit_runtime::telemetry::metric;
use futures::future::join_all;
use http::Version;
use metrics::counter;
use prost::Message as _;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};

use self::message::{ExportRequest, ExportResponse, LogRecord, Resource, ResourceLogs, ScopeLogs};
use super::{
    Line,
    lanes::{IDLE, Lanes, Rooms},
};
use crate::{
    compiled::LogCollector,
    http::call::{self, grpc},
    proxy::Proxy,
};

const EXPORT: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
/// Records that may wait to be sent to a collector.
const WAITING: usize = 8192;
/// Records that are sent at once.
const BATCH: usize = 512;
/// How long records are gathered, as in Envoy.
const GATHER: Duration = Duration::from_secs(1);

/// A record, and who gets it.
#[derive(Debug)]
struct Said {
    to: Arc<LogCollector>,
    record: LogRecord,
    room: Rooms,
}

/// Records that are sent in one call.
#[derive(Debug)]
struct Batch {
    to: Arc<LogCollector>,
    records: Vec<LogRecord>,
    room: Vec<Rooms>,
}

/// Records that are to be sent.
#[derive(Debug)]
pub struct Queue {
    lanes: Lanes<Said>,
    /// Records that were neither sent nor dropped yet.
    left: AtomicUsize,
}

impl Default for Queue {
    fn default() -> Self {
        Self { lanes: Lanes::new(WAITING), left: AtomicUsize::new(0) }
    }
}

impl Queue {
    /// Takes the record of a line, if there is room for it.
    pub fn add(&self, to: &Arc<LogCollector>, line: &Line<'_>) {
        let dropped = || counter!(metric::ACCESS_LOG_DROPPED).increment(1);
        let Some(place) = self.lanes.place(&to.cluster) else { return dropped() };
        let text = |text: &Text| string(text.text(line));
        let attributes = to.attributes.iter().map(|(key, value)| pair(key, text(value))).collect();
        let time_unix_nano = u64::try_from(line.began.as_nanos()).unwrap_or(u64::MAX);
        let record = LogRecord { time_unix_nano, body: to.body.as_ref().map(text), attributes };
        let Some(room) = place.room(record.encoded_len()) else { return dropped() };
        self.left.fetch_add(1, Ordering::Relaxed);
        place.put(Said { to: to.clone(), record, room });
    }

    /// Waits until there are none, no longer than this.
    pub async fn emptied(&self, most: Duration) {
        let empty = async {
            while self.left.load(Ordering::Relaxed) > 0 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        // A collector that does not answer is not worth delaying the end of the program for.
        let _ = timeout(most, empty).await;
    }
}

/// Sends records for as long as the program runs, to each collector at its own pace.
pub async fn export(proxy: Arc<Proxy>) {
    let Some(mut begun) = proxy.telemetry.outlets.queue.lanes.begun() else { return };
    let mut tasks = JoinSet::new();
    while let Some((cluster, waiting)) = begun.recv().await {
        tasks.spawn(export_to(proxy.clone(), cluster, waiting));
        // Those that have ended are not kept.
        while tasks.try_join_next().is_some() {}
    }
}

/// Sends records to one collector, until it is said nothing any more.
async fn export_to(proxy: Arc<Proxy>, cluster: Arc<str>, mut waiting: mpsc::Receiver<Said>) {
    let queue = &proxy.telemetry.outlets.queue;
    let mut said = Vec::new();
    // It took nothing last time, which was said.
    let mut failing = false;
    loop {
        let come = match timeout(IDLE, waiting.recv_many(&mut said, BATCH)).await {
            Ok(come) => come,
            Err(_) => {
                queue.lanes.give_up(&cluster);
                waiting.recv_many(&mut said, BATCH).await
            }
        };
        if come == 0 {
            return;
        }
        if said.len() < BATCH {
            sleep(GATHER).await;
            while said.len() < BATCH
                && let Ok(more) = waiting.try_recv()
            {
                said.push(more);
            }
        }
        let mut sends = Vec::new();
        for batch in by_resource(said.drain(..)) {
            sends.push(deliver(&proxy, batch));
        }
        for (count, outcome) in join_all(sends).await {
            let lost = match outcome {
                Ok(rejected) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!(%cluster, "the collector takes records of the access log again");
                    }
                    rejected.min(count as u64)
                }
                Err(failure) => {
                    if !std::mem::replace(&mut failing, true) {
                        let metric = metric::ACCESS_LOG_DROPPED;
                        tracing::warn!(
                            %cluster, failure,
                            "the collector does not take records of the access log: they are lost until it does, counted in {metric}"
                        );
                    }
                    count as u64
                }
            };
            counter!(metric::ACCESS_LOG_DROPPED).increment(lost);
            queue.left.fetch_sub(count, Ordering::Relaxed);
        }
    }
}

fn by_resource(said: impl Iterator<Item = Said>) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for Said { to, record, room } in said {
        match batches.iter_mut().find(|batch| batch.to.goes_with(&to)) {
            Some(batch) => {
                batch.records.push(record);
                batch.room.push(room);
            }
            None => batches.push(Batch { to, records: vec![record], room: vec![room] }),
        }
    }
    batches
}

/// Sends records; says how many there were, and how many of them were not taken, or why none.
async fn deliver(proxy: &Proxy, batch: Batch) -> (usize, Result<u64, String>) {
    let Batch { to, records, room } = batch;
    let count = records.len();
    let sent = timeout(to.timeout, send(proxy, &to, records)).await;
    drop(room);
    (count, sent.unwrap_or_else(|_| Err(format!("no answer within {:?}", to.timeout))))
}

/// Sends records; says how many of them the collector has not taken.
async fn send(proxy: &Proxy, collector: &LogCollector, log_records: Vec<LogRecord>) -> Result<u64, String> {
    let attributes = collector.resource.iter().map(|(key, value)| pair(key, string(value.clone()))).collect();
    let request = ExportRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(Resource { attributes }),
            scope_logs: vec![ScopeLogs { log_records }],
        }],
    };
    let snapshot = proxy.config.load_full();
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let question = grpc::question(&request, EXPORT, &collector.authority);
    let answer = call::send(proxy, &snapshot, (&*collector.cluster, nowhere), question, Version::HTTP_2).await?;
    let answer: ExportResponse = grpc::message(&answer)?;
    Ok(answer.partial_success.map_or(0, |partial| u64::try_from(partial.rejected_log_records).unwrap_or(0)))
}

/// A text, of the kinds of values that there are.
pub(super) fn string(text: String) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text)) }
}

/// An attribute.
pub(super) fn pair(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..Default::default() }
}
