use ambit_api::envoy::pb::{
    envoy::config::{
        accesslog::v3::{ComparisonFilter, StatusCodeFilter},
        core::v3::{DataSource, GrpcService, RuntimeUInt32, grpc_service::EnvoyGrpc, grpc_service::TargetSpecifier},
    },
    google::protobuf::Any,
    opentelemetry::proto::common::v1::{AnyValue as Said, KeyValue},
};
use prost::{Message, Name};

use super::*;

fn any<M: Message + Name>(message: &M) -> Option<ConfigType> {
    Some(ConfigType::TypedConfig(Any { type_url: M::type_url(), value: message.encode_to_vec() }))
}

fn text(text: &str) -> SubstitutionFormatString {
    let specifier = Some(Specifier::InlineString(text.into()));
    let format = Some(PbFormat::TextFormatSource(DataSource { specifier, ..Default::default() }));
    SubstitutionFormatString { format, ..Default::default() }
}

fn to_file(path: &str, format: SubstitutionFormatString) -> AccessLog {
    let file = FileAccessLog { path: path.into(), access_log_format: Some(AccessLogFormat::LogFormat(format)) };
    AccessLog { name: "a".into(), config_type: any(&file), ..Default::default() }
}

fn to_collector(change: impl FnOnce(&mut OpenTelemetryAccessLogConfig)) -> AccessLog {
    let said = |text: &str| Some(Said { value: Some(AnyValue::StringValue(text.into())) });
    let list = |text: &str| {
        let pair = KeyValue { key: "k".into(), value: said(text), ..Default::default() };
        Some(KeyValueList { values: vec![pair] })
    };
    let envoy = EnvoyGrpc { cluster_name: "logs".into(), authority: "logs.tools".into(), ..Default::default() };
    let service = GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..Default::default() };
    let mut config = OpenTelemetryAccessLogConfig {
        grpc_service: Some(service),
        disable_builtin_labels: true,
        log_name: "shop".into(),
        resource_attributes: list("shop"),
        body: said("%REQ(x-a)%"),
        attributes: list("%RESP(x-b)% %TRAILER(x-c)%"),
        ..Default::default()
    };
    change(&mut config);
    AccessLog { config_type: any(&config), ..Default::default() }
}

fn only_ge(mut log: AccessLog, op: Op) -> AccessLog {
    let value = RuntimeUInt32 { default_value: 400, runtime_key: "r".into() };
    let comparison = ComparisonFilter { op: op.into(), value: Some(value) };
    let filter = StatusCodeFilter { comparison: Some(comparison) };
    log.filter = Some(AccessLogFilter { filter_specifier: Some(FilterSpecifier::StatusCodeFilter(filter)) });
    log
}

#[test]
fn formats_are_read_with_the_headers_that_they_name() {
    let logs = logs(vec![only_ge(to_file("/a", text("%REQ(x-a?X-D)% %REQ(:path)%\n")), Op::Ge), to_collector(|_| ())]);
    let logs = logs.unwrap().unwrap();
    let names = |list: &[http::HeaderName]| list.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&logs.request), ["x-a", "x-d"]);
    assert_eq!((names(&logs.response), names(&logs.trailers)), (vec!["x-b".to_owned()], vec!["x-c".to_owned()]));
    let only = logs.loggers[0].only.unwrap();
    assert!(only.holds(Some(400)) && only.holds(Some(599)) && !only.holds(Some(399)) && !only.holds(None));
    let LogTo::Collector(collector) = &logs.loggers[1].to else { panic!("{:?}", logs.loggers[1]) };
    assert_eq!((&*collector.cluster, &*collector.authority), ("logs", "logs.tools"));
    assert_eq!(collector.resource, [("k".to_owned(), "shop".to_owned())]);
    assert_eq!(serde_json::to_string(&*logs).unwrap(), "[\"file /a\",\"collector logs\"]");
}

#[test]
fn the_line_of_the_mesh_is_written_anyway() {
    let own = || to_file("/dev/stdout", text("%START_TIME% access direction=inbound a=%ANYTHING%\n"));
    assert!(logs(Vec::new()).unwrap().is_none());
    assert!(logs(vec![own()]).unwrap().is_none());
    let both = logs(vec![own(), to_file("/a", text("a\n"))]).unwrap_err().to_string();
    assert!(both.contains("the mesh's own line beside others"), "{both}");
}

#[test]
fn what_is_not_implemented_is_rejected_by_name() {
    let json = |field: &str, value: &str| {
        let value = PbValue { kind: Some(Kind::StringValue(value.into())) };
        let object = Struct { fields: [(field.to_owned(), value)].into() };
        SubstitutionFormatString { format: Some(PbFormat::JsonFormat(object)), ..Default::default() }
    };
    for (log, why) in [
        (to_file("/a", text("%NOTHING%")), "access_log[0].log_format.text_format_source: %NOTHING% is not implemented"),
        (to_file("/a", json("b", "%NOTHING%")), "access_log[0].log_format.json_format: b: %NOTHING% is not implemented"),
        (to_file("", text("a")), "access_log[0]: path is missing"),
        (only_ge(to_file("/a", text("a")), Op::Ne), "access_log[0].filter: NE is not implemented"),
        (AccessLog { filter: Some(AccessLogFilter::default()), ..to_file("/a", text("a")) }, "only status_code_filter"),
        (AccessLog { config_type: any(&DataSource::default()), ..Default::default() }, "DataSource is not implemented"),
        (to_collector(|config| config.disable_builtin_labels = false), "disable_builtin_labels: other than true"),
        (to_collector(|config| config.body = Some(Said::default())), "body: only string_value"),
        (to_collector(|config| config.grpc_service = None), "grpc_service is missing"),
        (to_collector(|config| config.filter_state_objects_to_log = vec!["a".into()]), "filter_state_objects_to_log is not"),
    ] {
        let said = logs(vec![log]).unwrap_err().to_string();
        assert!(said.contains(why), "{why}: {said}");
    }
}
