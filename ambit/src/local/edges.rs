//! Who talks to whom, put together from what the programs count and what the proxies log.
//!
//! Requests, errors, latency and versions are what the calling program saw (for a program that does not tell: its connections, as
//! the node proxy saw them). Encryption, identities and refusals are what the proxies saw, never what is configured.

use std::collections::BTreeMap;

use istiod_lite::source::NamespacedName;
use serde::Serialize;

use super::access::AccessLine;
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
    /// The proxy that logged it.
    pub by: String,
    /// What it said.
    pub detail: Option<String>,
    /// When, RFC 3339.
    pub at: String,
}

/// What the proxies saw of an edge.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// Connections (or requests, at a waypoint) that ended well, by what protected them.
    pub mutual_tls: u64,
    /// The same without protection.
    pub plain: u64,
    /// Connections that the caller's proxy logged.
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

impl Seen {
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
}

impl Sightings {
    /// Takes in one line of the log of `proxy`.
    pub fn take(&mut self, proxy: &str, line: &AccessLine, topology: &Topology) {
        let Some(key) = edge_of(line, topology) else { return };
        let seen = self.seen.entry(key).or_default();
        let fine = line.reason() == "ok";
        if !fine {
            seen.refusal = Some(RefusalSeen {
                reason: line.reason().to_owned(),
                policy: line.get("policy").map(str::to_owned),
                by: proxy.to_owned(),
                detail: line.get("error").map(str::to_owned),
                at: line.time.clone(),
            });
        }
        let from_caller = line.get("direction") == Some("outbound") && !proxy.starts_with("waypoint/");
        if from_caller {
            seen.connections += 1;
            seen.failed += u64::from(!fine);
            if let Some(duration) = line.number("duration_ms").filter(|_| fine) {
                *seen.duration_us.entry((duration * 1000.0) as u64).or_default() += 1;
            }
        }
        if let Some(identity) = line.get("src.identity") {
            seen.source_identity = Some(identity.to_owned());
        }
        if fine {
            if line.is_mutual_tls() {
                seen.mutual_tls += 1
            } else {
                seen.plain += 1
            }
            self.learn_destination(line, topology);
        }
    }

    fn learn_destination(&mut self, line: &AccessLine, topology: &Topology) {
        let Some(seen) = edge_of(line, topology).and_then(|key| self.seen.get_mut(&key)) else { return };
        let pod = line.get("dst.namespace").zip(line.get("dst.workload"));
        let pod = pod.map(|(namespace, name)| NamespacedName::new(namespace, name));
        let waypoint = pod.filter(|pod| topology.pods.get(pod).is_some_and(|facts| facts.waypoint));
        match waypoint {
            Some(pod) => seen.via = Some(pod.to_string()),
            None => {
                if let Some(identity) = line.get("dst.identity") {
                    seen.destination_identity = Some(identity.to_owned());
                }
            }
        }
    }

    /// What was seen of an edge.
    pub fn get(&self, key: &EdgeKey) -> Option<&Seen> {
        self.seen.get(key)
    }

    /// All edges seen.
    pub fn keys(&self) -> impl Iterator<Item = &EdgeKey> {
        self.seen.keys()
    }
}

/// Which edge a line is about; nothing for the second half of a way through a waypoint, and for strangers.
fn edge_of(line: &AccessLine, topology: &Topology) -> Option<EdgeKey> {
    let named = |workload: &str, namespace: &str| {
        line.get(namespace).zip(line.get(workload)).map(|(namespace, name)| NamespacedName::new(namespace, name))
    };
    let source = named("src.workload", "src.namespace").filter(|pod| topology.pods.contains_key(pod));
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
    let destination = match line.get("dst.service").and_then(|host| super::hosts::service_of(host, "")) {
        Some(service) => service,
        None => {
            let pod = named("dst.workload", "dst.namespace")?;
            let facts = topology.pods.get(&pod)?;
            facts.services.first().cloned().or_else(|| topology.workload(&pod))?
        }
    };
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
    /// Whether every connection that a proxy logged was under mutual TLS, and there was one.
    pub encrypted: bool,
    /// Verified SPIFFE id of the caller.
    pub source_identity: Option<String>,
    /// Verified SPIFFE id of the callee.
    pub destination_identity: Option<String>,
    /// The waypoint pod in between, `namespace/name`.
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
    pub fn new(key: &EdgeKey, counted: Option<&EdgeStats>, seen: Option<&Seen>) -> Self {
        let seen = seen.cloned().unwrap_or_default();
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
            encrypted: seen.mutual_tls > 0 && seen.plain == 0,
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
