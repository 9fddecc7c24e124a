//! The metrics recorder of the process.

use std::sync::{Arc, Mutex, PoisonError};

use ::metrics::Label;

use super::registry::Registry;
use crate::Error;

/// Reads the metrics that this process records through the `metrics` macros.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// What brings metrics up to date.
    refresh: Option<Arc<dyn Fn() + Send + Sync>>,
}

static INSTALLED: Mutex<Option<Registry>> = Mutex::new(None);

/// Installs the recorder of this process, or returns the one installed before.
///
/// # Errors
/// Something else installed another recorder.
pub fn metrics_handle() -> Result<Metrics, Error> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    let registry = match installed.as_ref() {
        Some(registry) => registry.clone(),
        None => {
            let registry = Registry::default();
            ::metrics::set_global_recorder(registry.clone()).map_err(|_| Error::AlreadyInstalled("a metrics recorder"))?;
            installed.insert(registry).clone()
        }
    };
    Ok(Metrics { registry, refresh: None })
}

/// Lets everything under these labels go from the recorder of this process.
pub(super) fn forget(labels: &[Label]) {
    if let Some(registry) = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        registry.forget(labels);
    }
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
        self.registry.render()
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
    use crate::telemetry::{label, metric};

    #[test]
    fn the_recorder_is_installed_once_and_renders_counters_and_buckets() {
        let metrics = metrics_handle().unwrap();
        let again = metrics_handle().unwrap();
        counter!(metric::TCP_CONNECTIONS_OPENED, label::REPORTER => "source").increment(2);
        histogram!(metric::REQUEST_DURATION).record(7.0);
        let text = metrics.render();
        for line in [
            r#"istio_tcp_connections_opened_total{reporter="source"} 2"#,
            r#"istio_request_duration_milliseconds_bucket{le="5"} 0"#,
            r#"istio_request_duration_milliseconds_bucket{le="10"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
        }
        assert!(again.render().contains(r#"istio_tcp_connections_opened_total{reporter="source"} 2"#));
    }
}
