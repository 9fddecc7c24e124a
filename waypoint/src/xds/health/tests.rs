use ambit_api::envoy::pb::{
    envoy::config::core::v3::health_check::{CustomHealthCheck, TcpHealthCheck},
    google::protobuf::UInt32Value,
};

use super::*;

fn seconds(seconds: i64) -> Option<ProtoDuration> {
    Some(ProtoDuration { seconds, nanos: 0 })
}

/// Every two seconds a connection.
fn said() -> pb::HealthCheck {
    pb::HealthCheck {
        timeout: seconds(1),
        interval: seconds(2),
        unhealthy_threshold: Some(UInt32Value { value: 3 }),
        healthy_threshold: Some(UInt32Value { value: 2 }),
        health_checker: Some(HealthChecker::TcpHealthCheck(TcpHealthCheck::default())),
        ..Default::default()
    }
}

fn read(said: pb::HealthCheck) -> Compiled<HealthCheck> {
    let found = checks(vec![said], &"a".into(), true)?;
    Ok(HealthCheck::clone(&found.expect("a check")))
}

fn of_http(change: impl FnOnce(&mut HttpHealthCheck)) -> pb::HealthCheck {
    let mut http = HttpHealthCheck { path: "/healthz?full".into(), ..Default::default() };
    change(&mut http);
    pb::HealthCheck { health_checker: Some(HealthChecker::HttpHealthCheck(http)), ..said() }
}

#[test]
fn what_is_not_said_is_as_with_envoy() {
    let found = read(said()).unwrap();
    let two = Duration::from_secs(2);
    assert_eq!((found.interval, found.unhealthy_interval, found.no_traffic_interval), (two, two, NO_TRAFFIC));
    assert_eq!((found.initial_jitter, found.jitter, found.jitter_percent), (Duration::ZERO, Duration::ZERO, 0));
    assert_eq!(found.thresholds, Thresholds { unhealthy: 3, healthy: 2 });
    assert_eq!(found.probe, Probe::Tcp);
    let http = |host: &str, http2, expected| Probe::Http { host: host.into(), path: "/healthz?full".into(), http2, expected };
    assert_eq!(read(of_http(|_| {})).unwrap().probe, http("a", false, std::iter::once(200..201).collect()));
    let more = of_http(|http| {
        http.host = "b.example".into();
        http.codec_client_type = CodecClientType::Http2.into();
        http.expected_statuses = vec![Int64Range { start: 200, end: 300 }, Int64Range { start: 404, end: 405 }];
    });
    assert_eq!(read(more).unwrap().probe, http("b.example", true, vec![200..300, 404..405]));
    let grpc = GrpcHealthCheck { service_name: "shop.Cart".into(), ..Default::default() };
    let grpc = pb::HealthCheck { health_checker: Some(HealthChecker::GrpcHealthCheck(grpc)), ..said() };
    assert_eq!(read(grpc).unwrap().probe, Probe::Grpc { authority: "a".into(), service: "shop.Cart".into() });
    assert_eq!(checks(Vec::new(), &"a".into(), true), Ok(None));
}

#[test]
fn what_is_not_implemented_or_cannot_be_is_rejected_by_name() {
    for (rejected, says) in [
        (pb::HealthCheck { interval: None, ..said() }, "interval is missing"),
        (pb::HealthCheck { timeout: None, ..said() }, "timeout is missing"),
        (pb::HealthCheck { interval: seconds(0), ..said() }, "interval: 0ns is less than 10ms"),
        (pb::HealthCheck { unhealthy_threshold: None, ..said() }, "unhealthy_threshold is missing"),
        (pb::HealthCheck { healthy_threshold: None, ..said() }, "healthy_threshold is missing"),
        (pb::HealthCheck { health_checker: None, ..said() }, "health_checker is missing"),
        (pb::HealthCheck { alt_port: Some(UInt32Value { value: 1 }), ..said() }, "alt_port is not implemented"),
        (pb::HealthCheck { healthy_edge_interval: seconds(1), ..said() }, "healthy_edge_interval is not implemented"),
        (of_http(|http| http.path = "healthz".into()), "http_health_check.path: \"healthz\" is no path"),
        (of_http(|http| http.host = "a\nb".into()), "http_health_check.host: \"a\\nb\" cannot be in a header"),
        (of_http(|http| http.method = RequestMethod::Post.into()), "http_health_check.method: other methods"),
        (of_http(|http| http.codec_client_type = 2), "http_health_check.codec_client_type: only HTTP1 and HTTP2"),
        (
            of_http(|http| http.expected_statuses = vec![Int64Range { start: 200, end: 200 }]),
            "http_health_check.expected_statuses: from 200 to 200 there is none",
        ),
        (
            pb::HealthCheck { health_checker: Some(HealthChecker::CustomHealthCheck(CustomHealthCheck::default())), ..said() },
            "custom_health_check is not implemented",
        ),
    ] {
        let problem = read(rejected).unwrap_err().to_string();
        assert!(problem.contains(says), "{says}: {problem}");
    }
    let two = checks(vec![said(), said()], &"a".into(), true).unwrap_err().to_string();
    assert!(two.contains("more than one"), "{two}");
}
