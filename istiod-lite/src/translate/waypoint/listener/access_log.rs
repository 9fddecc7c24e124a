//! Access logs of an Envoy waypoint, in the vocabulary of the mesh's own proxies.

use ambit_api::envoy::pb::envoy::config::accesslog::v3::{AccessLog, access_log};
use ambit_api::envoy::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log::AccessLogFormat};

use super::super::wire::{any, text_format};

const SOURCE: &str = "%START_TIME% access direction=inbound src.addr=%DOWNSTREAM_REMOTE_ADDRESS%";
const END: &str = "bytes_sent=%BYTES_SENT% bytes_recv=%BYTES_RECEIVED% duration_ms=%DURATION% security=mutual_tls \
                   flags=%RESPONSE_FLAGS% error=\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\"\n";
const PEER: &str = "src.identity=%FILTER_STATE(io.istio.peer_principal:PLAIN)%";

/// Of the requests of a service.
pub fn requests(host: &str) -> Vec<AccessLog> {
    line(&format!(
        "{SOURCE} {PEER} dst.addr=%UPSTREAM_HOST% dst.service={host} reason=%RESPONSE_CODE_DETAILS% method=%REQ(:METHOD)% \
         path=%REQ(:PATH)% status=%RESPONSE_CODE% route=%ROUTE_NAME% cluster=%UPSTREAM_CLUSTER% {END}"
    ))
}

/// Of the connections of a service.
pub fn connections(host: &str) -> Vec<AccessLog> {
    line(&format!(
        "{SOURCE} {PEER} dst.addr=%UPSTREAM_HOST% dst.service={host} reason=%CONNECTION_TERMINATION_DETAILS% \
         cluster=%UPSTREAM_CLUSTER% {END}"
    ))
}

/// How the connections of clients outside of the mesh are protected that come to a listener where TLS ends, or to another one.
fn end_at_edge(ends_tls: bool) -> String {
    END.replace("security=mutual_tls", if ends_tls { "security=tls" } else { "security=none" })
}

/// Of the connections of clients outside of the mesh.
pub fn connections_at_edge(ends_tls: bool) -> Vec<AccessLog> {
    let end = end_at_edge(ends_tls);
    line(&format!("{SOURCE} dst.addr=%UPSTREAM_HOST% reason=%CONNECTION_TERMINATION_DETAILS% cluster=%UPSTREAM_CLUSTER% {end}"))
}

/// Of the requests of clients outside of the mesh.
pub fn at_edge(ends_tls: bool) -> Vec<AccessLog> {
    let end = end_at_edge(ends_tls);
    line(&format!(
        "{SOURCE} dst.addr=%UPSTREAM_HOST% reason=%RESPONSE_CODE_DETAILS% method=%REQ(:METHOD)% authority=%REQ(:AUTHORITY)% \
         path=%REQ(:PATH)% status=%RESPONSE_CODE% route=%ROUTE_NAME% cluster=%UPSTREAM_CLUSTER% {end}"
    ))
}

/// Of the tunnels that are refused.
pub fn refused_tunnels() -> Vec<AccessLog> {
    use ambit_api::envoy::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
    use ambit_api::envoy::pb::envoy::config::accesslog::v3::{
        AccessLogFilter, ComparisonFilter, StatusCodeFilter, comparison_filter::Op,
    };
    use ambit_api::envoy::pb::envoy::config::core::v3::RuntimeUInt32;

    let value = RuntimeUInt32 { default_value: 400, runtime_key: "ambit.refused_tunnels".into() };
    let comparison = ComparisonFilter { op: Op::Ge.into(), value: Some(value) };
    let refused = StatusCodeFilter { comparison: Some(comparison) };
    let filter = AccessLogFilter { filter_specifier: Some(FilterSpecifier::StatusCodeFilter(refused)) };
    let mut logs = line(&format!(
        "{SOURCE} src.identity=%DOWNSTREAM_PEER_URI_SAN% dst.addr=%REQ(:AUTHORITY)% reason=%RESPONSE_CODE_DETAILS% method=CONNECT \
         status=%RESPONSE_CODE% {END}"
    ));
    for log in &mut logs {
        log.filter = Some(filter.clone());
    }
    logs
}

fn line(format: &str) -> Vec<AccessLog> {
    let file =
        FileAccessLog { path: "/dev/stdout".into(), access_log_format: Some(AccessLogFormat::LogFormat(text_format(format))) };
    let config_type = Some(access_log::ConfigType::TypedConfig(any(&file)));
    vec![AccessLog { name: "envoy.access_loggers.file".into(), config_type, ..Default::default() }]
}
