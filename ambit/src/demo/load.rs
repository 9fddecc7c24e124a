//! The client: people who buy, at a steady pace that does not wait for answers (open loop).

use std::time::Duration;

use hyper::Method;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::downstream::Downstream;

/// Purchases in flight beyond which the client stops making more: the shop is down, and a heap of waiting requests helps nobody.
const MAX_IN_FLIGHT: usize = 200;

/// Buys `rate` times a second until dropped.
pub async fn run(web: Downstream, rate: f64) {
    let period = Duration::from_secs_f64(1.0 / rate.clamp(0.01, 10_000.0));
    let mut clock = tokio::time::interval_at(Instant::now() + period, period);
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut in_flight = JoinSet::new();
    for customer in 0_u64.. {
        clock.tick().await;
        while in_flight.try_join_next().is_some() {}
        if in_flight.len() >= MAX_IN_FLIGHT {
            continue;
        }
        let web = web.clone();
        in_flight.spawn(async move {
            // The edge counts the outcome.
            let _counted = web.call(Method::GET, &format!("/buy?user=user-{}", customer % 100), String::new()).await;
        });
    }
}
