//! Who gets copies of requests (`envoy.config.route.v3.RouteAction.RequestMirrorPolicy`).

use std::mem::take;

use ambit_api::envoy::pb::envoy::{
    config::route::v3::route_action::RequestMirrorPolicy,
    r#type::v3::{FractionalPercent, fractional_percent::DenominatorType},
};
use ambit_model::route::Mirror;

use super::read::{Compiled, Problem, Under, finish, required};

/// A policy.
pub fn policy(mut policy: RequestMirrorPolicy) -> Compiled<Mirror> {
    let cluster = take(&mut policy.cluster);
    let (copied, of) = match policy.runtime_fraction.take() {
        None => (1, 1),
        Some(mut fraction) => {
            let share = fraction.default_value.take();
            finish(&fraction).under("runtime_fraction")?;
            required(share, "default_value").and_then(self::share).under("runtime_fraction")?
        }
    };
    let same_host = take(&mut policy.disable_shadow_host_suffix_append);
    finish(&policy)?;
    if cluster.is_empty() {
        return Err(Problem::new("cluster is missing"));
    }
    Ok(Mirror { cluster: cluster.into(), of, copied, same_host })
}

/// A share of requests.
pub fn share(share: FractionalPercent) -> Compiled<(u32, u32)> {
    let of = match DenominatorType::try_from(share.denominator) {
        Ok(DenominatorType::Hundred) => 100,
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Err(_) => return Err(Problem::new("denominator is not implemented")),
    };
    Ok((share.numerator, of))
}
