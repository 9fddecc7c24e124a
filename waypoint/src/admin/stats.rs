//! `/stats`: numbers under the names that Envoy has for them. What is not counted here is not there.

use std::fmt::Write as _;

use ambit_api::type_url;
use ambit_model::balance::Standing;
use ambit_runtime::admin::{Query, Reply};
use serde::Serialize;

use super::{Pages, certs, is_json, pattern};
use crate::{
    compiled::Cluster,
    upstream::{Host, Place},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

/// A number.
#[derive(Debug, Serialize)]
struct Stat {
    name: String,
    value: u64,
    #[serde(skip)]
    kind: Kind,
}

#[derive(Debug, Serialize)]
struct Stats {
    stats: Vec<Stat>,
}

/// Answers the page.
pub fn page(pages: &Pages, query: &Query) -> Reply {
    if query.get("format") == Some("prometheus") {
        return Reply::prometheus(pages.metrics.render());
    }
    let names = match pattern(query, "filter", false) {
        Ok(names) => names,
        Err(refused) => return refused,
    };
    let used = query.get("usedonly").is_some();
    let mut stats = all(pages);
    stats.retain(|stat| {
        let of_kind = match query.get("type") {
            Some("Counters") => stat.kind == Kind::Counter,
            Some("Gauges") => stat.kind == Kind::Gauge,
            Some("Histograms" | "TextReadouts") => false,
            _ => true,
        };
        of_kind && (!used || stat.value > 0) && names.as_ref().is_none_or(|names| names.is_match(&stat.name))
    });
    stats.sort_by(|one, other| one.name.cmp(&other.name));
    if is_json(query) {
        return Reply::json(&Stats { stats });
    }
    let mut text = String::new();
    for Stat { name, value, .. } in &stats {
        // A string takes whatever is written.
        let _written = writeln!(text, "{name}: {value}");
    }
    Reply::text(text)
}

fn all(pages: &Pages) -> Vec<Stat> {
    let mut stats = Vec::new();
    let mut tell = |kind: Kind, name: String, value: u64| stats.push(Stat { name, value, kind });
    let live = pages.readiness.is_ready();
    tell(Kind::Gauge, "server.live".into(), live.into());
    // As `/ready` says it: LIVE or PRE_INITIALIZING.
    tell(Kind::Gauge, "server.state".into(), if live { 0 } else { 2 });
    tell(Kind::Gauge, "server.uptime".into(), pages.started.elapsed().as_secs());
    if let Some(left) = certs::first_expires_in(pages) {
        tell(Kind::Gauge, "server.days_until_first_cert_expiring".into(), left.as_secs() / (24 * 60 * 60));
    }
    tell(Kind::Gauge, "control_plane.connected_state".into(), (*pages.connected.borrow()).into());
    let received = pages.store.received();
    for (type_url, what, active) in [
        (type_url::LISTENER, "listener_manager.lds", "listener_manager.total_listeners_active"),
        (type_url::CLUSTER, "cluster_manager.cds", "cluster_manager.active_clusters"),
    ] {
        let Some(kind) = received.of(type_url) else { continue };
        tell(Kind::Counter, format!("{what}.update_attempt"), kind.taken + kind.refused);
        tell(Kind::Counter, format!("{what}.update_success"), kind.taken);
        tell(Kind::Counter, format!("{what}.update_rejected"), kind.refused);
        tell(Kind::Gauge, active.into(), number(kind.resources.values().filter(|known| known.held.is_some()).count()));
    }
    let snapshot = pages.store.snapshot();
    for cluster in snapshot.clusters.values() {
        of(cluster, &mut tell);
    }
    stats
}

/// What is counted in a cluster.
fn of(cluster: &Cluster, tell: &mut impl FnMut(Kind, String, u64)) {
    // As Envoy writes names of clusters in those of numbers.
    let name = cluster.name.replace(':', "_");
    let name = |what: &str| format!("cluster.{name}.{what}");
    cluster.live.look(cluster);
    let (listed, usage) = (cluster.live.listed(), cluster.live.usage());
    let count = |test: fn(&Host) -> bool| number(listed.iter().filter(|(_, place)| test(&place.host)).count());
    tell(Kind::Gauge, name("membership_total"), number(listed.len()));
    let healthy = listed.iter().filter(|(_, Place { endpoint, host, .. })| {
        endpoint.standing == Standing::Healthy && !host.is_failing() && !host.is_ejected()
    });
    tell(Kind::Gauge, name("membership_healthy"), number(healthy.count()));
    tell(Kind::Gauge, name("outlier_detection.ejections_active"), count(Host::is_ejected));
    tell(Kind::Gauge, name("upstream_cx_active"), number(usage.connections));
    tell(Kind::Gauge, name("upstream_rq_active"), number(usage.requests));
    tell(Kind::Gauge, name("upstream_rq_pending_active"), number(usage.pending));
    tell(Kind::Counter, name("upstream_rq_total"), usage.sent);
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
