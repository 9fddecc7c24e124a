//! Endpoints that fail their health check, and are well again (`health_checks`). Decided in the model; here is what was found, and what follows.

use std::{collections::HashMap, sync::Arc};

use ambit_model::balance::{Checks, Found};
use metrics::counter;

use super::{Host, Known, Live, outliers::RETURNS};
use crate::compiled::{Cluster, HealthCheck, Target};

/// Counts health checks, by `result`.
const CHECKS: &str = "ambit_health_checks_total";
/// Counts endpoints that begin to fail their health check, or no longer do, by `to`.
const CHANGES: &str = "ambit_endpoint_health_changes_total";

/// What is known of an endpoint by its health checks.
#[derive(Debug, Default)]
pub(super) struct Health {
    pub(super) checks: Checks,
    /// What the last check that was not a good one has found.
    pub(super) why: Option<String>,
}

impl Live {
    /// The endpoints that are checked.
    pub(crate) fn checked(&self) -> Vec<Arc<Host>> {
        self.known().hosts.values().filter(|host| host.is_checked()).cloned().collect()
    }

    /// Takes in what a check has found, and why it is no good answer.
    pub(crate) fn found(&self, cluster: &Cluster, check: &HealthCheck, host: &Arc<Host>, found: Found, why: Option<String>) {
        let result = match found {
            Found::Well => "success",
            Found::Ill | Found::Silent => "failure",
        };
        counter!(CHECKS, "result" => result).increment(1);
        let known = self.known();
        // It may have left the cluster meanwhile, or its cluster's endpoints are not checked any more.
        if !host.is_checked() || !known.hosts.get(&host.target).is_some_and(|one| Arc::ptr_eq(one, host)) {
            return;
        }
        let text = why.clone().unwrap_or_default();
        let mut changed = host.checked_again(|health| {
            health.why = why;
            health.checks.note(found, check.thresholds)
        });
        let (name, now) = (&*cluster.name, self.began.elapsed());
        if changed && found == Found::Well {
            host.since.now(now);
        }
        match (changed, found) {
            (false, _) => {}
            (true, Found::Well) => {
                counter!(CHANGES, "to" => "healthy").increment(1);
                tracing::info!(cluster = name, endpoint = %host, "an endpoint passes its health check");
            }
            (true, Found::Ill | Found::Silent) => {
                counter!(CHANGES, "to" => "unhealthy").increment(1);
                tracing::warn!(cluster = name, endpoint = %host, why = %text, "an endpoint fails its health check and is given no requests");
            }
        }
        if found == Found::Well && check.acquits && !host.is_failing() && host.is_ejected() {
            host.acquit();
            known.returns(host, now);
            counter!(RETURNS).increment(1);
            tracing::info!(cluster = name, endpoint = %host, "an endpoint that was ejected answers its health check well");
            changed = true;
        }
        if changed {
            self.spread(&known);
        }
    }
}

impl Known {
    /// Has its endpoints be checked or not. One that is new waits for its first check if others were checked before it.
    pub(super) fn check(&self, checks: bool, before: &HashMap<Target, Arc<Host>>) {
        let waits = before.values().any(|host| host.is_checked());
        for endpoint in self.endpoints.localities.iter().flat_map(|locality| &locality.endpoints) {
            let Some(host) = self.hosts.get(&endpoint.target) else { continue };
            let is_new = !before.contains_key(&endpoint.target);
            // What has no address of its own cannot be asked, and would fail for ever.
            let can_be = matches!(endpoint.target, Target::Hbone { .. } | Target::Clear { .. });
            host.set_checked(checks && endpoint.checked && can_be, is_new && waits);
        }
    }
}

#[cfg(test)]
mod tests;
