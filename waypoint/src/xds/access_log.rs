//! Access logs of a listener, in Envoy's format language.
//!
//! Where there are none the waypoint writes its own lines, and where there is only the one that has Envoy write the same: it is known by how it
//! begins. All others are in the place of those.

use std::{mem::take, sync::Arc, time::Duration};

use ambit_api::envoy::pb::{
    envoy::{
        config::{
            accesslog::v3::{
                AccessLog, AccessLogFilter, access_log::ConfigType, access_log_filter::FilterSpecifier, comparison_filter::Op,
            },
            core::v3::{SubstitutionFormatString, data_source::Specifier, substitution_format_string::Format as PbFormat},
        },
        extensions::access_loggers::{
            file::v3::{FileAccessLog, file_access_log::AccessLogFormat},
            open_telemetry::v3::OpenTelemetryAccessLogConfig,
        },
    },
    google::protobuf::{Struct, Value as PbValue, value::Kind},
    opentelemetry::proto::common::v1::{KeyValueList, any_value::Value as AnyValue},
};
use ambit_model::access_log::{Format, Json, Text};
use serde_json::{Map, Number, Value};

use super::{
    grpc::{self, Called},
    read::{Compiled, Problem, Under, finish, required, type_of, unpack},
};
use crate::compiled::{LogCollector, LogTo, Logger, Logs, OnlyStatus};

const FILE: &str = "envoy.extensions.access_loggers.file.v3.FileAccessLog";
const OPEN_TELEMETRY: &str = "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig";
/// How the line begins that our control plane has Envoy write where nobody asks for another: ours says the same.
const OWN: &str = "%START_TIME% access direction=inbound ";
/// How long a collector may take where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The access logs that are in the place of the waypoint's own lines; `None` where those are written.
pub fn logs(all: Vec<AccessLog>) -> Compiled<Option<Arc<Logs>>> {
    let (mut loggers, several) = (Vec::new(), all.len());
    for (index, log) in all.into_iter().enumerate() {
        if let Some(logger) = logger(log).under(format!("access_log[{index}]"))? {
            loggers.push(logger);
        }
    }
    match loggers.len() {
        0 => Ok(None),
        some if some < several => Err(Problem::new("the mesh's own line beside others is not implemented").under("access_log")),
        _ => Ok(Some(Arc::new(Logs::new(loggers)))),
    }
}

/// One of them; `None` for the mesh's own.
fn logger(mut log: AccessLog) -> Compiled<Option<Logger>> {
    log.name.clear();
    let only = log.filter.take().map(only).transpose().under("filter")?;
    let Some(ConfigType::TypedConfig(any)) = log.config_type.take() else {
        return Err(Problem::new("only typed_config is implemented"));
    };
    finish(&log)?;
    let to = match type_of(&any) {
        FILE => file(unpack(&any, FILE)?)?,
        OPEN_TELEMETRY => Some(LogTo::Collector(Arc::new(collector(unpack(&any, OPEN_TELEMETRY)?)?))),
        other => return Err(Problem::new(format!("{other} is not implemented"))),
    };
    Ok(to.map(|to| Logger { only, to }))
}

fn only(filter: AccessLogFilter) -> Compiled<OnlyStatus> {
    let Some(FilterSpecifier::StatusCodeFilter(mut filter)) = filter.filter_specifier else {
        return Err(Problem::new("only status_code_filter is implemented"));
    };
    let mut comparison = required(filter.comparison.take(), "comparison")?;
    finish(&filter)?;
    let value = required(comparison.value.take(), "value")?.default_value;
    let op = Op::try_from(take(&mut comparison.op)).map_err(|_| Problem::new("no such op"))?;
    finish(&comparison)?;
    match op {
        Op::Eq => Ok(OnlyStatus { from: value, to: value }),
        Op::Ge => Ok(OnlyStatus { from: value, to: u32::MAX }),
        Op::Le => Ok(OnlyStatus { from: 0, to: value }),
        Op::Ne => Err(Problem::new("NE is not implemented")),
    }
}

fn file(mut log: FileAccessLog) -> Compiled<Option<LogTo>> {
    let path = take(&mut log.path);
    let format = match log.access_log_format.take() {
        Some(AccessLogFormat::LogFormat(format)) => format,
        _ => return Err(Problem::new("only log_format is implemented")),
    };
    finish(&log)?;
    if path.is_empty() {
        return Err(Problem::new("path is missing"));
    }
    Ok(self::format(format).under("log_format")?.map(|format| LogTo::File { path: path.into(), format }))
}

/// A format; `None` for the mesh's own.
fn format(mut format: SubstitutionFormatString) -> Compiled<Option<Format>> {
    let omit_empty = take(&mut format.omit_empty_values);
    format.content_type.clear();
    let read = match format.format.take() {
        Some(PbFormat::TextFormatSource(source)) => match source.specifier {
            Some(Specifier::InlineString(text)) if text.starts_with(OWN) => None,
            Some(Specifier::InlineString(text)) => {
                let text = Text::parse(&text, omit_empty).map_err(Problem::new).under("text_format_source")?;
                Some(Format::Text(text))
            }
            _ => return Err(Problem::new("only inline_string is implemented").under("text_format_source")),
        },
        Some(PbFormat::JsonFormat(object)) => {
            let json = Json::parse(&map(object), omit_empty).map_err(Problem::new).under("json_format")?;
            Some(Format::Json(json))
        }
        _ => return Err(Problem::new("only text_format_source and json_format are implemented")),
    };
    finish(&format)?;
    Ok(read)
}

fn map(object: Struct) -> Map<String, Value> {
    object.fields.into_iter().map(|(name, field)| (name, value(field))).collect()
}

fn value(value: PbValue) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        // As Envoy writes it: whole, where it is.
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < 9e15 => Value::from(number as i64),
        Some(Kind::NumberValue(number)) => Number::from_f64(number).map_or(Value::Null, Value::Number),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::BoolValue(yes)) => Value::Bool(yes),
        Some(Kind::StructValue(object)) => Value::Object(map(object)),
        Some(Kind::ListValue(list)) => Value::Array(list.values.into_iter().map(self::value).collect()),
    }
}

fn collector(mut config: OpenTelemetryAccessLogConfig) -> Compiled<LogCollector> {
    let service = required(config.grpc_service.take(), "grpc_service")?;
    let Called { cluster, authority, timeout } = grpc::called(service).under("grpc_service")?;
    if !take(&mut config.disable_builtin_labels) {
        return Err(Problem::new("disable_builtin_labels: other than true is not implemented"));
    }
    // It names the records for Envoy's statistics; they have it where it is among the attributes of their resource.
    config.log_name.clear();
    config.stat_prefix.clear();
    let timeout = timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(TIMEOUT);
    let resource = texts(config.resource_attributes.take()).under("resource_attributes")?;
    let text = |text: String| Text::parse(&text, false).map_err(Problem::new);
    let body = match config.body.take() {
        None => None,
        Some(body) => Some(string(body.value).and_then(text).under("body")?),
    };
    let mut attributes = Vec::new();
    for (key, format) in texts(config.attributes.take()).under("attributes")? {
        let format = text(format).under(&key).under("attributes")?;
        attributes.push((key, format));
    }
    finish(&config)?;
    Ok(LogCollector { cluster, authority, timeout, resource, body, attributes })
}

fn texts(list: Option<KeyValueList>) -> Compiled<Vec<(String, String)>> {
    let mut read = Vec::new();
    for pair in list.unwrap_or_default().values {
        let text = string(pair.value.and_then(|value| value.value)).under(&pair.key)?;
        read.push((pair.key, text));
    }
    Ok(read)
}

fn string(value: Option<AnyValue>) -> Compiled<String> {
    match value {
        Some(AnyValue::StringValue(text)) => Ok(text),
        _ => Err(Problem::new("only string_value is implemented")),
    }
}

#[cfg(test)]
mod tests;
