//! How endpoints are checked (`envoy.config.core.v3.HealthCheck`).

use std::{mem::take, sync::Arc, time::Duration};

use ambit_api::envoy::pb::{
    envoy::{
        config::core::v3::{
            self as pb, RequestMethod,
            health_check::{GrpcHealthCheck, HealthChecker, HttpHealthCheck},
        },
        r#type::v3::{CodecClientType, Int64Range},
    },
    google::protobuf::Duration as ProtoDuration,
};
use ambit_model::balance::Thresholds;

use super::read::{Compiled, Problem, Under, duration, finish, number, required};
use crate::compiled::{HealthCheck, Probe};

/// Envoy's default, where a cluster has had nothing to do.
const NO_TRAFFIC: Duration = Duration::from_mins(1);
/// The shortest that there may be from one check to the next, so that no resource makes a waypoint do nothing else.
const SHORTEST: Duration = Duration::from_millis(10);

/// The check of a cluster of this name. `acquits` says whether who answers well is no longer ejected.
pub fn checks(said: Vec<pb::HealthCheck>, cluster: &Arc<str>, acquits: bool) -> Compiled<Option<Arc<HealthCheck>>> {
    let mut said = said.into_iter();
    let Some(first) = said.next() else { return Ok(None) };
    if said.next().is_some() {
        return Err(Problem::new("more than one is not implemented"));
    }
    check(first, cluster, acquits).map(|check| Some(Arc::new(check)))
}

fn check(mut said: pb::HealthCheck, cluster: &Arc<str>, acquits: bool) -> Compiled<HealthCheck> {
    // Each check has a connection of its own, in a tunnel that others use too.
    said.reuse_connection = None;
    // What is found is in the log of the proxy.
    said.always_log_health_check_failures = false;
    said.always_log_health_check_success = false;
    let interval = required(time(said.interval.take(), "interval")?, "interval")?;
    let read = HealthCheck {
        timeout: required(time(said.timeout.take(), "timeout")?, "timeout")?,
        interval,
        unhealthy_interval: time(said.unhealthy_interval.take(), "unhealthy_interval")?.unwrap_or(interval),
        no_traffic_interval: time(said.no_traffic_interval.take(), "no_traffic_interval")?.unwrap_or(NO_TRAFFIC),
        initial_jitter: jitter(said.initial_jitter.take(), "initial_jitter")?,
        jitter: jitter(said.interval_jitter.take(), "interval_jitter")?,
        jitter_percent: take(&mut said.interval_jitter_percent),
        thresholds: Thresholds {
            unhealthy: required(number(said.unhealthy_threshold.take()), "unhealthy_threshold")?.max(1),
            healthy: required(number(said.healthy_threshold.take()), "healthy_threshold")?.max(1),
        },
        probe: probe(required(said.health_checker.take(), "health_checker")?, cluster)?,
        acquits,
    };
    finish(&said)?;
    Ok(read)
}

fn probe(said: HealthChecker, cluster: &Arc<str>) -> Compiled<Probe> {
    match said {
        HealthChecker::HttpHealthCheck(said) => http(said, cluster).under("http_health_check"),
        HealthChecker::GrpcHealthCheck(said) => grpc(said, cluster).under("grpc_health_check"),
        HealthChecker::TcpHealthCheck(said) => finish(&said).under("tcp_health_check").map(|()| Probe::Tcp),
        HealthChecker::CustomHealthCheck(_) => Err(Problem::new("custom_health_check is not implemented")),
    }
}

fn http(mut said: HttpHealthCheck, cluster: &Arc<str>) -> Compiled<Probe> {
    let path: Arc<str> = take(&mut said.path).into();
    let good = path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok();
    if !good {
        return Err(Problem::new(format!("{path:?} is no path")).under("path"));
    }
    let http2 = match CodecClientType::try_from(take(&mut said.codec_client_type)) {
        Ok(CodecClientType::Http1) => false,
        Ok(CodecClientType::Http2) => true,
        _ => return Err(Problem::new("only HTTP1 and HTTP2 are implemented").under("codec_client_type")),
    };
    match RequestMethod::try_from(take(&mut said.method)) {
        Ok(RequestMethod::MethodUnspecified | RequestMethod::Get) => {}
        _ => return Err(Problem::new("other methods than GET are not implemented").under("method")),
    }
    let expected = take(&mut said.expected_statuses).into_iter().map(|Int64Range { start, end }| match start < end {
        true => Ok(start..end),
        false => Err(Problem::new(format!("from {start} to {end} there is none")).under("expected_statuses")),
    });
    let mut expected = expected.collect::<Compiled<Vec<_>>>()?;
    if expected.is_empty() {
        expected.push(200..201);
    }
    let host = host(take(&mut said.host), cluster).under("host")?;
    finish(&said)?;
    Ok(Probe::Http { host, path, http2, expected })
}

fn grpc(mut said: GrpcHealthCheck, cluster: &Arc<str>) -> Compiled<Probe> {
    let authority = host(take(&mut said.authority), cluster).under("authority")?;
    let service = take(&mut said.service_name).into();
    finish(&said)?;
    Ok(Probe::Grpc { authority, service })
}

/// Whom a request is for: the cluster, by its name, where nothing is said.
fn host(said: String, cluster: &Arc<str>) -> Compiled<Arc<str>> {
    if said.is_empty() {
        return Ok(cluster.clone());
    }
    match http::HeaderValue::from_str(&said) {
        Ok(_) => Ok(said.into()),
        Err(_) => Err(Problem::new(format!("{said:?} cannot be in a header"))),
    }
}

/// A length of time from one check to the next, or for one.
fn time(said: Option<ProtoDuration>, name: &str) -> Compiled<Option<Duration>> {
    match said.map(duration).transpose().under(name)? {
        Some(time) if time < SHORTEST => Err(Problem::new(format!("{time:?} is less than {SHORTEST:?}")).under(name)),
        time => Ok(time),
    }
}

fn jitter(said: Option<ProtoDuration>, name: &str) -> Compiled<Duration> {
    Ok(said.map(duration).transpose().under(name)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
