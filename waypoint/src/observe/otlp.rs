//! Records for collectors of OpenTelemetry's (OTLP/gRPC, `opentelemetry.proto.collector.logs.v1.LogsService/Export`): gathered, and sent through the
//! cluster of the collector by a task of their own, so that no request waits for one. What is too much, or does not arrive, is dropped and
//! counted.

mod message;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ambit_api::envoy::pb::opentelemetry::proto::common::v1::{AnyValue, KeyValue, any_value::Value};
use ambit_model::access_log::Text;
use ambit_runtime::telemetry::metric;
use http::Version;
use metrics::counter;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use self::message::{ExportRequest, ExportResponse, LogRecord, Resource, ResourceLogs, ScopeLogs};
use super::Line;
use crate::{
    compiled::LogCollector,
    http::call::{self, grpc},
    proxy::Proxy,
};

const EXPORT: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
/// Records that may wait to be sent.
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
}

/// Records that are to be sent.
#[derive(Debug)]
pub struct Queue {
    sender: mpsc::Sender<Said>,
    /// Until the task takes it.
    receiver: Mutex<Option<mpsc::Receiver<Said>>>,
    /// Records that were neither sent nor dropped yet.
    left: AtomicUsize,
}

impl Default for Queue {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self { sender, receiver: Mutex::new(Some(receiver)), left: AtomicUsize::new(0) }
    }
}

impl Queue {
    /// Takes the record of a line, if there is room for it.
    pub fn add(&self, to: &Arc<LogCollector>, line: &Line<'_>) {
        let Ok(place) = self.sender.try_reserve() else {
            counter!(metric::ACCESS_LOG_DROPPED).increment(1);
            return;
        };
        self.left.fetch_add(1, Ordering::Relaxed);
        let text = |text: &Text| string(text.text(line));
        let attributes = to.attributes.iter().map(|(key, value)| pair(key, text(value))).collect();
        let time_unix_nano = u64::try_from(line.began.as_nanos()).unwrap_or(u64::MAX);
        let record = LogRecord { time_unix_nano, body: to.body.as_ref().map(text), attributes };
        place.send(Said { to: to.clone(), record });
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

/// Sends records for as long as the program runs.
pub async fn export(proxy: Arc<Proxy>) {
    let queue = &proxy.telemetry.outlets.queue;
    let Some(mut receiver) = queue.receiver.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let mut said = Vec::new();
    while receiver.recv_many(&mut said, BATCH).await > 0 {
        if said.len() < BATCH {
            sleep(GATHER).await;
            while said.len() < BATCH
                && let Ok(more) = receiver.try_recv()
            {
                said.push(more);
            }
        }
        let mut batches: Vec<(Arc<LogCollector>, Vec<LogRecord>)> = Vec::new();
        for Said { to, record } in said.drain(..) {
            match batches.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &to)) {
                Some((_, records)) => records.push(record),
                None => batches.push((to, vec![record])),
            }
        }
        for (collector, records) in batches {
            let count = records.len();
            let lost = match timeout(collector.timeout, send(&proxy, &collector, records)).await {
                Ok(Ok(rejected)) => rejected,
                Ok(Err(failure)) => {
                    tracing::warn!(cluster = %collector.cluster, failure, "a collector did not take records of the access log");
                    count as u64
                }
                Err(_) => {
                    tracing::warn!(cluster = %collector.cluster, "a collector of records of the access log does not answer");
                    count as u64
                }
            };
            counter!(metric::ACCESS_LOG_DROPPED).increment(lost);
            queue.left.fetch_sub(count, Ordering::Relaxed);
        }
    }
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

fn string(text: String) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text)) }
}

fn pair(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..Default::default() }
}
