//! `/clusters`: what goes on at the endpoints.

use std::fmt::{self, Write as _};

use ambit_api::{
    envoy::pb::{
        envoy::{
            admin::v3::{ClusterStatus, Clusters, HostHealthStatus, HostStatus, SimpleMetric, simple_metric},
            config::{
                cluster::v3::{CircuitBreakers, Cluster as ClusterResource, circuit_breakers::Thresholds},
                core::v3::{Address, HealthStatus, Locality},
                endpoint::v3::ClusterLoadAssignment,
            },
        },
        google::protobuf::UInt32Value,
    },
    type_url,
};
use ambit_model::balance::Standing;
use ambit_runtime::admin::{Query, Reply};
use prost::Message;

use super::{Pages, envoy, is_json, pattern};
use crate::{
    compiled::{Cluster, Discovery, Target},
    upstream::Place,
    xds::{CONNECT_ORIGINATE, Received},
};

/// Answers the page.
pub fn page(pages: &Pages, query: &Query) -> Reply {
    let names = match pattern(query, "filter", false) {
        Ok(names) => names,
        Err(refused) => return refused,
    };
    let (snapshot, received) = (pages.store.snapshot(), pages.store.received());
    let mut clusters: Vec<_> = snapshot.clusters.values().collect();
    clusters.retain(|cluster| names.as_ref().is_none_or(|names| names.is_match(&cluster.name)));
    clusters.sort_by(|one, other| one.name.cmp(&other.name));
    let statuses = clusters.into_iter().map(|cluster| {
        // Whose ejection is over is seen when somebody looks, as the next request does.
        cluster.live.look(cluster);
        status(cluster, &received)
    });
    let clusters = Clusters { cluster_statuses: statuses.collect() };
    match is_json(query) {
        true => envoy::page(&clusters, false),
        false => Reply::text(clusters.cluster_statuses.iter().map(|status| Lines(status).to_string()).collect::<String>()),
    }
}

fn status(cluster: &Cluster, received: &Received) -> ClusterStatus {
    let listed = cluster.live.listed();
    let localities = localities(cluster, received);
    // What was received may be newer than what is in force.
    let localities = if localities.len() == listed.len() { localities } else { vec![Locality::default(); listed.len()] };
    let hosts = listed.iter().zip(localities).map(|((priority, place), locality)| host(place, *priority, locality));
    let limit = |value: u32| Some(UInt32Value { value });
    let thresholds = Thresholds {
        max_connections: limit(cluster.limits.connections),
        max_pending_requests: limit(cluster.limits.pending),
        max_requests: limit(cluster.limits.requests),
        ..Thresholds::default()
    };
    ClusterStatus {
        name: cluster.name.to_string(),
        added_via_api: true,
        host_statuses: hosts.collect(),
        circuit_breakers: Some(CircuitBreakers { thresholds: vec![thresholds], ..CircuitBreakers::default() }),
        observability_name: cluster.name.to_string(),
        eds_service_name: match &cluster.discovery {
            Discovery::Eds(name) if *name != cluster.name => name.to_string(),
            _ => String::new(),
        },
        ..ClusterStatus::default()
    }
}

/// Where each endpoint of a cluster is, in the order in which they were delivered.
fn localities(cluster: &Cluster, received: &Received) -> Vec<Locality> {
    let held = |kind: &str, name: &str| {
        let sent = received.of(kind)?.resources.get(name)?.held.as_ref()?;
        Some(sent.body.clone())
    };
    let assignment = match &cluster.discovery {
        Discovery::Eds(name) => held(type_url::ENDPOINT, name).and_then(|body| ClusterLoadAssignment::decode(body).ok()),
        Discovery::Static(_) => {
            let resource = held(type_url::CLUSTER, &cluster.name).and_then(|body| ClusterResource::decode(body).ok());
            resource.and_then(|resource| resource.load_assignment)
        }
        Discovery::OriginalDestination => None,
    };
    let mut localities = Vec::new();
    for group in assignment.unwrap_or_default().endpoints {
        let locality = group.locality.unwrap_or_default();
        localities.extend(group.lb_endpoints.iter().map(|_| locality.clone()));
    }
    localities
}

fn host(place: &Place, priority: u32, locality: Locality) -> HostStatus {
    let Place { endpoint, host, .. } = place;
    let metric = |name: &str, r#type: simple_metric::Type, value: u64| SimpleMetric {
        r#type: r#type.into(),
        value,
        name: name.to_owned(),
    };
    let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    let eds_health_status = match endpoint.standing {
        Standing::Healthy => HealthStatus::Healthy,
        Standing::Degraded => HealthStatus::Degraded,
        Standing::Unhealthy => HealthStatus::Unhealthy,
    };
    HostStatus {
        address: Some(address(&endpoint.target)),
        stats: vec![
            metric("cx_active", simple_metric::Type::Gauge, count(host.open_connections())),
            metric("rq_active", simple_metric::Type::Gauge, count(host.under_way())),
            metric("rq_error", simple_metric::Type::Counter, host.errors()),
            metric("rq_total", simple_metric::Type::Counter, host.sent()),
        ],
        health_status: Some(HostHealthStatus {
            failed_active_health_check: host.is_failing(),
            failed_outlier_check: host.is_ejected(),
            pending_active_hc: host.awaits_check(),
            eds_health_status: eds_health_status.into(),
            ..HostHealthStatus::default()
        }),
        weight: endpoint.weight,
        priority,
        locality: Some(locality),
        ..HostStatus::default()
    }
}

/// An endpoint as it was delivered: one in a tunnel is behind the listener that opens tunnels.
fn address(target: &Target) -> Address {
    match target {
        Target::Clear { address } => envoy::socket(*address),
        Target::Hbone { address, .. } => envoy::internal(CONNECT_ORIGINATE, address.to_string()),
        Target::OriginalDestination => envoy::internal(CONNECT_ORIGINATE, String::new()),
        Target::Internal { listener } => envoy::internal(listener, String::new()),
    }
}

/// A cluster as lines of text.
struct Lines<'a>(&'a ClusterStatus);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(cluster) = self;
        let name = &cluster.name;
        writeln!(f, "{name}::observability_name::{}", cluster.observability_name)?;
        for limits in cluster.circuit_breakers.iter().flat_map(|breakers| &breakers.thresholds) {
            let value = |limit: &Option<UInt32Value>| limit.as_ref().map_or(0, |limit| limit.value);
            writeln!(f, "{name}::default_priority::max_connections::{}", value(&limits.max_connections))?;
            writeln!(f, "{name}::default_priority::max_pending_requests::{}", value(&limits.max_pending_requests))?;
            writeln!(f, "{name}::default_priority::max_requests::{}", value(&limits.max_requests))?;
        }
        writeln!(f, "{name}::added_via_api::{}", cluster.added_via_api)?;
        if !cluster.eds_service_name.is_empty() {
            writeln!(f, "{name}::eds_service_name::{}", cluster.eds_service_name)?;
        }
        for host in &cluster.host_statuses {
            let at = format!("{name}::{}", host.address.as_ref().map(envoy::line).unwrap_or_default());
            for metric in &host.stats {
                writeln!(f, "{at}::{}::{}", metric.name, metric.value)?;
            }
            let locality = host.locality.clone().unwrap_or_default();
            writeln!(f, "{at}::hostname::{}", host.hostname)?;
            writeln!(f, "{at}::health_flags::{}", flags(host.health_status.as_ref()))?;
            writeln!(f, "{at}::weight::{}", host.weight)?;
            writeln!(f, "{at}::region::{}", locality.region)?;
            writeln!(f, "{at}::zone::{}", locality.zone)?;
            writeln!(f, "{at}::sub_zone::{}", locality.sub_zone)?;
            writeln!(f, "{at}::priority::{}", host.priority)?;
        }
        Ok(())
    }
}

/// What speaks against an endpoint, as Envoy writes it.
fn flags(health: Option<&HostHealthStatus>) -> String {
    let Some(health) = health else { return "healthy".to_owned() };
    let eds = HealthStatus::try_from(health.eds_health_status).unwrap_or_default();
    let mut flags = String::new();
    for (set, flag) in [
        (health.failed_active_health_check, "failed_active_hc"),
        (health.failed_outlier_check, "failed_outlier_check"),
        (eds == HealthStatus::Unhealthy, "failed_eds_health"),
        (eds == HealthStatus::Degraded, "degraded_eds_health"),
        (health.pending_active_hc, "pending_active_hc"),
    ] {
        if set {
            // A string takes whatever is written.
            let _written = write!(flags, "/{flag}");
        }
    }
    if flags.is_empty() { "healthy".to_owned() } else { flags }
}
