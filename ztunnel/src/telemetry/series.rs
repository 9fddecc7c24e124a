//! The metrics of connections. Connections between the same two workloads count in the same series, which are looked up once and kept.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use ambit_identity::SpiffeId;
use ambit_model::{Refusal, plan::Target, service::Service, workload::Workload};
use ambit_runtime::telemetry::{Admitted, Direction, InUse, Security, SeriesLimit, label, metric};
use metrics::{Counter, Label, SharedString, counter};

/// Kinds of connections that are kept; when there are more they are all looked up anew.
const KEPT: usize = 1024;

/// What connections have in common that count together.
#[derive(Debug, Clone)]
pub struct Kind {
    pub(super) direction: Direction,
    /// The workload that opened the connection, when it is known.
    pub source_workload: Option<Arc<Workload>>,
    /// Who opened it.
    pub source_identity: Option<SpiffeId>,
    /// What it is for.
    pub target: Target,
    /// Who answered.
    pub destination_identity: Option<SpiffeId>,
    /// How it is protected between the nodes.
    pub security: Security,
}

impl Kind {
    /// Nothing is known but the direction.
    pub(super) fn new(direction: Direction) -> Self {
        Self {
            direction,
            source_workload: None,
            source_identity: None,
            target: Target::default(),
            destination_identity: None,
            security: Security::None,
        }
    }
}

/// A kind by identity, not by content: a workload that changes is another one. What is pointed to is kept beside it, so that nothing
/// else can come to lie there.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    outbound: bool,
    security: &'static str,
    source: usize,
    destination: usize,
    service: usize,
    identities: [Option<SpiffeId>; 2],
}

impl Key {
    fn of(kind: &Kind) -> Self {
        let workload = |workload: &Option<Arc<Workload>>| workload.as_ref().map_or(0, |w| Arc::as_ptr(w).addr());
        let service = |service: &Option<Arc<Service>>| service.as_ref().map_or(0, |s| Arc::as_ptr(s).addr());
        Self {
            outbound: kind.direction == Direction::Outbound,
            security: kind.security.as_str(),
            source: workload(&kind.source_workload),
            destination: workload(&kind.target.workload),
            service: service(&kind.target.service),
            identities: [kind.source_identity.clone(), kind.destination_identity.clone()],
        }
    }
}

/// The metrics of one kind of connection.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) opened: Counter,
    pub(super) closed: Counter,
    pub(super) sent: Counter,
    pub(super) received: Counter,
    /// The identities of both ends, as text.
    pub(super) identities: [Option<Box<str>>; 2],
    /// What they have in common.
    pub(super) kind: Kind,
    /// Their place among the series; nothing only in tests.
    admitted: Option<Admitted>,
}

impl Series {
    fn of(kind: &Kind, limit: &SeriesLimit) -> (Self, InUse) {
        let (admitted, used) = limit.admit(labels(kind, None));
        let labels = admitted.labels();
        let text = |id: &Option<SpiffeId>| id.as_ref().map(|id| id.to_string().into());
        let series = Self {
            opened: counter!(metric::TCP_CONNECTIONS_OPENED, labels.clone()),
            closed: counter!(metric::TCP_CONNECTIONS_CLOSED, labels.clone()),
            sent: counter!(metric::TCP_SENT_BYTES, labels.clone()),
            received: counter!(metric::TCP_RECEIVED_BYTES, labels),
            identities: [text(&kind.source_identity), text(&kind.destination_identity)],
            kind: kind.clone(),
            admitted: Some(admitted),
        };
        (series, used)
    }

    fn enter(&self) -> Option<InUse> {
        self.admitted.as_ref()?.enter()
    }

    #[cfg(test)]
    pub(super) fn of_nothing() -> Self {
        let none = Counter::noop;
        Self {
            opened: none(),
            closed: none(),
            sent: none(),
            received: none(),
            identities: [None, None],
            kind: Kind::new(Direction::Outbound),
            admitted: None,
        }
    }
}

/// The series of the kinds that were seen lately.
#[derive(Debug, Default)]
pub(super) struct SeriesCache(Mutex<HashMap<Key, Arc<Series>>>);

impl SeriesCache {
    /// The series, and what keeps them from leaving as long as the connection is open.
    pub(super) fn get(&self, kind: &Kind, limit: &SeriesLimit) -> (Arc<Series>, InUse) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Key::of(kind);
        if let Some(series) = kept.get(&key)
            && let Some(used) = series.enter()
        {
            return (Arc::clone(series), used);
        }
        if kept.len() >= KEPT {
            kept.clear();
        }
        let (series, used) = Series::of(kind, limit);
        let series = Arc::new(series);
        kept.insert(key, Arc::clone(&series));
        (series, used)
    }
}

/// Counts a connection that never stood.
pub(super) fn failed(kind: &Kind, refusal: &Refusal, limit: &SeriesLimit) {
    let (admitted, _used) = limit.admit(labels(kind, Some(refusal)));
    counter!(metric::TCP_CONNECTIONS_FAILED, admitted.labels()).increment(1);
}

fn labels(kind: &Kind, refusal: Option<&Refusal>) -> Vec<Label> {
    let text = |key: &'static str, value: &str| {
        let value = if value.is_empty() { label::UNKNOWN } else { value };
        // Shared by all series and by what limits them.
        Label::new(SharedString::const_str(key), SharedString::from_shared(value.into()))
    };
    let reporter = match kind.direction {
        Direction::Outbound => "source",
        Direction::Inbound => "destination",
    };
    let source = kind.source_workload.as_deref();
    let workload = kind.target.workload.as_deref();
    let service = kind.target.service.as_deref();
    let of = |workload: Option<&Workload>, part: fn(&Workload) -> &str| workload.map_or(String::new(), |w| part(w).to_owned());
    let principal = |id: Option<&SpiffeId>| id.map_or(String::new(), ToString::to_string);
    let mut labels = vec![
        Label::from_static_parts(label::REPORTER, reporter),
        text(label::SOURCE_WORKLOAD, &of(source, |w| &w.workload_name)),
        text(label::SOURCE_WORKLOAD_NAMESPACE, &of(source, |w| w.namespace.as_str())),
        text(label::SOURCE_PRINCIPAL, &principal(kind.source_identity.as_ref())),
        text(label::SOURCE_CANONICAL_SERVICE, &of(source, |w| &w.canonical_name)),
        text(label::SOURCE_CANONICAL_REVISION, &of(source, |w| &w.canonical_revision)),
        text(label::SOURCE_CLUSTER, &of(source, |w| &w.cluster)),
        text(label::DESTINATION_WORKLOAD, &of(workload, |w| &w.workload_name)),
        text(label::DESTINATION_WORKLOAD_NAMESPACE, &of(workload, |w| w.namespace.as_str())),
        text(label::DESTINATION_PRINCIPAL, &principal(kind.destination_identity.as_ref())),
        text(label::DESTINATION_CANONICAL_SERVICE, &of(workload, |w| &w.canonical_name)),
        text(label::DESTINATION_CANONICAL_REVISION, &of(workload, |w| &w.canonical_revision)),
        text(label::DESTINATION_CLUSTER, &of(workload, |w| &w.cluster)),
        text(label::DESTINATION_SERVICE, service.map_or("", |s| &s.key.hostname)),
        text(label::DESTINATION_SERVICE_NAME, service.map_or("", |s| &s.name)),
        text(label::DESTINATION_SERVICE_NAMESPACE, service.map_or("", |s| s.key.namespace.as_str())),
        Label::from_static_parts(label::REQUEST_PROTOCOL, "tcp"),
        Label::from_static_parts(label::RESPONSE_FLAGS, "-"),
        Label::from_static_parts(label::CONNECTION_SECURITY_POLICY, kind.security.label()),
    ];
    if let Some(refusal) = refusal {
        labels.push(Label::from_static_parts(label::REASON, refusal.reason.label()));
        labels.push(text(label::POLICY, &refusal.policy.as_ref().map_or("none".to_owned(), ToString::to_string)));
    }
    labels
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn kind(source: &str) -> Kind {
        Kind { source_identity: Some(source.parse().unwrap()), ..Kind::new(Direction::Outbound) }
    }

    #[test]
    fn labels_say_what_both_ends_are() {
        let workload = |name: &str, cluster: &str| {
            let wire = ambit_api::workload::Workload {
                uid: name.into(),
                namespace: format!("{name}-ns"),
                workload_name: format!("{name}-deployment"),
                canonical_name: format!("{name}-service"),
                canonical_revision: format!("{name}-v1"),
                cluster_id: cluster.into(),
                ..Default::default()
            };
            Arc::new(Workload::try_from(wire).unwrap())
        };
        let service = ambit_api::workload::Service {
            name: "api".into(),
            namespace: "shop".into(),
            hostname: "api.example".into(),
            ..Default::default()
        };
        let service = Arc::new(Service::try_from(service).unwrap());
        let target = Target { workload: Some(workload("api", "far")), service: Some(service) };
        let source_workload = Some(workload("web", "near"));
        let kind = Kind { source_workload, target, ..kind("spiffe://cluster.local/ns/web-ns/sa/web") };
        let labels = labels(&kind, None);
        for (name, value) in [
            (label::SOURCE_WORKLOAD, "web-deployment"),
            (label::SOURCE_WORKLOAD_NAMESPACE, "web-ns"),
            (label::SOURCE_PRINCIPAL, "spiffe://cluster.local/ns/web-ns/sa/web"),
            (label::SOURCE_CANONICAL_SERVICE, "web-service"),
            (label::SOURCE_CANONICAL_REVISION, "web-v1"),
            (label::SOURCE_CLUSTER, "near"),
            (label::DESTINATION_WORKLOAD, "api-deployment"),
            (label::DESTINATION_WORKLOAD_NAMESPACE, "api-ns"),
            (label::DESTINATION_PRINCIPAL, "unknown"),
            (label::DESTINATION_CANONICAL_SERVICE, "api-service"),
            (label::DESTINATION_CANONICAL_REVISION, "api-v1"),
            (label::DESTINATION_CLUSTER, "far"),
            (label::DESTINATION_SERVICE, "api.example"),
            (label::DESTINATION_SERVICE_NAME, "api"),
            (label::DESTINATION_SERVICE_NAMESPACE, "shop"),
        ] {
            let said: Vec<_> = labels.iter().filter(|label| label.key() == name).map(Label::value).collect();
            assert_eq!(said, [value], "{name}");
        }
    }

    #[test]
    fn connections_of_one_kind_share_their_series_and_few_kinds_are_kept() {
        let (cache, limit) = (SeriesCache::default(), SeriesLimit::default());
        let web = kind("spiffe://cluster.local/ns/shop/sa/web");
        let first = cache.get(&web, &limit).0;
        assert!(Arc::ptr_eq(&first, &cache.get(&web, &limit).0));
        assert!(!Arc::ptr_eq(&first, &cache.get(&Kind { security: Security::MutualTls, ..web.clone() }, &limit).0));
        for number in 0..2 * KEPT {
            cache.get(&kind(&format!("spiffe://cluster.local/ns/shop/sa/a{number}")), &limit);
        }
        assert!(cache.0.lock().unwrap().len() <= KEPT);
    }

    #[test]
    fn the_series_of_an_open_connection_stay_and_those_of_others_are_looked_up_anew_once_they_have_left() {
        let (cache, limit) = (SeriesCache::default(), SeriesLimit::new(2, Duration::ZERO));
        let of = |name: &str| kind(&format!("spiffe://cluster.local/ns/shop/sa/{name}"));
        let (web, open) = cache.get(&of("web"), &limit);
        let (api, _) = cache.get(&of("api"), &limit);
        let _third = cache.get(&of("third"), &limit);
        assert!(Arc::ptr_eq(&web, &cache.get(&of("web"), &limit).0));
        drop(open);
        assert!(!Arc::ptr_eq(&api, &cache.get(&of("api"), &limit).0));
        assert!(!Arc::ptr_eq(&web, &cache.get(&of("web"), &limit).0));
    }
}
