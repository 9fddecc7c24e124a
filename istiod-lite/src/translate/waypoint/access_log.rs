//! Access logs that Telemetries ask for, in place of the line that is written where nobody asks ([`super::listener`]).

mod ordered;

use ambit_api::envoy::pb::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, ComparisonFilter, StatusCodeFilter, access_log::ConfigType, access_log_filter::FilterSpecifier,
    comparison_filter::Op,
};
use ambit_api::envoy::pb::envoy::config::core::v3::{GrpcService, RuntimeUInt32};
use ambit_api::envoy::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log::AccessLogFormat};
use ambit_api::envoy::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use ambit_api::envoy::pb::opentelemetry::proto::common::v1::{AnyValue, KeyValue, KeyValueList, any_value};
use serde_json::{Map, Value};

use super::reached::Reached;
use super::wire::{Any, any, any_as, grpc_service, text_format};
use crate::index::{Index, LogsTo, ServiceRef};
use crate::source::NamespacedName;
use crate::source::crd::mesh::{AccessLogger, LineFormat};
use crate::source::crd::telemetry::OnlyStatus;

const FILE: &str = "envoy.access_loggers.file";
const COLLECTOR: &str = "envoy.access_loggers.open_telemetry";
/// Where lines go that nobody is to see.
const NOWHERE: &str = "/dev/null";

/// A log that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// As Envoy has it.
    log: AccessLog,
    /// How its collector is reached.
    pub reached: Option<Reached>,
}

/// What is asked for at a waypoint, of the traffic to a service or of other traffic.
pub fn asked(index: &Index, gateway: &NamespacedName, service: Option<&ServiceRef>) -> Option<Vec<Log>> {
    let logs = index.access_logs(gateway, service)?;
    // A proxy of ours that is told of no log writes its own lines.
    if logs.is_empty() {
        return Some(vec![Log { log: log(FILE, any(&file(NOWHERE, "\n", false)), None), reached: None }]);
    }
    Some(logs.iter().map(|logs| one(index, logs)).collect())
}

/// These, or where nobody has asked for any, the mesh's own.
pub fn or_own(asked: Option<&Vec<Log>>, own: impl FnOnce() -> Vec<AccessLog>) -> Vec<AccessLog> {
    asked.map_or_else(own, |logs| logs.iter().map(|log| log.log.clone()).collect())
}

fn one(index: &Index, logs: &LogsTo<'_>) -> Log {
    match (logs.logger, &logs.place) {
        (AccessLogger::Collector { log_name, body, attributes, .. }, Some((service, port))) => {
            let reached = Reached::by_grpc(index, service, port.port, |name| format!("access-log|{}|{name}", port.port));
            let called = grpc_service(&reached.cluster, &service.hostname(index.config()));
            let config = collector(called, log_name, body, attributes);
            Log { log: log(COLLECTOR, any(&config), logs.only), reached: Some(reached) }
        }
        (AccessLogger::File { path, format: LineFormat::Text(text), omit_empty }, _) => {
            Log { log: log(FILE, any(&file(path, text, *omit_empty)), logs.only), reached: None }
        }
        (AccessLogger::File { path, format: LineFormat::Json(object), omit_empty }, _) => {
            let config = any_as(ordered::FILE, &ordered::file(path, object, *omit_empty));
            Log { log: log(FILE, config, logs.only), reached: None }
        }
        // The index has a place for each of them.
        (AccessLogger::Collector { .. }, None) => Log { log: log(FILE, any(&file(NOWHERE, "\n", false)), None), reached: None },
    }
}

fn file(path: &str, text: &str, omit_empty_values: bool) -> FileAccessLog {
    let mut format = text_format(text);
    format.omit_empty_values = omit_empty_values;
    FileAccessLog { path: path.to_owned(), access_log_format: Some(AccessLogFormat::LogFormat(format)) }
}

fn collector(called: GrpcService, log_name: &str, body: &str, attributes: &Map<String, Value>) -> OpenTelemetryAccessLogConfig {
    // A map of JSON has its fields in the same order each time.
    let texts = attributes.iter().filter_map(|(name, value)| Some(pair(name, value.as_str()?)));
    OpenTelemetryAccessLogConfig {
        grpc_service: Some(called),
        log_name: log_name.to_owned(),
        // What they would say of the proxy is different between Envoy and ours; the name of the log is said here.
        disable_builtin_labels: true,
        resource_attributes: Some(KeyValueList { values: vec![pair("log_name", log_name)] }),
        body: Some(string(body)),
        attributes: (!attributes.is_empty()).then(|| KeyValueList { values: texts.collect() }),
        ..Default::default()
    }
}

fn pair(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(string(value)), ..Default::default() }
}

fn string(text: &str) -> AnyValue {
    AnyValue { value: Some(any_value::Value::StringValue(text.to_owned())) }
}

fn log(name: &str, config: Any, only: Option<OnlyStatus>) -> AccessLog {
    AccessLog { name: name.to_owned(), filter: only.map(filter), config_type: Some(ConfigType::TypedConfig(config)) }
}

fn filter(only: OnlyStatus) -> AccessLogFilter {
    let (op, default_value) = match only {
        OnlyStatus::Is(status) => (Op::Eq, status),
        OnlyStatus::AtLeast(status) => (Op::Ge, status),
        OnlyStatus::AtMost(status) => (Op::Le, status),
    };
    let value = RuntimeUInt32 { default_value, runtime_key: "ambit.access_log".into() };
    let comparison = ComparisonFilter { op: op.into(), value: Some(value) };
    let filter = StatusCodeFilter { comparison: Some(comparison) };
    AccessLogFilter { filter_specifier: Some(FilterSpecifier::StatusCodeFilter(filter)) }
}
