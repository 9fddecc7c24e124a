//! One route below another: each try of the upper one may be all tries of the lower one, and what the upper one does not wait for is done for
//! nobody. What a waypoint's budget of retries leaves of that over time is in docs/waypoints.md; for a single request it is the product.

use super::rule::{Retries, Rule, Target};
use super::scene::{Route, Scene};
use crate::source::FieldError;

/// Warnings for routes of other controllers' Gateways, whose requests go on to a Service with routes of its own. (A Gateway of the mesh goes past
/// waypoints, so that these do not hold for what it sends.)
pub(super) fn through_gateways(scene: &Scene) -> Vec<(usize, FieldError)> {
    let mut found = Vec::new();
    for route in &scene.routes {
        let Some(gateway) = route.gateways.first() else { continue };
        for rule in &route.rules {
            for target in &rule.backends {
                let below = scene.rules_of(target);
                let (upper, service) = (format!("Gateway {gateway}"), &target.service);
                if let Some((retries, (lower, again))) = rule.again().zip(most(&below)) {
                    let reason = format!(
                        "a request may come to Service {service} {} times: {upper} sends it {} times at most, and each time {} has the \
                         waypoint send it {} times at most, if the Gateway asks the Service's address. Let only one of them retry",
                        product(retries, again),
                        retries.tries(),
                        lower.key,
                        again.tries()
                    );
                    found.push((route.at, FieldError::new(rule.field(rule.names.retry), reason)));
                }
                found.extend(late(rule, &below, &upper, service).map(|warning| (route.at, warning)));
            }
        }
    }
    found
}

/// Warnings for namespaces that have routes of their own for what their pods ask of others: requests to a Service there may be the cause of them.
pub(super) fn of_clients(scene: &Scene) -> Vec<(usize, FieldError)> {
    let mut found = Vec::new();
    for route in &scene.routes {
        for target in &route.services {
            let own = &route.key.name.namespace;
            if target.service.namespace == *own {
                continue;
            }
            let above = served_in(scene, own);
            let asked: Vec<_> = route.rules.iter().map(|rule| (route, rule)).collect();
            let most_above = above.iter().filter_map(|(route, target, rule)| Some((*route, *target, rule.again()?)));
            let worst = most_above.max_by_key(|(_, _, retries)| retries.attempts);
            for (rule, retries) in route.rules.iter().filter_map(|rule| Some((rule, rule.again()?))) {
                let Some((upper, served, again)) = worst else { break };
                let reason = format!(
                    "a request of pods of {own} comes to Service {} {} times at most, and one to their Service {} {} times by {}: where the \
                     one asks for the other it may come {} times. Let only one of them retry",
                    target.service,
                    retries.tries(),
                    served.service,
                    again.tries(),
                    upper.key,
                    product(again, retries)
                );
                found.push((route.at, FieldError::new(rule.field(rule.names.retry), reason)));
            }
            for (upper, served, rule) in &above {
                let whose = format!("Service {}", served.service);
                found.extend(late(rule, &asked, &whose, &target.service).map(|warning| (upper.at, warning)));
            }
        }
    }
    found
}

/// The rules of Services of a namespace, for whoever asks these, with the first Service that each is for.
fn served_in<'a>(scene: &'a Scene, namespace: &str) -> Vec<(&'a Route, &'a Target, &'a Rule)> {
    let routes = scene.routes.iter().filter(|route| *route.key.name.namespace == *namespace);
    let serving = routes.filter_map(|route| {
        let own = route.services.iter().find(|target| *target.service.namespace == *namespace);
        own.map(|target| (route, target))
    });
    serving.flat_map(|(route, target)| route.rules.iter().map(move |rule| (route, target, rule))).collect()
}

/// The rule that sends most often.
fn most<'a>(rules: &[(&'a Route, &'a Rule)]) -> Option<(&'a Route, Retries)> {
    let retrying = rules.iter().filter_map(|(route, rule)| Some((*route, rule.again()?)));
    retrying.max_by_key(|(_, retries)| retries.attempts)
}

fn product(one: Retries, other: Retries) -> u64 {
    u64::from(one.tries()) * u64::from(other.tries())
}

/// The warning for a rule that gives up before those below it do.
fn late(rule: &Rule, below: &[(&Route, &Rule)], whose: &str, service: &impl std::fmt::Display) -> Option<FieldError> {
    let (field, time) = rule.shortest()?;
    let times = below.iter().filter_map(|(route, rule)| Some((*route, rule.longest()?)));
    let (lower, longest) = times.max_by_key(|(_, longest)| *longest)?;
    if time >= longest {
        return None;
    }
    let reason = format!(
        "requests of {whose} end after {time:?}, and {} lets one to Service {service} take {longest:?}: what it does later nobody waits \
         for. Make this one no less, or that one shorter",
        lower.key
    );
    Some(FieldError::new(rule.field(field), reason))
}
