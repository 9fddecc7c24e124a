//! What of a DestinationRule is not carried out, each part by its name. The rest of it holds all the same.

use super::unsupported::{TLS_INSTEAD, TLS_REFUSED};
use super::{Errors, hash};
use crate::source::crd::destination::{
    ConnectionPool, DestinationRule, DestinationRuleSpec, LoadBalancer, LocalitySetting, RuleOutliers, RulePolicy, Settings,
    Simple, TlsMode, as_aggression, as_percent, as_share, as_time, as_u32, is_pattern, priority_label,
};
use crate::source::typed::FieldError;

/// What becomes of a part, and what to do about it.
const WITHOUT_EFFECT: &str = "a waypoint does not carry it out, and does as without it: take it out";

/// The parts that are not carried out, or cannot be what they are.
pub(crate) fn refused(rule: &DestinationRule) -> Vec<FieldError> {
    let mut found = Errors::default();
    let spec = &rule.spec;
    found.check(!spec.host.is_empty(), "spec.host", || "must not be empty".into());
    found.check(!spec.host.contains('*'), "spec.host", || {
        format!("{:?}: a waypoint goes by no wildcard; write a rule for each host", spec.host)
    });
    for (at, namespace) in spec.export_to.iter().enumerate() {
        found.check(matches!(namespace.as_str(), "*" | "."), &format!("spec.exportTo[{at}]"), || {
            format!("{namespace:?}: a rule holds for whoever goes through the waypoint of its host, so for \"*\"")
        });
    }
    found.check(spec.workload_selector.is_none(), "spec.workloadSelector", || {
        "a rule holds for whoever goes through the waypoint of its host: take it out".into()
    });
    if let Some(asked) = &spec.traffic_policy {
        policy(asked, "spec.trafficPolicy", &mut found);
    }
    subsets(spec, &mut found);
    found.0
}

fn subsets(spec: &DestinationRuleSpec, found: &mut Errors) {
    for (at, subset) in spec.subsets.iter().enumerate() {
        let path = format!("spec.subsets[{at}]");
        found.check(subset.has_name(), &format!("{path}.name"), || {
            format!("{:?} is no name: 1 to 63 letters, digits, \"-\", \"_\" and \".\"", subset.name)
        });
        let earlier = spec.subsets.iter().take(at).any(|other| other.name == subset.name);
        found.check(!earlier, &path, || format!("{:?} is given before, which holds", subset.name));
        if let Some(asked) = &subset.traffic_policy {
            policy(asked, &format!("{path}.trafficPolicy"), found);
        }
    }
}

fn policy(policy: &RulePolicy, path: &str, found: &mut Errors) {
    settings(&policy.settings(), path, found);
    absent(found, path, &[("tunnel", policy.tunnel.is_some()), ("proxyProtocol", policy.proxy_protocol.is_some())]);
    if let Some(budget) = &policy.retry_budget {
        let path = format!("{path}.retryBudget");
        let good = budget.percent.is_none_or(|percent| (0.0..=100.0).contains(&percent));
        found.check(good, &format!("{path}.percent"), || "it is no percentage (0 to 100)".into());
        count(found, &format!("{path}.minRetryConcurrency"), budget.min_retry_concurrency);
    }
    for (at, of_port) in policy.port_level_settings.iter().enumerate() {
        let path = format!("{path}.portLevelSettings[{at}]");
        let number = of_port.port.number;
        found.check((1..=65535).contains(&number), &format!("{path}.port.number"), || {
            format!("{number} is not a port (1 to 65535)")
        });
        let earlier = policy.port_level_settings.iter().take(at).any(|other| other.port == of_port.port);
        found.check(!earlier, &path, || format!("port {number} is given before, which holds"));
        settings(&of_port.settings(), &path, found);
    }
}

/// The parts that ask for what the mesh does by itself, and do not mean all of what they say.
pub(super) fn needless(rule: &DestinationRule) -> Vec<FieldError> {
    let mut found = Errors::default();
    let Some(policy) = &rule.spec.traffic_policy else { return found.0 };
    let of_ports = policy.port_level_settings.iter().enumerate();
    let all = [("spec.trafficPolicy".to_owned(), policy.tls.as_ref())]
        .into_iter()
        .chain(of_ports.map(|(at, settings)| (format!("spec.trafficPolicy.portLevelSettings[{at}]"), settings.tls.as_ref())));
    for (path, tls) in all {
        found.check(tls.is_none_or(|tls| tls.mode != TlsMode::Disable), &format!("{path}.tls.mode"), || {
            "DISABLE means that no TLS is added: pods of the mesh are reached by mutual TLS all the same".into()
        });
    }
    found.0
}

fn settings(said: &Settings<'_>, path: &str, found: &mut Errors) {
    if let Some(balancer) = said.load_balancer {
        load_balancer(balancer, &format!("{path}.loadBalancer"), found);
    }
    if let Some(pool) = said.connection_pool {
        connection_pool(pool, &format!("{path}.connectionPool"), found);
    }
    if let Some(outliers) = said.outlier_detection {
        outlier_detection(outliers, &format!("{path}.outlierDetection"), found);
    }
    if let Some(tls) = said.tls {
        found.check(!tls.begins(), &format!("{path}.tls.mode"), || format!("{TLS_REFUSED}; {TLS_INSTEAD}"));
    }
}

fn load_balancer(said: &LoadBalancer, path: &str, found: &mut Errors) {
    let known = !matches!(said.simple, Simple::Passthrough | Simple::Unknown);
    found.check(known, &format!("{path}.simple"), || {
        "it is none of ROUND_ROBIN, RANDOM, LEAST_REQUEST: endpoints take turns".into()
    });
    hash::rule(said, path, found);
    if let Some(said) = &said.locality_lb_setting {
        locality(said, &format!("{path}.localityLbSetting"), found);
    }
    warmup(said, path, found);
}

fn locality(said: &LocalitySetting, path: &str, found: &mut Errors) {
    let (shares, labels) = (!said.distribute.is_empty(), !said.failover_priority.is_empty());
    found.check(!(shares && labels), &format!("{path}.failoverPriority"), || "distribute is given, which holds".into());
    found.check(said.failover.is_empty() || !(shares || labels), &format!("{path}.failover"), || {
        format!("{} is given, which holds", if shares { "distribute" } else { "failoverPriority" })
    });
    for (at, text) in said.failover_priority.iter().enumerate() {
        found.check(priority_label(text).is_some(), &format!("{path}.failoverPriority[{at}]"), || {
            format!("{text:?}: a waypoint goes by where an endpoint runs, by topology.kubernetes.io/region and zone, topology.istio.io/subzone, and kubernetes.io/hostname: take it out")
        });
    }
    for (at, failover) in said.failover.iter().enumerate() {
        let given = !failover.from.is_empty() && !failover.to.is_empty() && failover.from != failover.to;
        found.check(given, &format!("{path}.failover[{at}]"), || "from and to must be two regions".into());
    }
    for (at, distribution) in said.distribute.iter().enumerate() {
        let path = format!("{path}.distribute[{at}]");
        let unlike = "is no place: region, region/zone or region/zone/subzone, with * for all from there on";
        found.check(is_pattern(&distribution.from), &format!("{path}.from"), || format!("{:?} {unlike}", distribution.from));
        for place in distribution.to.keys() {
            found.check(is_pattern(place), &format!("{path}.to"), || format!("{place:?} {unlike}"));
        }
        let good =
            distribution.to.values().all(|share| (1..=100).contains(share)) && distribution.to.values().sum::<i64>() == 100;
        found.check(good, &format!("{path}.to"), || "the shares are not between 1 and 100, or not 100 together".into());
    }
}

fn warmup(said: &LoadBalancer, path: &str, found: &mut Errors) {
    let parts = [("warmup", said.warmup.is_some()), ("warmupDurationSecs", said.warmup_duration_secs.is_some())];
    for (field, _) in parts.iter().filter(|(_, there)| *there && said.simple == Simple::Random) {
        found.add(format!("{path}.{field}"), "endpoints are chosen by chance, whatever their weights, so that it has no effect");
    }
    for (field, _) in parts.iter().filter(|(_, there)| *there && said.consistent_hash.is_some()) {
        found.add(
            format!("{path}.{field}"),
            "hashes lead to an endpoint with its whole share from the first moment on, so that it has no effect",
        );
    }
    time(found, &format!("{path}.warmupDurationSecs"), said.warmup_duration_secs.as_deref());
    let Some(said) = &said.warmup else { return };
    let path = format!("{path}.warmup");
    found.check(said.duration.is_some(), &format!("{path}.duration"), || "without one it has no effect".into());
    time(found, &format!("{path}.duration"), said.duration.as_deref());
    let good = said.minimum_percent.is_none_or(|percent| as_share(percent).is_some());
    found.check(good, &format!("{path}.minimumPercent"), || "it is no percentage (0 to 100)".into());
    let good = said.aggression.is_none_or(|aggression| as_aggression(aggression).is_some());
    found.check(good, &format!("{path}.aggression"), || "it is less than 1, or no number, and has no effect".into());
}

fn connection_pool(said: &ConnectionPool, path: &str, found: &mut Errors) {
    if let Some(tcp) = &said.tcp {
        let path = format!("{path}.tcp");
        count(found, &format!("{path}.maxConnections"), tcp.max_connections);
        time(found, &format!("{path}.connectTimeout"), tcp.connect_timeout.as_deref());
        let parts = [
            ("tcpKeepalive", tcp.tcp_keepalive.is_some()),
            ("maxConnectionDuration", tcp.max_connection_duration.is_some()),
            ("idleTimeout", tcp.idle_timeout.is_some()),
        ];
        absent(found, &path, &parts);
    }
    if let Some(http) = &said.http {
        let path = format!("{path}.http");
        count(found, &format!("{path}.http1MaxPendingRequests"), http.http1_max_pending_requests);
        count(found, &format!("{path}.http2MaxRequests"), http.http2_max_requests);
        count(found, &format!("{path}.maxRetries"), http.max_retries);
        let parts = [
            ("maxRequestsPerConnection", http.max_requests_per_connection.is_some()),
            ("idleTimeout", http.idle_timeout.is_some()),
            ("h2UpgradePolicy", http.h2_upgrade_policy.is_some()),
            ("useClientProtocol", http.use_client_protocol.is_some()),
            ("maxConcurrentStreams", http.max_concurrent_streams.is_some()),
        ];
        absent(found, &path, &parts);
    }
}

fn outlier_detection(said: &RuleOutliers, path: &str, found: &mut Errors) {
    count(found, &format!("{path}.consecutive5xxErrors"), said.consecutive_5xx_errors);
    count(found, &format!("{path}.consecutiveGatewayErrors"), said.consecutive_gateway_errors);
    count(found, &format!("{path}.consecutiveLocalOriginFailures"), said.consecutive_local_origin_failures);
    time(found, &format!("{path}.interval"), said.interval.as_deref());
    time(found, &format!("{path}.baseEjectionTime"), said.base_ejection_time.as_deref());
    for (field, value) in [("maxEjectionPercent", said.max_ejection_percent), ("minHealthPercent", said.min_health_percent)] {
        found.check(value.is_none_or(|value| as_percent(value).is_some()), &format!("{path}.{field}"), || {
            "it is no percentage (0 to 100)".into()
        });
    }
    found.check(said.consecutive_errors.is_none(), &format!("{path}.consecutiveErrors"), || {
        "it has no effect: write consecutive5xxErrors or consecutiveGatewayErrors".into()
    });
}

/// None of these may be there.
fn absent(found: &mut Errors, path: &str, parts: &[(&str, bool)]) {
    for (field, there) in parts {
        found.check(!there, &format!("{path}.{field}"), || WITHOUT_EFFECT.into());
    }
}

fn count(found: &mut Errors, path: &str, value: Option<i64>) {
    found
        .check(value.is_none_or(|value| as_u32(value).is_some()), path, || "it is no number of things, and has no effect".into());
}

fn time(found: &mut Errors, path: &str, value: Option<&str>) {
    found.check(value.is_none_or(|value| as_time(value).is_some()), path, || {
        "it is no duration such as 30ms or 1m30s, from 1ms on, and has no effect".into()
    });
}
