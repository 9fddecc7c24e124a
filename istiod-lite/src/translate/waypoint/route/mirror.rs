//! The filter that copies requests.

use std::collections::BTreeSet;

use ambit_api::envoy::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use ambit_api::envoy::pb::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use ambit_api::envoy::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use gateway_api::experimental::httproutes::HttpRouteRulesFiltersRequestMirror as Filter;

use super::super::names::Layer;
use super::{Backend, Reference, resolve};
use crate::index::{Index, ServiceRef};
use crate::source::Kind;

/// The finest share that Envoy knows.
const MILLION: u32 = 1_000_000;

/// The policies of a rule's filters. One that leads nowhere is left out, as the specification asks: the request itself goes on.
pub fn policies(
    index: &Index,
    parent: &ServiceRef,
    from: (Kind, &str),
    filters: &[Filter],
    backends: &mut BTreeSet<Backend>,
) -> Vec<RequestMirrorPolicy> {
    let mut policies = Vec::new();
    for filter in filters {
        let to = &filter.backend_ref;
        let to = Reference {
            group: to.group.as_deref(),
            kind: to.kind.as_deref(),
            namespace: to.namespace.as_deref(),
            name: &to.name,
            port: to.port,
        };
        let share = share(filter);
        let Some(target) = resolve(index, parent, from, to).filter(|_| share > 0) else { continue };
        policies.push(policy(target.cluster(index, Layer::Http), share));
        backends.insert(target);
    }
    policies
}

/// To a cluster, of so many in a million.
pub fn policy(cluster: String, share: u32) -> RequestMirrorPolicy {
    let percent = FractionalPercent { numerator: share, denominator: DenominatorType::Million.into() };
    RequestMirrorPolicy {
        cluster,
        runtime_fraction: (share < MILLION)
            .then(|| RuntimeFractionalPercent { default_value: Some(percent), ..Default::default() }),
        // The specification sends the request, and says nothing of another host: servers would not know it for theirs.
        disable_shadow_host_suffix_append: true,
        ..Default::default()
    }
}

/// How many of a million requests are copied.
fn share(filter: &Filter) -> u32 {
    let (numerator, denominator) = match (&filter.percent, &filter.fraction) {
        (Some(percent), _) => (*percent, 100),
        (None, Some(fraction)) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
        (None, None) => (1, 1),
    };
    let (numerator, denominator) = (u64::try_from(numerator).unwrap_or(0), u64::try_from(denominator).unwrap_or(0));
    let share = (numerator * u64::from(MILLION)).checked_div(denominator).unwrap_or(0);
    u32::try_from(share).unwrap_or(MILLION).min(MILLION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_and_fraction_are_shares_of_a_million() {
        for (said, expected) in [
            ("", MILLION),
            (r#", "percent": 0"#, 0),
            (r#", "percent": 25"#, 250_000),
            (r#", "fraction": {"numerator": 5}"#, 50_000),
            (r#", "fraction": {"numerator": 1, "denominator": 3}"#, 333_333),
            (r#", "fraction": {"numerator": 1000, "denominator": 1000}"#, MILLION),
            (r#", "fraction": {"numerator": 1, "denominator": 0}"#, 0),
        ] {
            let filter: Filter =
                serde_json::from_str(&format!(r#"{{"backendRef": {{"name": "a", "port": 80}}{said}}}"#)).unwrap();
            assert_eq!(share(&filter), expected, "{said}");
        }
        assert_eq!(policy("c".into(), MILLION).runtime_fraction, None);
        assert!(policy("c".into(), 1).runtime_fraction.is_some());
    }
}
