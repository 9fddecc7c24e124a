//! One access-log line and one set of metrics for each connection, however it ends.

mod list;
mod open;
mod record;
mod series;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ambit_runtime::telemetry::{AccessLog, Direction, SeriesLimit, Spans};

pub use list::{Connection, Owner};
use open::OpenConnections;
pub use record::Record;
use series::SeriesCache;

/// Where connections are recorded. Clones share everything.
#[derive(Debug, Clone)]
pub struct Telemetry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    log: AccessLog,
    limit: SeriesLimit,
    series: SeriesCache,
    open: OpenConnections,
    spans: Option<Spans>,
}

impl Telemetry {
    /// Records to `log` and to the metrics of this process.
    #[must_use]
    pub fn new(log: AccessLog) -> Self {
        Self::limited(log, SeriesLimit::default(), None)
    }

    /// As [`Telemetry::new`], with this limit of metric series, and spans.
    #[must_use]
    pub fn limited(log: AccessLog, limit: SeriesLimit, spans: Option<Spans>) -> Self {
        Self(Arc::new(Shared { log, limit, series: SeriesCache::default(), open: OpenConnections::default(), spans }))
    }

    /// Begins the record of a connection. It is written when the record is dropped.
    #[must_use]
    pub fn begin(&self, direction: Direction, source: SocketAddr, destination: SocketAddr) -> Record {
        Record::begin(self.clone(), direction, source, destination)
    }

    /// Puts the bytes of open connections, which may live for days, into the metrics. To be called before these are read.
    pub fn report(&self) {
        self.0.open.report();
    }

    /// Ends connections that have carried nothing for `idle`, or for `half_open` since one side has ended. To be called by one task, again
    /// and again.
    pub fn expire(&self, idle: Duration, half_open: Duration) {
        self.0.open.expire(idle, half_open);
    }

    /// Writes out the lines that are waiting.
    pub fn flush(&self) {
        self.0.log.flush();
    }

    /// Tries to send the spans that are waiting, for `limit` at most.
    pub async fn flush_spans(&self, limit: Duration) {
        if let Some(spans) = &self.0.spans {
            spans.flush(limit).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use ambit_model::{Reason, Refusal, authorize::Allowed, plan::Target, policy::PolicyKey};
    use ambit_runtime::telemetry::{Destination, Security};

    use super::*;
    use crate::test_support::Counted;

    #[test]
    fn a_connection_that_goes_on_in_clear_after_a_tunnel_failed_is_not_called_encrypted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = AccessLog::open(&Destination::from(Some(file.path().to_owned()))).unwrap();
        let telemetry = Telemetry::new(log);
        let address = |text: &str| text.parse().unwrap();
        let mut record = telemetry.begin(Direction::Outbound, address("10.0.0.1:4000"), address("10.96.0.1:80"));
        record.towards(&Target::default(), None);
        record.secured(Security::MutualTls, Some(&"spiffe://cluster.local/ns/shop/sa/api".parse().unwrap()));
        record.towards(&Target::default(), None);
        record.finish();
        telemetry.flush();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(" security=none") && text.contains(" dst.identity=- "), "{text}");
    }

    #[test]
    fn what_dry_run_policies_make_of_a_connection_is_counted_once_and_again_when_it_changes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let telemetry = Telemetry::new(AccessLog::open(&Destination::from(Some(file.path().to_owned()))).unwrap());
        let counted = Counted::default();
        let decided = |names: &[&str]| {
            let denied = |name: &&str| Refusal::new(Reason::PolicyDeniedExplicit, "").by(PolicyKey::new("shop", *name), Some(0));
            Allowed { policy: None, dry_run: names.iter().map(denied).collect() }
        };
        metrics::with_local_recorder(&counted, || {
            let address = |text: &str| text.parse().unwrap();
            let mut record = telemetry.begin(Direction::Inbound, address("10.0.0.1:4000"), address("10.0.0.2:80"));
            for (names, right) in [
                (&[][..], [0, 0]),
                (&["a"], [1, 0]),
                (&["a"], [1, 0]),
                (&["a", "b"], [1, 1]),
                (&["b"], [1, 1]),
                (&["a", "b"], [2, 1]),
                (&["b"], [2, 1]),
            ] {
                record.allowed(decided(names));
                let count = |policy| counted.of("ambit_policy_dry_run_total", &["policy_denied_explicit", policy, "destination"]);
                assert_eq!([count("shop/a"), count("shop/b")], right, "{names:?}");
            }
            record.finish();
        });
        telemetry.flush();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(text.contains(" reason=ok ") && text.contains(" dry_run=shop/b:policy_denied_explicit"), "{text}");
        assert!(!text.contains("shop/a"), "{text}");
    }
}
