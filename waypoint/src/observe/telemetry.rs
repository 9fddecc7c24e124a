//! The access log and the standard metrics.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::{
        Arc, LazyLock, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ambit_model::{Reason, reason::dry_run};
use ambit_runtime::telemetry::{
    AccessLog, Admitted, Direction, Entry, InUse, Security, SeriesLimit, count_dry_run, label, metric,
};
use metrics::{Counter, Histogram, Label, SharedString, counter, histogram};

use super::{Given, Record, measured, outlets::Outlets};

/// Where records go.
#[derive(Debug)]
pub struct Telemetry {
    log: AccessLog,
    series: SeriesLimit,
    /// By a hash, which needs not be hashed with care once more.
    known: RwLock<HashMap<u64, Known, foldhash::fast::RandomState>>,
    hasher: RandomState,
    in_flight: AtomicUsize,
    pub(super) outlets: Outlets,
}

/// The metrics of one set of labels. Looking one up by the hash of what its labels are made of saves making the labels each time.
enum Series {
    Requests { count: Counter, duration: Histogram },
    Connections { opened: Counter, closed: Counter, sent: Counter, received: Counter },
    Failed(Counter),
}

/// The metrics of one set of facts, with the labels that they are under: one set for all of them where nobody asks for others.
#[derive(Debug)]
struct Known {
    series: Series,
    first: Option<Admitted>,
    more: Vec<Admitted>,
}

/// Keeps their labels until it is dropped.
type Used = (Option<InUse>, Vec<InUse>);

impl Known {
    /// Begins a use, if all of their labels are still there.
    fn enter(&self) -> Option<Used> {
        let first = match &self.first {
            Some(first) => Some(first.enter()?),
            None => None,
        };
        let more = self.more.iter().map(Admitted::enter).collect::<Option<_>>()?;
        Some((first, more))
    }
}

impl Series {
    /// Counts a record that ends, and has taken so long.
    fn count(&self, record: &Record, took: Duration) {
        match self {
            Self::Requests { count, duration } => {
                count.increment(1);
                duration.record(took.as_secs_f64() * 1000.0);
            }
            Self::Connections { opened, closed, sent, received } => {
                opened.increment(1);
                closed.increment(1);
                sent.increment(record.received);
                received.increment(record.sent());
            }
            Self::Failed(count) => count.increment(1),
        }
    }
}

impl std::fmt::Debug for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Series")
    }
}

impl Telemetry {
    /// Records go to `log` and to the process's metrics recorder.
    pub fn new(log: AccessLog) -> Self {
        Self {
            log,
            series: SeriesLimit::default(),
            known: RwLock::default(),
            hasher: RandomState::new(),
            in_flight: AtomicUsize::new(0),
            outlets: Outlets::default(),
        }
    }

    /// Takes one of `limit` places for a request, given back when dropped.
    pub fn admit(self: &Arc<Self>, limit: usize) -> Option<InFlight> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let place = InFlight(self.clone());
        (before < limit).then_some(place)
    }

    /// Waits until the log is with the operating system.
    pub fn flush(&self) {
        self.log.flush();
        self.outlets.flush();
    }

    /// Has all files of logs opened anew, as whoever has renamed them asks for.
    pub fn reopen(&self) {
        self.log.reopen();
        self.outlets.reopen();
    }

    /// Waits until collectors have all records, no longer than this.
    pub async fn sent(&self, most: Duration) {
        self.outlets.queue.emptied(most).await;
    }

    pub(super) fn write(&self, record: &Record) {
        let took = record.started.elapsed();
        match &record.logged {
            Some(logged) => self.outlets.write(record, logged),
            None => self.log.write(&entry(record, took)),
        }
        for decided in &record.dry_run {
            count_dry_run("waypoint", decided.reason.label(), dry_run::policy(decided), &self.series);
        }
        let key = self.key(record);
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&key)
            && let Some(_used) = known.enter()
        {
            return known.series.count(record, took);
        }
        let (made, _used) = self.make(record);
        made.series.count(record, took);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // Some of them may have left.
        if known.len() >= SeriesLimit::DEFAULT {
            known.clear();
        }
        known.insert(key, made);
    }

    /// The hash of everything that the labels of a record are made of.
    fn key(&self, record: &Record) -> u64 {
        let Some(changes) = &record.metrics else { return self.hasher.hash_one(facts(record)) };
        let mut hasher = self.hasher.build_hasher();
        facts(record).hash(&mut hasher);
        changes.hash(&mut hasher);
        for fact in changes.0.values().flat_map(|change| measured::facts(change, record)) {
            fact.hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Makes the metrics of a record.
    fn make(&self, record: &Record) -> (Known, Used) {
        let own = labels(record);
        let mut admitted: Vec<(Vec<Label>, Admitted, InUse)> = Vec::new();
        // The labels of a metric; none for one that is not counted.
        let mut under = |name: &str| -> Option<Vec<Label>> {
            let change = record.metrics.as_ref().and_then(|changes| changes.of(name));
            let labels = match change {
                Some(change) if change.disabled => return None,
                Some(change) => measured::changed(own.clone(), change, record),
                None => own.clone(),
            };
            if let Some((_, known, _)) = admitted.iter().find(|(asked, ..)| *asked == labels) {
                return Some(known.labels());
            }
            let (known, used) = self.series.admit(labels.clone());
            let kept = known.labels();
            admitted.push((labels, known, used));
            Some(kept)
        };
        let mut count = |name: &'static str| match under(name) {
            Some(labels) => counter!(name, labels),
            None => Counter::noop(),
        };
        let series = match (record.request.is_some(), record.upstream.is_some()) {
            (true, _) => Series::Requests {
                count: count(metric::REQUESTS),
                duration: match under(metric::REQUEST_DURATION) {
                    Some(labels) => histogram!(metric::REQUEST_DURATION, labels),
                    None => Histogram::noop(),
                },
            },
            (false, true) => Series::Connections {
                opened: count(metric::TCP_CONNECTIONS_OPENED),
                closed: count(metric::TCP_CONNECTIONS_CLOSED),
                sent: count(metric::TCP_SENT_BYTES),
                received: count(metric::TCP_RECEIVED_BYTES),
            },
            (false, false) => Series::Failed(count(metric::TCP_CONNECTIONS_FAILED)),
        };
        let (mut kept, mut used) = (Vec::new(), Vec::new());
        for (_, known, by) in admitted {
            kept.push(known);
            used.push(by);
        }
        let mut kept = kept.into_iter();
        let mut used = used.into_iter();
        let (first, first_used) = (kept.next(), used.next());
        (Known { series, first, more: kept.collect() }, (first_used, used.collect()))
    }
}

/// A hash of what is the same for many records, made once for all of them. Peers choose some of it, and do not know what comes of it.
pub fn hashed(facts: &impl Hash) -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEYS.hash_one(facts)
}

/// Everything that [`labels`] is made of.
fn facts(record: &Record) -> impl Hash + '_ {
    let upstream = record.upstream.as_ref().map(|upstream| upstream.hash);
    let service = record.service.as_ref().map(|s| (&s.host, &s.namespace, &s.name));
    (
        record.peer.hash,
        (upstream, service),
        (
            record.protocol,
            record.reason,
            (record.given, record.delayed),
            record.status,
            record.grpc_status,
            record.request.is_some(),
        ),
    )
}

/// A place among the requests in flight.
#[derive(Debug)]
pub struct InFlight(Arc<Telemetry>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn borrowed(text: &Option<Arc<str>>) -> Option<Cow<'_, str>> {
    text.as_deref().filter(|t| !t.is_empty()).map(Cow::Borrowed)
}

fn entry(record: &Record, took: Duration) -> Entry<'_> {
    let mut entry = Entry::new(Direction::Inbound, record.peer.address, record.destination);
    entry.source_workload = borrowed(&record.peer.workload);
    entry.source_namespace = record.peer.identity.as_ref().map(|id| id.namespace().as_str().into());
    entry.source_identity = record.peer.uri.as_deref().map(Cow::Borrowed);
    if let Some(upstream) = &record.upstream {
        entry.destination_workload = Some(Cow::Borrowed(&*upstream.workload)).filter(|w| !w.is_empty());
        entry.destination_namespace = Some(Cow::Borrowed(&*upstream.namespace)).filter(|w| !w.is_empty());
        entry.destination_identity = upstream.uri.as_deref().map(Cow::Borrowed);
    }
    entry.destination_service = record.service.as_ref().map(|s| Cow::Borrowed(&*s.host)).filter(|h| !h.is_empty());
    entry.policy = record.policy.as_ref().map(|p| p.to_string().into());
    entry.dry_run = dry_run::text(&record.dry_run).map(Cow::Owned);
    entry.reason = record.reason.label().into();
    entry.bytes_sent = record.sent();
    entry.bytes_received = record.received;
    entry.duration = took;
    entry.security = security(record);
    if let Some((method, path)) = &record.request {
        entry.method = Some(method.as_str().into());
        entry.path = Some(path.into());
    }
    entry.status = record.status;
    // What cannot be read as a request was to be one.
    let is_request = record.request.is_some() || record.reason == Reason::RequestUnreadable;
    let flags = is_request.then(|| flags(record.reason, record.given, record.delayed)).filter(|flags| &**flags != "-");
    entry.flags = flags.map(|flags| flags.to_string().into());
    entry.route = borrowed(&record.route);
    entry.cluster = borrowed(&record.cluster);
    entry.attempts = (record.attempts > 1).then_some(record.attempts);
    entry.error = record.error.as_deref().map(Cow::Borrowed);
    entry
}

pub(super) fn security(record: &Record) -> Security {
    match record.peer.identity {
        Some(_) => Security::MutualTls,
        None if record.peer.in_tls => Security::Tls,
        None => Security::None,
    }
}

fn labels(record: &Record) -> Vec<Label> {
    let text = |key: &'static str, value: Option<&str>| {
        let value = value.filter(|v| !v.is_empty());
        Label::new(key, value.map_or(SharedString::const_str(label::UNKNOWN), |v| SharedString::from_shared(v.into())))
    };
    let principal = record.peer.identity.as_ref().map(|id| id.to_string());
    let source_namespace = record.peer.identity.as_ref().map(|id| id.namespace().as_str());
    let source = record.peer.workload.as_deref();
    let upstream = record.upstream.as_ref();
    // Pods come and go, and what made them stays: lines of the log name the pod.
    let (workload, canonical) = upstream.map(|u| (u.workload.workload_name(), u.workload.canonical_name())).unzip();
    let namespace = upstream.map(|u| &*u.namespace).or(record.service.as_ref().map(|s| &*s.namespace));
    let destination_principal = upstream.and_then(|u| u.identity.as_ref()).map(|id| id.to_string());
    let service = record.service.as_ref();
    let mut labels = vec![
        Label::new(label::REPORTER, "waypoint"),
        text(label::SOURCE_WORKLOAD, source),
        text(label::SOURCE_CANONICAL_SERVICE, record.peer.canonical_service.as_deref().or(source)),
        text(label::SOURCE_CANONICAL_REVISION, record.peer.canonical_revision.as_deref()),
        text(label::SOURCE_WORKLOAD_NAMESPACE, source_namespace),
        text(label::SOURCE_PRINCIPAL, principal.as_deref()),
        text(label::DESTINATION_WORKLOAD, workload),
        text(label::DESTINATION_CANONICAL_SERVICE, canonical),
        text(label::DESTINATION_WORKLOAD_NAMESPACE, namespace),
        text(label::DESTINATION_PRINCIPAL, destination_principal.as_deref()),
        text(label::DESTINATION_SERVICE, service.map(|s| &*s.host)),
        text(label::DESTINATION_SERVICE_NAME, service.map(|s| &*s.name)),
        text(label::DESTINATION_SERVICE_NAMESPACE, service.map(|s| &*s.namespace)),
        Label::new(label::REQUEST_PROTOCOL, record.protocol),
        Label::new(label::CONNECTION_SECURITY_POLICY, security(record).label()),
        Label::new(label::RESPONSE_FLAGS, flags(record.reason, record.given, record.delayed)),
        Label::new(label::REASON, record.reason.label()),
    ];
    if record.request.is_some() {
        let status = record.status.unwrap_or(0).to_string();
        labels.push(Label::new(label::RESPONSE_CODE, status));
        if record.protocol == "grpc" {
            let status = record.grpc_status.map_or_else(String::new, |s| s.to_string());
            labels.push(Label::new(label::GRPC_RESPONSE_STATUS, status));
        }
    }
    labels
}

/// The short codes that Envoy gives for the same outcome (`%RESPONSE_FLAGS%`), in the order in which it learns of them.
pub(super) fn flags(reason: Reason, given: Option<Given>, delayed: bool) -> SharedString {
    let given = given.map(|given| match given {
        Given::Exhausted => "URX",
        Given::OverBudget => "UO",
    });
    let of_end = flag(reason);
    match (delayed, given) {
        (false, None) => SharedString::const_str(of_end),
        (delayed, given) => {
            let delay = delayed.then_some("DI");
            let of_end = Some(of_end).filter(|flag| *flag != "-");
            SharedString::from_owned(delay.into_iter().chain(given).chain(of_end).collect::<Vec<_>>().join(","))
        }
    }
}

fn flag(reason: Reason) -> &'static str {
    match reason {
        Reason::NoHealthyEndpoint => "UH",
        Reason::UpstreamRefused | Reason::UpstreamUnreachable | Reason::PeerIdentityMismatch | Reason::TunnelFailed => "UF",
        Reason::UpstreamReset => "UC",
        Reason::UpstreamStreamReset | Reason::UpstreamStreamRefused => "UR",
        Reason::UpstreamProtocolError => "UPE",
        Reason::UpstreamTimeout | Reason::RequestTimeout => "UT",
        Reason::StreamIdleTimeout => "SI",
        Reason::RouteNotFound | Reason::ListenerNotFound => "NR",
        Reason::BackendInvalid => "NC",
        Reason::ClientReset => "DC",
        Reason::ClientStreamReset => "DR",
        Reason::RequestUnreadable => "DPE",
        Reason::RequestLimit => "OM",
        Reason::ClusterOverloaded => "UO",
        Reason::FaultInjected => "FI",
        Reason::RateLimited => "RL",
        Reason::RateLimitError => "RLSE",
        Reason::ExtAuthzDenied | Reason::ExtAuthzError => "UAEX",
        _ => "-",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_of_envoy() {
        let (exhausted, over) = (Some(Given::Exhausted), Some(Given::OverBudget));
        for (reason, given, expected) in [
            (Reason::Ok, None, "-"),
            (Reason::Ok, exhausted, "URX"),
            (Reason::Ok, over, "UO"),
            (Reason::UpstreamReset, None, "UC"),
            (Reason::UpstreamStreamReset, None, "UR"),
            (Reason::UpstreamStreamRefused, None, "UR"),
            (Reason::UpstreamStreamRefused, exhausted, "URX,UR"),
            (Reason::ClientReset, None, "DC"),
            (Reason::ClientStreamReset, None, "DR"),
            (Reason::RequestUnreadable, None, "DPE"),
            // Read as a request, and refused as one.
            (Reason::RequestInvalid, None, "-"),
            (Reason::ClusterOverloaded, None, "UO"),
            (Reason::UpstreamReset, exhausted, "URX,UC"),
            (Reason::UpstreamRefused, exhausted, "URX,UF"),
            (Reason::RequestTimeout, over, "UO,UT"),
            (Reason::UpstreamProtocolError, exhausted, "URX,UPE"),
            (Reason::StreamIdleTimeout, None, "SI"),
            (Reason::StreamTimeout, None, "-"),
        ] {
            assert_eq!(&*flags(reason, given, false), expected, "{reason:?} {given:?}");
        }
        for (reason, given, expected) in [
            (Reason::Ok, None, "DI"),
            (Reason::FaultInjected, None, "DI,FI"),
            (Reason::RateLimited, None, "DI,RL"),
            (Reason::RateLimitError, None, "DI,RLSE"),
            (Reason::UpstreamReset, exhausted, "DI,URX,UC"),
        ] {
            assert_eq!(&*flags(reason, given, true), expected, "{reason:?} {given:?} after a delay");
        }
    }
}
