//! One access-log line and one set of metrics for each connection, however it ends.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use ambit_hbone::copy::Counters;
use ambit_identity::SpiffeId;
use ambit_model::{Reason, Refusal, plan::Target, workload::Workload};
use ambit_runtime::telemetry::{AccessLog, Direction, Entry, Security, SeriesLimit, label, metric};
use metrics::{Label, SharedString, counter};

/// The label that names the policy behind a refusal.
const POLICY: &str = "policy";
/// How often the bytes of an open connection are put into the metrics.
const REPORT: Duration = Duration::from_secs(10);

/// Where connections are recorded.
#[derive(Debug, Clone)]
pub struct Telemetry {
    log: AccessLog,
    series: Arc<SeriesLimit>,
}

impl Telemetry {
    /// Records to `log` and to the metrics of this process.
    #[must_use]
    pub fn new(log: AccessLog) -> Self {
        Self { log, series: Arc::new(SeriesLimit::default()) }
    }

    /// Begins the record of a connection. It is written when the record is dropped.
    #[must_use]
    pub fn begin(&self, direction: Direction, source: SocketAddr, destination: SocketAddr) -> Record {
        Record {
            telemetry: self.clone(),
            direction,
            begun: Instant::now(),
            source,
            destination,
            source_workload: None,
            source_identity: None,
            target: Target::default(),
            destination_identity: None,
            security: Security::None,
            counters: Arc::default(),
            counted: direction,
            reported: (0, 0),
            outcome: None,
            policy: None,
            opened: None,
        }
    }

    /// Writes out what is waiting.
    pub fn flush(&self) {
        self.log.flush();
    }
}

/// The record of one connection.
pub struct Record {
    telemetry: Telemetry,
    direction: Direction,
    begun: Instant,
    source: SocketAddr,
    destination: SocketAddr,
    /// The workload that opened the connection, when it is known.
    pub source_workload: Option<Arc<Workload>>,
    /// Who opened it: proved when `security` is mutual TLS.
    pub source_identity: Option<SpiffeId>,
    /// What it is for.
    pub target: Target,
    /// Who answered.
    pub destination_identity: Option<SpiffeId>,
    /// How it is protected between the nodes.
    pub security: Security,
    /// The policy that allowed it.
    pub policy: Option<String>,
    counters: Arc<Counters>,
    /// Whose pump counts.
    counted: Direction,
    /// What of the counters is in the metrics already.
    reported: (u64, u64),
    outcome: Option<Refusal>,
    opened: Option<Vec<Label>>,
}

impl Record {
    /// Notes where the connection really goes, when that shows only later.
    pub fn destination(&mut self, destination: SocketAddr) {
        self.destination = destination;
    }

    /// Notes what is tried now. What was proved to reach an earlier target says nothing of this one.
    pub fn towards(&mut self, target: &Target) {
        self.target = target.clone();
        self.destination_identity = None;
        self.security = Security::None;
    }

    /// Notes that both sides stand.
    pub fn established(&mut self) {
        let labels = self.telemetry.series.admit(self.labels(None));
        counter!(metric::TCP_CONNECTIONS_OPENED, labels.clone()).increment(1);
        self.opened = Some(labels);
    }

    /// Where the bytes of the connection are counted.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Counts what `other` counts: one pump carries the connection of both.
    pub fn count_with(&mut self, other: &Self) {
        self.counters = Arc::clone(&other.counters);
        self.counted = other.counted;
    }

    /// Waits for `carried`, and puts what is counted into the metrics now and then: a connection may live for days.
    pub async fn watch<T>(&mut self, carried: impl Future<Output = T>) -> T {
        let mut carried = pin!(carried);
        loop {
            match tokio::time::timeout(REPORT, carried.as_mut()).await {
                Ok(ended) => return ended,
                Err(_) => self.report(),
            }
        }
    }

    /// Ends the record: the connection was carried to its end.
    pub fn finish(mut self) {
        self.outcome = Some(Refusal::new(Reason::Ok, ""));
    }

    /// Bytes from the client to the server, and back. A pump counts from the side of the tunnel, which is the server's for what pods
    /// open and the client's for what comes to them.
    fn bytes(&self) -> (u64, u64) {
        match self.counted {
            Direction::Outbound => (self.counters.sent(), self.counters.received()),
            Direction::Inbound => (self.counters.received(), self.counters.sent()),
        }
    }

    fn report(&mut self) {
        let Some(labels) = &self.opened else { return };
        let (sent, received) = self.bytes();
        counter!(metric::TCP_SENT_BYTES, labels.clone()).increment(sent.saturating_sub(self.reported.0));
        counter!(metric::TCP_RECEIVED_BYTES, labels.clone()).increment(received.saturating_sub(self.reported.1));
        self.reported = (sent, received);
    }

    /// Ends the record: the connection was refused, or broke.
    pub fn refused(mut self, refusal: Refusal) {
        self.outcome = Some(refusal);
    }

    fn labels(&self, refusal: Option<&Refusal>) -> Vec<Label> {
        let text = |key: &'static str, value: &str| {
            let value = if value.is_empty() { label::UNKNOWN } else { value };
            Label::new(SharedString::const_str(key), SharedString::from_owned(value.to_owned()))
        };
        let reporter = match self.direction {
            Direction::Outbound => "source",
            Direction::Inbound => "destination",
        };
        let source = self.source_workload.as_deref();
        let workload = self.target.workload.as_deref();
        let service = self.target.service.as_deref();
        let of =
            |workload: Option<&Workload>, part: fn(&Workload) -> &str| workload.map_or(String::new(), |w| part(w).to_owned());
        let principal = |id: Option<&SpiffeId>| id.map_or(String::new(), ToString::to_string);
        let mut labels = vec![
            Label::from_static_parts(label::REPORTER, reporter),
            text(label::SOURCE_WORKLOAD, &of(source, |w| &w.workload_name)),
            text(label::SOURCE_WORKLOAD_NAMESPACE, &of(source, |w| w.namespace.as_str())),
            text(label::SOURCE_PRINCIPAL, &principal(self.source_identity.as_ref())),
            text(label::SOURCE_CANONICAL_SERVICE, &of(source, |w| &w.canonical_name)),
            text(label::SOURCE_CANONICAL_REVISION, &of(source, |w| &w.canonical_revision)),
            text(label::SOURCE_CLUSTER, &of(source, |w| &w.cluster)),
            text(label::DESTINATION_WORKLOAD, &of(workload, |w| &w.workload_name)),
            text(label::DESTINATION_WORKLOAD_NAMESPACE, &of(workload, |w| w.namespace.as_str())),
            text(label::DESTINATION_PRINCIPAL, &principal(self.destination_identity.as_ref())),
            text(label::DESTINATION_CANONICAL_SERVICE, &of(workload, |w| &w.canonical_name)),
            text(label::DESTINATION_CANONICAL_REVISION, &of(workload, |w| &w.canonical_revision)),
            text(label::DESTINATION_CLUSTER, &of(workload, |w| &w.cluster)),
            text(label::DESTINATION_SERVICE, service.map_or("", |s| &s.key.hostname)),
            text(label::DESTINATION_SERVICE_NAME, service.map_or("", |s| &s.name)),
            text(label::DESTINATION_SERVICE_NAMESPACE, service.map_or("", |s| s.key.namespace.as_str())),
            Label::from_static_parts(label::REQUEST_PROTOCOL, "tcp"),
            Label::from_static_parts(label::RESPONSE_FLAGS, "-"),
            Label::from_static_parts(label::CONNECTION_SECURITY_POLICY, self.security.label()),
        ];
        if let Some(refusal) = refusal {
            labels.push(Label::from_static_parts(label::REASON, refusal.reason.label()));
            labels.push(text(POLICY, &refusal.policy.as_ref().map_or("none".to_owned(), ToString::to_string)));
        }
        labels
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // A connection whose task was ended from outside was cut by the drain of the proxy or of its pod.
        let outcome =
            self.outcome.take().unwrap_or_else(|| Refusal::new(Reason::Draining, "cut while the proxy or the pod went away"));
        self.report();
        if let Some(labels) = self.opened.take() {
            counter!(metric::TCP_CONNECTIONS_CLOSED, labels).increment(1);
        } else if outcome.reason != Reason::Ok {
            let labels = self.telemetry.series.admit(self.labels(Some(&outcome)));
            counter!(metric::TCP_CONNECTIONS_FAILED, labels).increment(1);
        }
        self.telemetry.log.write(&self.entry(&outcome, self.begun.elapsed()));
    }
}

impl Record {
    fn entry<'a>(&'a self, outcome: &'a Refusal, duration: Duration) -> Entry<'a> {
        let mut entry = Entry::new(self.direction, self.source, self.destination);
        entry.source_workload = self.source_workload.as_ref().map(|w| (&*w.name).into());
        entry.source_namespace = self.source_workload.as_ref().map(|w| w.namespace.as_str().into());
        entry.source_identity = self.source_identity.as_ref().map(|id| id.to_string().into());
        entry.destination_workload = self.target.workload.as_ref().map(|w| (&*w.name).into());
        entry.destination_namespace = self.target.workload.as_ref().map(|w| w.namespace.as_str().into());
        entry.destination_service = self.target.service.as_ref().map(|s| (&*s.key.hostname).into());
        entry.destination_identity = self.destination_identity.as_ref().map(|id| id.to_string().into());
        entry.policy =
            outcome.policy.as_ref().map(|policy| policy.to_string().into()).or_else(|| self.policy.as_deref().map(Into::into));
        entry.reason = outcome.reason.label().into();
        (entry.bytes_sent, entry.bytes_received) = self.bytes();
        entry.duration = duration;
        entry.security = self.security;
        if outcome.reason != Reason::Ok {
            entry.error = Some(outcome.to_string().into());
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use ambit_runtime::telemetry::Destination;

    use super::*;

    #[test]
    fn a_connection_that_goes_on_in_clear_after_a_tunnel_failed_is_not_called_encrypted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = AccessLog::open(&Destination::from(Some(file.path().to_owned()))).unwrap();
        let telemetry = Telemetry::new(log);
        let address = |text: &str| text.parse().unwrap();
        let mut record = telemetry.begin(Direction::Outbound, address("10.0.0.1:4000"), address("10.96.0.1:80"));
        record.towards(&Target::default());
        record.security = Security::MutualTls;
        record.destination_identity = Some("spiffe://cluster.local/ns/shop/sa/api".parse().unwrap());
        record.towards(&Target::default());
        record.finish();
        telemetry.flush();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(" security=none") && text.contains(" dst.identity=- "), "{text}");
    }
}
