//! Who talks to whom, put together from what the programs count and what the proxies log.
//!
//! Requests, errors, latency and versions are what the calling program saw (for a program that does not tell: its connections, as
//! the node proxy saw them). Encryption, identities and refusals are what the proxies saw, never what is configured.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ambit_model::reason::Reason;
use istiod_lite::source::NamespacedName;
use serde::Serialize;

use super::access::AccessLine;
use super::scrape::Sample;
use super::topology::Topology;
use crate::demo::stats::EdgeStats;

/// A calling workload and the service it calls, both `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EdgeKey {
    /// The calling workload.
    pub source: NamespacedName,
    /// The service called, or the workload if no service was meant.
    pub destination: NamespacedName,
}

/// A refusal that a proxy logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusalSeen {
    /// Reason code.
    pub reason: String,
    /// Policy that decided, `namespace/name`.
    pub policy: Option<String>,
    /// The proxy that decided it, as far as is known.
    pub by: String,
    /// All proxies that logged it for this edge: that of the caller's end knows it from the other's answer.
    pub seen_by: BTreeSet<String>,
    /// What it said.
    pub detail: Option<String>,
    /// When, RFC 3339.
    pub at: String,
    /// When it was read.
    #[serde(skip)]
    pub read: Instant,
}

impl RefusalSeen {
    fn read(proxy: &str, line: &AccessLine, reason: Option<Reason>) -> Self {
        // The policy that let a connection pass is logged as well, but has nothing to do with what went wrong later.
        let decided = reason.is_none_or(Reason::is_policy);
        Self {
            reason: line.reason().to_owned(),
            policy: line.get("policy").filter(|_| decided).map(str::to_owned),
            by: proxy.to_owned(),
            seen_by: BTreeSet::from([proxy.to_owned()]),
            detail: line.get("error").map(str::to_owned),
            at: line.time.clone(),
            read: Instant::now(),
        }
    }

    /// This one as the newest, where `earlier` was the newest before. When both are of one kind, all who logged it are kept, and
    /// who decided: the caller's end was only told.
    fn after(mut self, earlier: Self, told: bool) -> Self {
        if (&self.reason, &self.policy) != (&earlier.reason, &earlier.policy) {
            return self;
        }
        if told && earlier.by != self.by {
            (self.by, self.detail) = (earlier.by, earlier.detail);
        }
        self.seen_by.extend(earlier.seen_by);
        self
    }
}

/// What the proxies saw of an edge.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// What protected the connections that were carried.
    pub protection: Protection,
    /// Connections that ended, as the caller's proxy logged them.
    pub connections: u64,
    /// Those of them that did not end well.
    pub failed: u64,
    /// Duration of those that ended well: microseconds and count.
    pub duration_us: BTreeMap<u64, u64>,
    /// Verified identity of the caller.
    pub source_identity: Option<String>,
    /// Verified identity of the callee, behind the waypoint if there is one.
    pub destination_identity: Option<String>,
    /// The waypoint in between.
    pub via: Option<String>,
    /// The newest refusal.
    pub refusal: Option<RefusalSeen>,
}

/// Connections by what protected them on the way between the pods, counted when they open and when they end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Protection {
    /// Under mutual TLS.
    pub mutual_tls: u64,
    /// In clear.
    pub plain: u64,
}

impl Protection {
    fn add(&mut self, mutual_tls: bool, count: u64) {
        if mutual_tls { self.mutual_tls += count } else { self.plain += count }
    }

    /// What was added since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        let minus = u64::saturating_sub;
        Self { mutual_tls: minus(self.mutual_tls, earlier.mutual_tls), plain: minus(self.plain, earlier.plain) }
    }

    /// Whether all were under mutual TLS; nothing if there were none.
    pub fn all_mutual_tls(self) -> Option<bool> {
        (self.mutual_tls + self.plain > 0).then_some(self.plain == 0)
    }
}

impl Seen {
    /// Learns what was at the other end: a waypoint in between, or the callee itself.
    fn reach(&mut self, pod: Option<NamespacedName>, identity: Option<&str>, topology: &Topology) {
        let waypoint = pod.filter(|pod| topology.pods.get(pod).is_some_and(|facts| facts.waypoint));
        match waypoint.and_then(|pod| topology.workload(&pod)) {
            Some(waypoint) => self.via = Some(waypoint.to_string()),
            None => {
                if let Some(identity) = identity {
                    self.destination_identity = Some(identity.to_owned());
                }
            }
        }
    }

    /// The caller's connections as if each was a request: all there is where the caller's program tells nothing.
    pub fn as_stats(&self) -> EdgeStats {
        EdgeStats {
            protocol: "tcp".to_owned(),
            requests: self.connections,
            errors: self.failed,
            latency_us: self.duration_us.iter().map(|(duration, count)| (*duration, *count)).collect(),
            ..EdgeStats::default()
        }
    }
}

/// Everything seen so far, by edge.
#[derive(Debug, Clone, Default)]
pub struct Sightings {
    seen: BTreeMap<EdgeKey, Seen>,
    /// Identity that pods proved to waypoints, by service.
    behind_waypoints: BTreeMap<NamespacedName, String>,
}

impl Sightings {
    /// Takes in one line of the log of `proxy`.
    pub fn take(&mut self, proxy: &str, line: &AccessLine, topology: &Topology) {
        let Some(key) = edge_of(line, topology) else { return };
        let seen = self.seen.entry(key).or_default();
        let reason = Reason::from_label(line.reason());
        // A connection that was carried and then broken was not refused.
        let broken = reason.is_some_and(|reason| {
            let of_endpoint = [Reason::UpstreamReset, Reason::UpstreamStreamReset, Reason::UpstreamStreamRefused];
            reason.is_of_client() || reason == Reason::IdleTimeout || of_endpoint.contains(&reason)
        });
        if !line.is_fine() && !broken {
            let refusal = RefusalSeen::read(proxy, line, reason);
            seen.refusal = Some(match seen.refusal.take() {
                Some(earlier) => refusal.after(earlier, line.get("direction") == Some("outbound")),
                None => refusal,
            });
        }
        let at_waypoint = proxy.starts_with("waypoint/");
        if line.get("direction") == Some("outbound") && !at_waypoint {
            seen.connections += 1;
            // That the client went away is no failure of the callee.
            seen.failed += u64::from(!line.is_fine() && reason.is_none_or(|reason| !reason.is_of_client()));
            if let Some(duration) = line.number("duration_ms").filter(|_| line.is_fine()) {
                *seen.duration_us.entry((duration * 1000.0) as u64).or_default() += 1;
            }
        }
        if let Some(identity) = line.get("src.identity") {
            seen.source_identity = Some(identity.to_owned());
        }
        if line.is_fine() {
            seen.protection.add(line.is_mutual_tls(), 1);
            let pod = line.get("dst.namespace").zip(line.get("dst.workload"));
            let pod = pod.map(|(namespace, name)| NamespacedName::new(namespace, name));
            let pod = pod.and_then(|name| topology.pod_called(&name).cloned());
            seen.reach(pod, line.get("dst.identity"), topology);
        }
    }

    /// Takes in that `count` connections of a kind were opened, as the metrics of a node proxy say.
    pub fn take_opened(&mut self, sample: &Sample, count: u64, topology: &Topology) {
        let pod = |workload, namespace| {
            let name = sample.label(namespace).zip(sample.label(workload));
            topology.pod_called(&name.map(|(namespace, name)| NamespacedName::new(namespace, name))?).cloned()
        };
        let identity =
            |name| sample.label(name).map(|principal| format!("spiffe://{}", principal.trim_start_matches("spiffe://")));
        let source = pod("source_workload", "source_workload_namespace");
        let destination = pod("destination_workload", "destination_workload_namespace");
        let service = sample.label("destination_service").and_then(|host| super::hosts::service_of(host, ""));
        let (principal, peer) = (identity("source_principal"), identity("destination_principal"));
        let is_waypoint = |name: &NamespacedName| topology.pods.get(name).is_some_and(|facts| facts.waypoint);
        if sample.label("reporter") == Some("destination") {
            let from_waypoint = source.as_ref().is_some_and(is_waypoint);
            let facts = destination.as_ref().and_then(|pod| topology.pods.get(pod));
            if let (true, Some(facts), Some(identity)) = (from_waypoint, facts, peer) {
                self.behind_waypoints.extend(facts.services.iter().map(|service| (service.clone(), identity.clone())));
            }
            return;
        }
        let Some(source) = source.filter(|pod| !is_waypoint(pod)).and_then(|pod| topology.workload(&pod)) else { return };
        let Some(to) = service.or_else(|| destination.as_ref().and_then(|pod| topology.workload(pod))) else { return };
        let seen = self.seen.entry(EdgeKey { source, destination: to }).or_default();
        seen.protection.add(sample.label("connection_security_policy") == Some("mutual_tls"), count);
        seen.source_identity = principal.or_else(|| seen.source_identity.take());
        seen.reach(destination, peer.as_deref(), topology);
    }

    /// What was seen of an edge.
    pub fn get(&self, key: &EdgeKey) -> Option<Seen> {
        let mut seen = self.seen.get(key)?.clone();
        if seen.destination_identity.is_none() && seen.via.is_some() {
            seen.destination_identity = self.behind_waypoints.get(&key.destination).cloned();
        }
        Some(seen)
    }

    /// Forgets all counts of what was asked, and refusals; who is who stays, and what protected the connections so far, for they may
    /// be open still and carry what comes.
    pub fn reset(&mut self) {
        for seen in self.seen.values_mut() {
            let Seen { protection, source_identity, destination_identity, via, .. } = std::mem::take(seen);
            *seen = Seen { protection, source_identity, destination_identity, via, ..Seen::default() };
        }
    }

    /// All edges seen.
    pub fn keys(&self) -> impl Iterator<Item = &EdgeKey> {
        self.seen.keys()
    }
}

/// Which edge a line is about; nothing for the second half of a way through a waypoint, and for strangers.
fn edge_of(line: &AccessLine, topology: &Topology) -> Option<EdgeKey> {
    let named = |workload: &str, namespace: &str| {
        let name = line.get(namespace).zip(line.get(workload));
        topology.pod_called(&name.map(|(namespace, name)| NamespacedName::new(namespace, name))?).cloned()
    };
    let source = named("src.workload", "src.namespace");
    let source = source.or_else(|| {
        let address = line.get("src.addr")?.parse::<std::net::SocketAddr>().ok()?;
        topology.pod_at(address.ip()).cloned()
    });
    // Behind a waypoint the address is still the client's own, or the waypoint's; the identity tells them apart.
    let source = match source {
        Some(pod) if topology.pods.get(&pod).is_some_and(|facts| !facts.waypoint) => Some(pod),
        _ => line.get("src.identity").and_then(|identity| topology.pod_with_identity(identity)).cloned(),
    }?;
    let source = topology.workload(&source)?;
    // The address dialled tells what was asked for, also where a waypoint chose another service behind it. Envoy does not log it.
    let address = line.get("dst.addr").and_then(|address| Some(address.parse::<std::net::SocketAddr>().ok()?.ip()));
    let destination = address.and_then(|address| topology.service_at(address)).cloned();
    let destination = destination.or_else(|| line.get("dst.service").and_then(|host| super::hosts::service_of(host, "")));
    let destination = destination.or_else(|| {
        let pod = named("dst.workload", "dst.namespace").or_else(|| topology.pod_at(address?).cloned())?;
        let facts = topology.pods.get(&pod)?;
        facts.services.first().cloned().or_else(|| topology.workload(&pod))
    })?;
    Some(EdgeKey { source, destination })
}

/// One edge, as it is shown and reported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Edge {
    /// Calling workload, `namespace/name`.
    pub source: String,
    /// Service called, `namespace/name`.
    pub destination: String,
    /// `http`, `grpc`, or `tcp` when only connections are known.
    pub protocol: String,
    /// Requests (connections for `tcp`) that finished.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Median latency, milliseconds.
    pub p50_ms: Option<f64>,
    /// 99th percentile of the latency, milliseconds.
    pub p99_ms: Option<f64>,
    /// Whether every connection that a proxy saw was under mutual TLS, and there was one, and the caller is captured.
    pub encrypted: bool,
    /// Verified SPIFFE id of the caller.
    pub source_identity: Option<String>,
    /// Verified SPIFFE id of the callee.
    pub destination_identity: Option<String>,
    /// The waypoint in between, `namespace/name`.
    pub via: Option<String>,
    /// Successful answers by version.
    pub versions: BTreeMap<String, u64>,
    /// The newest refusal logged.
    pub refusal: Option<RefusalSeen>,
    /// The newest failure as the caller saw it.
    pub last_error: Option<String>,
}

impl Edge {
    /// Puts an edge together; `counted` is the caller's own view if it tells.
    pub fn new(key: &EdgeKey, counted: Option<&EdgeStats>, seen: Option<Seen>) -> Self {
        let seen = seen.unwrap_or_default();
        let by_connection = seen.as_stats();
        let stats = counted.unwrap_or(&by_connection);
        Self {
            source: key.source.to_string(),
            destination: key.destination.to_string(),
            protocol: stats.protocol.clone(),
            requests: stats.requests,
            errors: stats.errors,
            p50_ms: stats.quantile_ms(0.50),
            p99_ms: stats.quantile_ms(0.99),
            encrypted: seen.protection.all_mutual_tls().unwrap_or(false),
            source_identity: seen.source_identity,
            destination_identity: seen.destination_identity,
            via: seen.via,
            versions: stats.versions.clone(),
            refusal: seen.refusal,
            last_error: stats.last_error.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
