//! Access logs: whom waypoints and proxies at the edge write them to, as Telemetries say, the closest one alone: one for the service, for the
//! Gateway, for its class, for its namespace, for the mesh.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use super::{ChangedKey, Index, ServicePort, ServiceRef};
use crate::source::NamespacedName;
use crate::source::crd::mesh::{self, AccessLogger, log};
use crate::source::crd::telemetry::{OnlyStatus, Telemetry};

/// One log that is asked for.
#[derive(Debug, Clone)]
pub struct LogsTo<'a> {
    /// The extension provider.
    pub provider: &'a str,
    /// What is said of it.
    pub logger: &'a AccessLogger,
    /// Of which requests.
    pub only: Option<OnlyStatus>,
    /// The service of a collector, and the port there.
    pub place: Option<(ServiceRef, ServicePort)>,
}

/// The provider that is there without a ConfigMap.
static BUILT_IN: LazyLock<AccessLogger> = LazyLock::new(log::built_in);

/// A port of a service.
type Place = (ServiceRef, ServicePort);

impl Index {
    /// What is logged of the traffic to a service at a waypoint, or of other traffic there; `None` where nobody says, or of all that is asked
    /// for nothing can be done.
    #[must_use]
    pub fn access_logs(&self, gateway: &NamespacedName, service: Option<&ServiceRef>) -> Option<Vec<LogsTo<'_>>> {
        let (logs, faults) = self.logs_of(self.logging(gateway, service)?);
        (!logs.is_empty() || faults.is_empty()).then_some(logs)
    }

    /// What a Telemetry has logged, and what is wrong with the rest.
    #[must_use]
    pub fn logs_of<'a>(&'a self, telemetry: &'a Telemetry) -> (Vec<LogsTo<'a>>, Vec<String>) {
        let (mut logs, mut faults) = (Vec::<LogsTo<'a>>::new(), Vec::new());
        for (at, entry) in telemetry.spec.access_logging.iter().enumerate().filter(|(_, entry)| !entry.is_of_clients()) {
            let disabled = entry.disabled.unwrap_or_default();
            if disabled && entry.providers.is_empty() {
                logs.clear();
                continue;
            }
            let only = match entry.only() {
                Ok(only) => only,
                Err(_) if disabled => None,
                Err(why) => {
                    faults.push(format!("spec.accessLogging[{at}].filter.expression: {why}"));
                    continue;
                }
            };
            let named: Vec<&str> = match entry.providers.is_empty() {
                true => self.default_loggers(),
                false => entry.providers.iter().map(|provider| provider.name.as_str()).collect(),
            };
            for provider in named {
                logs.retain(|log| log.provider != provider);
                if disabled {
                    continue;
                }
                match self.logger(provider) {
                    Ok((logger, place)) => logs.push(LogsTo { provider, logger, only, place }),
                    Err(why) => faults.push(format!("spec.accessLogging[{at}].providers: {why}")),
                }
            }
        }
        (logs, faults)
    }

    /// The Telemetry that says it, the oldest of several.
    fn logging(&self, gateway: &NamespacedName, service: Option<&ServiceRef>) -> Option<&Telemetry> {
        let service = match service {
            Some(ServiceRef::Kubernetes(service)) => Some(service),
            Some(ServiceRef::Host(_)) | None => None,
        };
        let asks = |telemetry: &Telemetry| telemetry.spec.access_logging.iter().any(|entry| !entry.is_of_clients());
        let mut levels = self.telemetry_levels(gateway, service).into_iter();
        levels.find_map(|(namespace, target)| self.telemetry_at(namespace, target, asks))
    }

    fn mesh_key(&self) -> NamespacedName {
        NamespacedName::new(self.config().root_namespace.as_str(), mesh::NAME)
    }

    fn default_loggers(&self) -> Vec<&str> {
        let settings = self.objects().mesh_settings.get(&self.mesh_key());
        let named: Vec<&str> = settings.into_iter().flat_map(|settings| &settings.default_loggers).map(String::as_str).collect();
        if named.is_empty() { vec![log::BUILT_IN] } else { named }
    }

    /// Whom a provider is, and where.
    fn logger(&self, provider: &str) -> Result<(&AccessLogger, Option<Place>), String> {
        let key = self.mesh_key();
        let known = self.objects().mesh_settings.get(&key).and_then(|settings| settings.loggers.get(provider));
        let logger = match known {
            Some(Ok(logger)) => logger,
            Some(Err(why)) => return Err(format!("the extension provider {provider} cannot be written to: {why}")),
            None if provider == log::BUILT_IN => &*BUILT_IN,
            None => {
                let kinds = [log::FILE, log::COLLECTOR].join(" or ");
                return Err(format!("the ConfigMap {key} has no extension provider {provider} of kind {kinds}"));
            }
        };
        let place = match logger {
            AccessLogger::File { .. } => None,
            AccessLogger::Collector { service, port, .. } => Some(self.place_of(provider, service, *port)?),
        };
        Ok((logger, place))
    }

    /// What a Telemetry can change of access logs and of metrics.
    pub(super) fn logging_affected(&self, telemetry: &Telemetry, changed: &mut BTreeSet<ChangedKey>) {
        if !telemetry.spec.access_logging.is_empty() || !telemetry.spec.metrics.is_empty() {
            self.all_logging(changed);
        }
    }

    /// There are few waypoints, and a listener that is the same is not sent again.
    fn all_logging(&self, changed: &mut BTreeSet<ChangedKey>) {
        changed.extend(self.waypoints().chain(self.ingresses()).cloned().map(ChangedKey::Waypoint));
    }

    /// Adds the waypoints that write access logs to a collector which is, or may be, this service.
    pub(super) fn waypoints_logging_to(&self, service: &ServiceRef, changed: &mut BTreeSet<ChangedKey>) {
        let host = service.hostname(self.config());
        let is_this = |logger: &AccessLogger| match logger {
            AccessLogger::File { .. } => false,
            AccessLogger::Collector { service, .. } => service.rsplit('/').next().unwrap_or_default().eq_ignore_ascii_case(&host),
        };
        let mut known = self.objects().mesh_settings.values().flat_map(|settings| settings.loggers.values());
        if known.any(|known| known.as_ref().is_ok_and(is_this)) {
            self.all_logging(changed);
        }
    }
}
