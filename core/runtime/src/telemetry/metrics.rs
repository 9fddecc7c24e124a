//! The metrics recorder of the process.

use std::sync::{Arc, Mutex, PoisonError};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::metric;
use crate::Error;

/// Upper bounds of the duration buckets, milliseconds: those of Istio's standard metrics.
const DURATION_BUCKETS: [f64; 20] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0, 300000.0, 600000.0,
    1800000.0, 3600000.0, 7200000.0,
];
/// Upper bounds of the buckets of what takes seconds at most, seconds.
const SECONDS_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Upper bounds of the size buckets, bytes.
const SIZE_BUCKETS: [f64; 8] = [100.0, 1_000.0, 10_000.0, 100_000.0, 1e6, 1e7, 1e8, 1e9];

/// Reads the metrics that this process records through the `metrics` macros.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    /// What brings metrics up to date.
    refresh: Option<Arc<dyn Fn() + Send + Sync>>,
}

static INSTALLED: Mutex<Option<Metrics>> = Mutex::new(None);

/// Installs the recorder of this process, or returns the one installed before.
///
/// # Errors
/// Something else installed another recorder.
pub fn metrics_handle() -> Result<Metrics, Error> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(metrics) = installed.as_ref() {
        return Ok(metrics.clone());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(metric::REQUEST_DURATION.to_owned()), &DURATION_BUCKETS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &SIZE_BUCKETS))
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS))
        .map_err(|error| Error::Metrics(error.to_string()))?
        .build_recorder();
    let metrics = Metrics { handle: recorder.handle(), refresh: None };
    ::metrics::set_global_recorder(recorder).map_err(|_| Error::AlreadyInstalled("a metrics recorder"))?;
    *installed = Some(metrics.clone());
    Ok(metrics)
}

impl Metrics {
    /// Calls `refresh` each time before this handle and clones that are made of it from now on are rendered: for what is counted
    /// elsewhere and put into the metrics only when somebody looks.
    pub fn before_render(&mut self, refresh: impl Fn() + Send + Sync + 'static) {
        self.refresh = Some(Arc::new(refresh));
    }

    /// All metrics in the Prometheus text format.
    pub fn render(&self) -> String {
        if let Some(refresh) = &self.refresh {
            refresh();
        }
        self.handle.render()
    }

    /// Folds histogram samples into their buckets; to be called every few seconds (the admin server does).
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use ::metrics::{counter, histogram};

    use super::*;
    use crate::telemetry::label;

    #[test]
    fn the_recorder_is_installed_once_and_renders_counters_and_buckets() {
        let metrics = metrics_handle().unwrap();
        let again = metrics_handle().unwrap();
        counter!(metric::TCP_CONNECTIONS_OPENED, label::REPORTER => "source").increment(2);
        histogram!(metric::REQUEST_DURATION).record(7.0);
        histogram!(metric::REQUEST_BYTES).record(2_000.0);
        again.upkeep();
        let text = metrics.render();
        for line in [
            r#"istio_tcp_connections_opened_total{reporter="source"} 2"#,
            r#"istio_request_duration_milliseconds_bucket{le="5"} 0"#,
            r#"istio_request_duration_milliseconds_bucket{le="10"} 1"#,
            r#"istio_request_bytes_bucket{le="10000"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
        }
        assert_eq!(text, again.render());
    }
}
