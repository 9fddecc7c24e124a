use ambit_api::envoy::pb::{
    envoy::{
        config::core::v3::{
            GrpcService,
            grpc_service::{EnvoyGrpc, TargetSpecifier},
        },
        extensions::filters::http::ext_proc::v3::{
            ExtProcHttpService, ExtProcOverrides, HeaderForwardingRules, MetadataOptions,
            processing_mode::{BodySendMode, HeaderSendMode},
        },
    },
    google::protobuf::{BoolValue, Duration as ProtoDuration},
};
use prost::Message;

use super::*;
use crate::compiled::BodyMode;

fn config() -> ExternalProcessor {
    let envoy = EnvoyGrpc { cluster_name: "processor".into(), ..Default::default() };
    ExternalProcessor {
        grpc_service: Some(GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..Default::default() }),
        route_cache_action: RouteCacheAction::Retain.into(),
        ..Default::default()
    }
}

fn read(config: ExternalProcessor) -> Result<ExtProc, String> {
    filter("processor", false, config).map_err(|problem| problem.to_string())
}

fn with_mode(change: impl FnOnce(&mut Mode)) -> Result<ExtProc, String> {
    let mut mode = Mode::default();
    change(&mut mode);
    read(ExternalProcessor { processing_mode: Some(mode), ..config() })
}

#[test]
fn a_processor_is_told_headers_within_200_ms_unless_something_else_is_said() {
    let processor = read(config()).unwrap();
    let told = ProcessingMode::DEFAULT;
    assert_eq!((processor.mode, processor.message_timeout), (told, Duration::from_millis(200)));
    assert_eq!((processor.failure_mode_allow, processor.status_on_error.as_u16(), processor.on), (false, 500, true));
    assert_eq!(&*processor.authority, "processor");
    assert!(!filter("processor", true, config()).unwrap().on);
    let processor = with_mode(|mode| {
        mode.response_header_mode = HeaderSendMode::Skip.into();
        mode.request_body_mode = BodySendMode::Buffered.into();
    });
    let told = ProcessingMode { response_headers: false, request_body: BodyMode::Buffered, ..told };
    assert_eq!(processor.unwrap().mode, told);
    let processor = with_mode(|mode| {
        mode.response_body_mode = BodySendMode::Streamed.into();
        mode.request_trailer_mode = HeaderSendMode::Send.into();
    });
    let told = ProcessingMode { response_body: BodyMode::Streamed, request_trailers: true, ..ProcessingMode::DEFAULT };
    assert_eq!(processor.unwrap().mode, told);
}

#[test]
fn a_processor_says_what_else_it_is_told_only_where_it_may() {
    let streamed = Mode { response_body_mode: BodySendMode::Streamed.into(), ..Default::default() };
    let configured = Mode { response_header_mode: HeaderSendMode::Skip.into(), ..Default::default() };
    let config = ExternalProcessor { processing_mode: Some(configured), ..config() };
    let over = |processor: &ExtProc, said: &Mode| processor.overridden(said).unwrap();
    assert_eq!(over(&read(config.clone()).unwrap(), &streamed), None);
    let may = ExternalProcessor { allow_mode_override: true, ..config };
    // Of headers nothing is said, and so it stays as it is.
    let expected = ProcessingMode { response_headers: false, response_body: BodyMode::Streamed, ..ProcessingMode::DEFAULT };
    let any = read(may.clone()).unwrap();
    assert_eq!(over(&any, &streamed), Some(expected));
    let partial = Mode { request_body_mode: BodySendMode::BufferedPartial.into(), ..Default::default() };
    assert!(any.overridden(&partial).unwrap_err().contains("request_body_mode BUFFERED_PARTIAL is not implemented"));
    // Headers of requests have been told already, and so are not looked at.
    let allowed = Mode { request_header_mode: HeaderSendMode::Skip.into(), ..streamed };
    let some = read(ExternalProcessor { allowed_override_modes: vec![allowed], ..may.clone() }).unwrap();
    assert_eq!(over(&some, &streamed), Some(expected));
    assert_eq!(over(&some, &Mode::default()), None);
    let wrong = read(ExternalProcessor { allowed_override_modes: vec![partial], ..may }).unwrap_err();
    assert!(wrong.contains("allowed_override_modes: request_body_mode BUFFERED_PARTIAL is not implemented"), "{wrong}");
}

#[test]
fn what_is_not_implemented_of_external_processing_is_rejected_by_name() {
    let yes = Some(BoolValue { value: true });
    let changed = |change: &dyn Fn(&mut ExternalProcessor)| {
        let mut config = config();
        change(&mut config);
        read(config).unwrap_err()
    };
    for (problem, name) in [
        (changed(&|c| c.grpc_service = None), "grpc_service is missing"),
        (changed(&|c| c.http_service = Some(ExtProcHttpService::default())), "http_service is not implemented"),
        (changed(&|c| c.route_cache_action = 0), "route_cache_action other than RETAIN"),
        (
            changed(&|c| c.send_body_without_waiting_for_header_response = true),
            "send_body_without_waiting_for_header_response is not implemented",
        ),
        (changed(&|c| c.observability_mode = true), "observability_mode is not implemented"),
        (changed(&|c| c.disable_immediate_response = true), "disable_immediate_response is not implemented"),
        (changed(&|c| c.request_attributes = vec!["a".into()]), "request_attributes is not implemented"),
        (changed(&|c| c.max_message_timeout = Some(ProtoDuration::default())), "max_message_timeout is not implemented"),
        (changed(&|c| c.forward_rules = Some(HeaderForwardingRules::default())), "forward_rules is not implemented"),
        (changed(&|c| c.metadata_options = Some(MetadataOptions::default())), "metadata_options is not implemented"),
        (changed(&|c| c.allow_content_length_header = true), "allow_content_length_header is not implemented"),
        (
            changed(&|c| c.mutation_rules = Some(HeaderMutationRules { allow_all_routing: yes, ..Default::default() })),
            "mutation_rules: allow_all_routing is not implemented",
        ),
        (
            with_mode(|mode| mode.request_body_mode = BodySendMode::FullDuplexStreamed.into()).unwrap_err(),
            "processing_mode: request_body_mode FULL_DUPLEX_STREAMED is not implemented",
        ),
        (
            with_mode(|mode| mode.response_body_mode = BodySendMode::BufferedPartial.into()).unwrap_err(),
            "processing_mode: response_body_mode BUFFERED_PARTIAL is not implemented",
        ),
        (
            with_mode(|mode| mode.response_trailer_mode = 3).unwrap_err(),
            "processing_mode: response_trailer_mode 3 is not implemented",
        ),
    ] {
        assert!(problem.contains(name), "{name}: {problem}");
    }
}

#[test]
fn a_route_says_whether_it_has_its_requests_processed_and_nothing_else() {
    let said = |said: Option<Override>| {
        let value = ExtProcPerRoute { r#override: said }.encode_to_vec();
        let any = Any { type_url: format!("type.googleapis.com/{PER_ROUTE}"), value };
        let mut all = HashMap::from([("processor".to_owned(), any)]);
        per_filter(&mut all).map_err(|problem| problem.to_string())
    };
    assert_eq!(said(Some(Override::Disabled(true))), Ok(BTreeMap::from([("processor".to_owned(), false)])));
    assert_eq!(
        said(Some(Override::Overrides(ExtProcOverrides::default()))),
        Ok(BTreeMap::from([("processor".to_owned(), true)]))
    );
    let other = ExtProcOverrides { failure_mode_allow: Some(BoolValue { value: true }), ..Default::default() };
    assert_eq!(
        said(Some(Override::Overrides(other))),
        Err("processor.overrides: failure_mode_allow is not implemented".to_owned())
    );
    assert!(said(None).is_err());
}
