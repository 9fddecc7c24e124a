//! Upgrades that a route passes on besides those of its chain, as a RequestPolicy names them (`upgrades`). What a route says of an upgrade goes before
//! what the connection manager says, in Envoy as in ours.

use ambit_api::envoy::pb::envoy::config::route::v3::route::Action;
use ambit_api::envoy::pb::envoy::config::route::v3::{Route, route_action::UpgradeConfig};

use crate::source::crd::requests::RequestPolicy;

/// What the policy is named for.
pub const UPGRADES: &str = "upgrades";

/// Has a route pass on what its policy names, and says whether it does so: what is not sent on is not upgraded either.
pub fn of_route(policy: &RequestPolicy, route: &mut Route) -> bool {
    let Some(Action::Route(action)) = &mut route.action else { return false };
    let passed = |upgrade_type| UpgradeConfig { upgrade_type, ..Default::default() };
    action.upgrade_configs = policy.spec.upgrade_names().into_iter().map(passed).collect();
    !action.upgrade_configs.is_empty()
}

/// Takes them out again, for clients that carry out their routes themselves.
pub fn without(route: &mut Route) {
    if let Some(Action::Route(action)) = &mut route.action {
        action.upgrade_configs.clear();
    }
}
