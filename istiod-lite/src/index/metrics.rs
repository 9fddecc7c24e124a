//! Metrics: what of them is another at waypoints and proxies at the edge, as Telemetries say. Each adds to what those say that are less close: for the
//! mesh, for the namespace, for the class, for the Gateway, for the service.

use ambit_model::measure::MetricChanges;

use super::{Index, ServiceRef};
use crate::source::NamespacedName;
use crate::source::crd::telemetry::Telemetry;

impl Index {
    /// What is another of the metrics of the traffic to a service at a waypoint, or of other traffic there; `None` where nothing is.
    #[must_use]
    pub fn measured(&self, gateway: &NamespacedName, service: Option<&ServiceRef>) -> Option<MetricChanges> {
        let service = match service {
            Some(ServiceRef::Kubernetes(service)) => Some(service),
            Some(ServiceRef::Host(_)) | None => None,
        };
        let asks = |telemetry: &Telemetry| !telemetry.spec.metrics.is_empty();
        let mut changes = MetricChanges::default();
        for (namespace, target) in self.telemetry_levels(gateway, service).into_iter().rev() {
            let Some(telemetry) = self.telemetry_at(namespace, target, asks) else { continue };
            for one in telemetry.spec.measured().0 {
                one.apply(&mut changes);
            }
        }
        changes.0.retain(|_, change| change.disabled || !change.labels.is_empty());
        Some(changes).filter(|changes| !changes.0.is_empty())
    }
}
