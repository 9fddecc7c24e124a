//! What of a DestinationRule is not carried out, each part by its name. The rest of it holds all the same.

use super::Errors;
use super::unsupported::{TLS_INSTEAD, TLS_REFUSED};
use crate::source::crd::destination::{
    ConnectionPool, DestinationRule, LoadBalancer, RuleOutliers, Settings, Simple, TlsMode, as_percent, as_time, as_u32,
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
    found.check(spec.subsets.is_empty(), "spec.subsets", || {
        "there are no subsets, and nothing leads to one: write a Service for each, and lead to them by an HTTPRoute".into()
    });
    for (at, namespace) in spec.export_to.iter().enumerate() {
        found.check(matches!(namespace.as_str(), "*" | "."), &format!("spec.exportTo[{at}]"), || {
            format!("{namespace:?}: a rule holds for whoever goes through the waypoint of its host, so for \"*\"")
        });
    }
    found.check(spec.workload_selector.is_none(), "spec.workloadSelector", || {
        "a rule holds for whoever goes through the waypoint of its host: take it out".into()
    });
    let Some(policy) = &spec.traffic_policy else { return found.0 };
    settings(&policy.settings(), "spec.trafficPolicy", &mut found);
    absent(
        &mut found,
        "spec.trafficPolicy",
        &[("tunnel", policy.tunnel.is_some()), ("proxyProtocol", policy.proxy_protocol.is_some())],
    );
    if let Some(budget) = &policy.retry_budget {
        let path = "spec.trafficPolicy.retryBudget";
        let good = budget.percent.is_none_or(|percent| (0.0..=100.0).contains(&percent));
        found.check(good, &format!("{path}.percent"), || "it is no percentage (0 to 100)".into());
        count(&mut found, &format!("{path}.minRetryConcurrency"), budget.min_retry_concurrency);
    }
    for (at, of_port) in policy.port_level_settings.iter().enumerate() {
        let path = format!("spec.trafficPolicy.portLevelSettings[{at}]");
        let number = of_port.port.number;
        found.check((1..=65535).contains(&number), &format!("{path}.port.number"), || {
            format!("{number} is not a port (1 to 65535)")
        });
        let earlier = policy.port_level_settings.iter().take(at).any(|other| other.port == of_port.port);
        found.check(!earlier, &path, || format!("port {number} is given before, which holds"));
        settings(&of_port.settings(), &path, &mut found);
    }
    found.0
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
    let parts = [
        ("consistentHash", said.consistent_hash.is_some()),
        ("localityLbSetting", said.locality_lb_setting.is_some()),
        ("warmup", said.warmup.is_some()),
        ("warmupDurationSecs", said.warmup_duration_secs.is_some()),
    ];
    absent(found, path, &parts);
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
