//! Parts for the tests of this crate.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ambit_hbone::{Pool, PoolConfig};
use ambit_identity::SpiffeId;
use ambit_runtime::{
    netns::NetNs,
    socket::{PROXY_MARK, Stock},
    telemetry::{AccessLog, Destination},
};
use ambit_tls::{StoreConfig, Svid, SvidSource, SvidStore, TlsError};
use ambit_xds::{Any, Resource};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use prost::Message;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Limits,
    endpoints::{Endpoints, Standings},
    inbound::Decisions,
    known::Known,
    proxy::{Pod, Proxy},
    sources::Sources,
    telemetry::Telemetry,
};

struct NoCertificates;

#[async_trait::async_trait]
impl SvidSource for NoCertificates {
    async fn issue(&self, id: &SpiffeId) -> Result<Svid, TlsError> {
        Err(TlsError::Configuration(format!("none for {id}")))
    }
}

/// A proxy that knows nothing, gets no certificate, has room for one connection and logs to this file.
pub(crate) fn proxy(log: &Path) -> Proxy {
    let log = AccessLog::open(&Destination::from(Some(log.to_owned()))).unwrap();
    Proxy {
        state: Arc::default(),
        certificates: SvidStore::new(Arc::new(NoCertificates), StoreConfig::default()),
        pool: Pool::new(PoolConfig::default()),
        telemetry: Telemetry::new(log),
        limits: Limits { knowledge: Duration::from_millis(50), ..Limits::default() },
        cluster: "Kubernetes".to_owned(),
        places: Arc::new(Semaphore::new(1)),
        near: Arc::default(),
        endpoints: Endpoints::default(),
        turns: Arc::default(),
    }
}

/// A pod in the namespace of the test, with room for one connection.
pub(crate) fn pod() -> Pod {
    let netns = NetNs::from_fd(std::fs::File::open("/proc/self/ns/net").unwrap().into()).unwrap();
    let identity = "spiffe://cluster.local/ns/shop/sa/default".parse().unwrap();
    Pod {
        uid: "1".to_owned(),
        name: "web".to_owned(),
        identity,
        sockets: Stock::new(netns.clone(), PROXY_MARK),
        netns,
        places: Arc::new(Semaphore::new(1)),
        sources: Sources::default(),
        known: Known::default(),
        decisions: Decisions::default(),
        standings: Standings::default(),
        cut: CancellationToken::new(),
    }
}

/// A resource as the control plane sends it.
pub(crate) fn resource(type_url: &str, name: &str, message: &impl Message) -> Resource {
    let body = Any { type_url: type_url.to_owned(), value: message.encode_to_vec() };
    Resource { name: name.to_owned(), version: "1".to_owned(), body }
}

/// Counters, for `metrics::with_local_recorder`.
#[derive(Default)]
pub(crate) struct Counted(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Counted {
    /// What was counted under this name with all these values of labels.
    pub(crate) fn of(&self, name: &str, values: &[&str]) -> u64 {
        let counters = self.0.lock().unwrap();
        let with = |key: &str| key.starts_with(name) && values.iter().all(|value| key.contains(&format!("\"{value}\"")));
        counters.iter().filter(|(key, _)| with(key)).map(|(_, count)| count.load(Ordering::Relaxed)).sum()
    }
}

impl Recorder for Counted {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels: String = key.labels().map(|label| format!(" {}={:?}", label.key(), label.value())).collect();
        let mut counters = self.0.lock().unwrap();
        Counter::from_arc(Arc::clone(counters.entry(format!("{}{labels}", key.name())).or_default()))
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
