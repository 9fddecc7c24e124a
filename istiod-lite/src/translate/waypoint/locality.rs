//! Which endpoints are near to a waypoint: who is asked first, and who takes over, by where both run.
//!
//! A TrafficPolicy, a DestinationRule or the Service itself asks for it. Without, endpoints are of no place, and all waypoints are sent the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_api::envoy::pb::envoy::config::core::v3 as core;
use ambit_api::workload::load_balancing::Scope;

use super::wire::ordered::{LbEndpoint, LocalityLbEndpoints};
use super::wire::u32_value;
use crate::index::{Endpoint, Index, Locality, ServiceRef};
use crate::source::crd::destination::{Distribution, LocalitySetting, Part, RegionFailover, priority_label};
use crate::translate::workload::{preference, traffic_distribution};

/// How much is taken of a part of a place that a client tells: labels are no longer.
const LONGEST: usize = 63;

/// Where a waypoint runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Where its node is.
    pub locality: Locality,
    /// Its node.
    pub node: String,
}

impl Place {
    /// That of a node; `None` when nothing is known of it.
    #[must_use]
    pub fn of_node(index: &Index, node: &str) -> Option<Self> {
        (!node.is_empty()).then(|| Self { locality: index.locality(node), node: node.to_owned() })
    }

    /// What a client says of itself; `None` when that is nothing.
    #[must_use]
    pub fn told(locality: &core::Locality) -> Option<Self> {
        let part =
            |text: &str| -> String { text.chars().take(LONGEST).map(|said| if said == '/' { '_' } else { said }).collect() };
        let locality = Locality { region: part(&locality.region), zone: part(&locality.zone), subzone: part(&locality.sub_zone) };
        (locality != Locality::default()).then(|| Self { locality, node: String::new() })
    }

    /// What it is called: `region/zone/subzone/node`.
    #[must_use]
    pub fn key(&self) -> Arc<str> {
        let Locality { region, zone, subzone } = &self.locality;
        format!("{region}/{zone}/{subzone}/{}", self.node).into()
    }

    fn part(&self, part: Part) -> &str {
        of_place(part, &self.locality, &self.node)
    }
}

fn of_place<'a>(part: Part, locality: &'a Locality, node: &'a str) -> &'a str {
    match part {
        Part::Region => &locality.region,
        Part::Zone => &locality.zone,
        Part::Subzone => &locality.subzone,
        Part::Node => node,
    }
}

/// What is asked of the endpoints of a service port.
#[derive(Debug, Clone, PartialEq)]
pub enum Near {
    /// The nearest are asked first. The more of these, from the first on, an endpoint has in common with the waypoint, the nearer it is.
    First {
        /// Each with the value that it is to have instead of the waypoint's.
        levels: Vec<(Part, Option<String>)>,
        /// Of endpoints that have nothing in common with it, those of a region that comes before the others.
        regions: Vec<RegionFailover>,
    },
    /// Each place has a share.
    Shares(Vec<Distribution>),
}

/// What is asked for a port of a service, or for a subset of it.
pub fn asked(index: &Index, service: &ServiceRef, number: u16, subset: Option<&str>) -> Option<Near> {
    if index.has_traffic_policies()
        && let Some(port) = index.service_ports(service).into_iter().find(|port| port.port == number)
        && let Some(policy) = index.traffic_policy_of(service, &port)
    {
        let said = policy.spec.load_balancing.as_ref().and_then(|said| said.locality.as_ref());
        return match said {
            // Nobody fails over from an endpoint that is never found to fail.
            Some(said) => (said.failover && policy.spec.finds_failures()).then(nearest),
            None => by_service(index, service),
        };
    }
    let Some(rule) = index.destination_rule_of(service) else { return by_service(index, service) };
    let subset = subset.and_then(|name| index.subset(service, name).ok());
    let settings = rule.spec.settings(subset, number);
    match settings.load_balancer.and_then(|balancer| balancer.locality_lb_setting.as_ref()) {
        Some(said) => by_rule(said, settings.outlier_detection.is_some()),
        None => by_service(index, service),
    }
}

/// Zones and regions near first.
fn nearest() -> Near {
    by_parts(&[Part::Region, Part::Zone, Part::Subzone])
}

fn by_parts(parts: &[Part]) -> Near {
    Near::First { levels: parts.iter().map(|part| (*part, None)).collect(), regions: Vec::new() }
}

/// As by Istio: shares hold in any case, the rest only where endpoints are found to fail.
fn by_rule(said: &LocalitySetting, finds_failures: bool) -> Option<Near> {
    if said.enabled == Some(false) {
        return None;
    }
    if !said.distribute.is_empty() {
        return Some(Near::Shares(said.distribute.clone()));
    }
    if !finds_failures {
        return None;
    }
    let labels: Vec<_> = said.failover_priority.iter().filter_map(|text| priority_label(text)).collect();
    if !labels.is_empty() {
        let levels = labels.into_iter().map(|(part, value)| (part, value.map(str::to_owned))).collect();
        return Some(Near::First { levels, regions: Vec::new() });
    }
    let Near::First { levels, .. } = nearest() else { return None };
    Some(Near::First { levels, regions: said.failover.clone() })
}

/// `trafficDistribution` and what stands for it: who is not ready is asked nothing, so that others take over in any case.
fn by_service(index: &Index, service: &ServiceRef) -> Option<Near> {
    let word = match service {
        ServiceRef::Kubernetes(name) => {
            let service = index.objects().services.get(name)?;
            let declared = service.spec.as_ref().and_then(|spec| spec.traffic_distribution.clone());
            declared.or_else(|| traffic_distribution(index, &service.metadata))
        }
        ServiceRef::Host(host) => traffic_distribution(index, &index.entry_of_host(host)?.metadata),
    };
    let (_, scopes) = preference(word.as_deref());
    let parts: Vec<Part> = scopes.into_iter().filter_map(part_of).collect();
    (!parts.is_empty()).then(|| by_parts(&parts))
}

/// All endpoints of a waypoint are in its network.
fn part_of(scope: Scope) -> Option<Part> {
    match scope {
        Scope::Region => Some(Part::Region),
        Scope::Zone => Some(Part::Zone),
        Scope::Subzone => Some(Part::Subzone),
        Scope::Node => Some(Part::Node),
        _ => None,
    }
}

/// Endpoints in groups of one place, as they are seen from a place, or from one that is not known: then all are as near as the others.
pub fn grouped(near: &Near, endpoints: Vec<(&Endpoint, LbEndpoint)>, from: Option<&Place>) -> Vec<LocalityLbEndpoints> {
    let mut groups: BTreeMap<(u32, &Locality), Vec<LbEndpoint>> = BTreeMap::new();
    for (endpoint, made) in endpoints {
        let distance = from.map_or(0, |from| distance(near, from, endpoint));
        groups.entry((distance, &endpoint.locality)).or_default().push(made);
    }
    let mut distances: Vec<u32> = groups.keys().map(|(distance, _)| *distance).collect();
    distances.dedup();
    let shares = match near {
        Near::Shares(said) => Some(shares(said, &groups, from)),
        Near::First { .. } => None,
    };
    let group = |(at, ((distance, locality), lb_endpoints)): (usize, ((u32, &Locality), Vec<LbEndpoint>))| {
        let share = shares.as_ref().map(|shares| shares.get(at).copied().unwrap_or_default());
        // Priorities have no gaps.
        let priority = distances.iter().position(|other| *other == distance).unwrap_or_default();
        // Who has no share is not there.
        (share != Some(0)).then(|| LocalityLbEndpoints {
            locality: envoys(locality),
            lb_endpoints,
            load_balancing_weight: share.and_then(u32_value),
            priority: u32::try_from(priority).unwrap_or(u32::MAX),
        })
    };
    groups.into_iter().enumerate().filter_map(group).collect()
}

/// How far an endpoint is; 0 for the nearest.
fn distance(near: &Near, from: &Place, endpoint: &Endpoint) -> u32 {
    let Near::First { levels, regions } = near else { return 0 };
    let same = |(part, value): &&(Part, Option<String>)| {
        of_place(*part, &endpoint.locality, &endpoint.node) == value.as_deref().unwrap_or(from.part(*part))
    };
    let common = levels.iter().take_while(same).count();
    // The first that is said of a region holds.
    let next = regions.iter().find(|region| region.from == from.locality.region);
    let passed_over = common == 0 && next.is_some_and(|region| region.to != endpoint.locality.region);
    u32::try_from(levels.len() - common).unwrap_or(u32::MAX).saturating_add(passed_over.into())
}

/// The share of each group.
fn shares(said: &[Distribution], groups: &BTreeMap<(u32, &Locality), Vec<LbEndpoint>>, from: Option<&Place>) -> Vec<u32> {
    let weights: Vec<u64> = groups.values().map(|endpoints| endpoints.iter().map(weight).sum()).collect();
    let of_here = from.and_then(|from| said.iter().find(|said| covers(&said.from, &from.locality)));
    let Some(of_here) = of_here else { return weights.into_iter().map(|weight| narrow(weight.max(1))).collect() };
    let mut shares = vec![None; weights.len()];
    let mut patterns: Vec<(&String, u64)> =
        of_here.to.iter().map(|(pattern, share)| (pattern, u64::try_from(*share).unwrap_or(0).min(100))).collect();
    // What says most of a place counts for it.
    patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.split('/').filter(|part| *part != "*").count()));
    for (pattern, share) in patterns {
        let covered = groups.keys().enumerate().filter(|(at, (_, locality))| {
            shares.get(*at).is_some_and(|share: &Option<u32>| share.is_none()) && covers(pattern, locality)
        });
        let covered: Vec<usize> = covered.map(|(at, _)| at).collect();
        let of = |at: &usize| weights.get(*at).copied().unwrap_or_default().max(1);
        let all: u64 = covered.iter().map(of).sum();
        for at in &covered {
            if let Some(place) = shares.get_mut(*at) {
                *place = Some(narrow(share.saturating_mul(of(at)).div_ceil(all.max(1))));
            }
        }
    }
    shares.into_iter().map(Option::unwrap_or_default).collect()
}

/// The share of an endpoint among others.
fn weight(endpoint: &LbEndpoint) -> u64 {
    endpoint.load_balancing_weight.as_ref().map_or(1, |weight| weight.value.into())
}

fn narrow(share: u64) -> u32 {
    u32::try_from(share).unwrap_or(u32::MAX)
}

/// Whether a pattern, `region/zone/subzone` with `*` for all from there on, is of a place.
fn covers(pattern: &str, locality: &Locality) -> bool {
    let parts = [&locality.region, &locality.zone, &locality.subzone];
    for (said, part) in pattern.split('/').zip(parts) {
        if said == "*" {
            return true;
        }
        if said != part {
            return false;
        }
    }
    true
}

fn envoys(locality: &Locality) -> Option<core::Locality> {
    let Locality { region, zone, subzone } = locality;
    (*locality != Locality::default()).then(|| core::Locality {
        region: region.clone(),
        zone: zone.clone(),
        sub_zone: subzone.clone(),
    })
}
