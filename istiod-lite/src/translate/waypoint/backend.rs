//! What an XBackendTrafficPolicy says of a Service, as Envoy has it.
//!
//! Envoy's budget is of the requests that are under way, without an interval; and in place of a rate that there may be in any case it has a
//! number at once: as many at once as there may be in a second.

use gateway_api::experimental::httproutes::{HttpRouteRulesSessionPersistence, HttpRouteRulesSessionPersistenceType};
use gateway_api::experimental::xbackendtrafficpolicies::{
    XBackendTrafficPolicyRetryConstraint, XBackendTrafficPolicySessionPersistence, XBackendTrafficPolicySessionPersistenceType,
};

use super::cluster::RETRY_PERCENT;
use super::route::parse_duration;
use crate::index::{Index, ServiceRef};

/// Retries a second that there may be in any case (the schema's default).
const RATE: u32 = 10;

/// How many of a hundred requests may be retries, and how many there may be in any case.
pub fn budget(index: &Index, service: &ServiceRef) -> Option<(f64, u32)> {
    let said = index.backend_policy_of(service)?.spec.retry_constraint.as_ref()?;
    let percent = said.budget.as_ref().and_then(|budget| budget.percent).and_then(|percent| u8::try_from(percent).ok());
    let percent = percent.filter(|percent| *percent <= 100).map_or(RETRY_PERCENT, f64::from);
    Some((percent, at_once(said)))
}

fn at_once(said: &XBackendTrafficPolicyRetryConstraint) -> u32 {
    let Some(rate) = &said.min_retry_rate else { return RATE };
    let count = rate.count.and_then(|count| u32::try_from(count).ok()).unwrap_or(RATE);
    let interval = rate.interval.as_deref().and_then(parse_duration).filter(|interval| !interval.is_zero());
    let millis = interval.and_then(|interval| u64::try_from(interval.as_millis()).ok()).unwrap_or(1000).max(1);
    u32::try_from((u64::from(count) * 1000).div_ceil(millis)).unwrap_or(u32::MAX)
}

/// What is said of sessions with a service, as a rule of a route says it, and what they are called where no name is said.
pub fn session(index: &Index, service: &ServiceRef) -> Option<(HttpRouteRulesSessionPersistence, String)> {
    use XBackendTrafficPolicySessionPersistenceType as Said;
    let policy = index.backend_policy_of(service)?;
    let XBackendTrafficPolicySessionPersistence { absolute_timeout, session_name, r#type, .. } =
        policy.spec.session_persistence.clone()?;
    let r#type = r#type.map(|said| match said {
        Said::Cookie => HttpRouteRulesSessionPersistenceType::Cookie,
        Said::Header => HttpRouteRulesSessionPersistenceType::Header,
    });
    let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
    let name = format!("ambit.{namespace}.{}", policy.metadata.name.as_deref().unwrap_or_default());
    Some((HttpRouteRulesSessionPersistence { absolute_timeout, session_name, r#type, ..Default::default() }, name))
}
