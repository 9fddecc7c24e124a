//! RequestPolicies that have requests processed outside. For each extension provider there is a filter, which is off; routes say that it is on
//! for them. It comes after all that may refuse a request, and before what requests go on with to find their endpoint. Where nobody can
//! process the requests of a route, they are answered with 500.

use std::collections::BTreeSet;

use ambit_api::envoy::pb::envoy::config::route::v3::{Route, VirtualHost, route::Action};
use ambit_api::envoy::pb::envoy::extensions::filters::http::ext_proc::v3::{
    ExtProcOverrides, ExtProcPerRoute, ExternalProcessor, ProcessingMode,
    ext_proc_per_route::Override,
    external_processor::RouteCacheAction,
    processing_mode::{BodySendMode, HeaderSendMode},
};
use ambit_api::envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;

use super::listener::http_filter;
use super::reached::Reached;
use super::route::respond;
use super::wire::{any, duration, grpc_service};
use crate::index::{Index, Processes};
use crate::source::crd::mesh::{BodyMode, HeaderMode, Told, TrailerMode};
use crate::source::crd::requests::RequestPolicy;

/// What precedes the provider in the name of its filter.
const FILTER: &str = "envoy.filters.http.ext_proc/";

/// A processor that routes of a place ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// The extension provider.
    provider: String,
    /// How it is asked.
    filter: ExternalProcessor,
    /// How it is reached.
    pub reached: Reached,
}

/// Has the requests of a route processed as its policy says; by whom is looked at when all else of the route is made ([`settle`]).
pub fn of_route(policy: &RequestPolicy, route: &mut Route) {
    let Some(processing) = &policy.spec.external_processing else { return };
    let per_route = ExtProcPerRoute { r#override: Some(Override::Overrides(ExtProcOverrides::default())) };
    route.typed_per_filter_config.insert(format!("{FILTER}{}", processing.provider), any(&per_route));
}

/// Takes out again what [`of_route`] adds.
pub fn without(route: &mut Route) {
    route.typed_per_filter_config.retain(|name, _| !name.starts_with(FILTER));
}

/// The provider that a route names, if it can process anything. A route for which there is nobody answers with 500.
pub fn settle(index: &Index, route: &mut Route) -> Option<String> {
    let provider = route.typed_per_filter_config.keys().find_map(|name| name.strip_prefix(FILTER))?.to_owned();
    if index.processor(&provider).is_ok() {
        return Some(provider);
    }
    without(route);
    route.action = Some(Action::DirectResponse(respond(500)));
    None
}

/// The processors of these providers, in the order of their names.
pub fn asked(index: &Index, providers: &BTreeSet<String>) -> Vec<Process> {
    let found = providers.iter().filter_map(|provider| index.processor(provider).ok());
    found.map(|found| process(index, &found)).collect()
}

/// The processors that these routes ask for, in the order of the providers' names. A route for which there is nobody answers with 500.
pub fn processes<'h>(index: &Index, hosts: impl IntoIterator<Item = &'h mut VirtualHost>) -> Vec<Process> {
    let routes = hosts.into_iter().flat_map(|host| &mut host.routes);
    asked(index, &routes.filter_map(|route| settle(index, route)).collect())
}

fn process(index: &Index, processes: &Processes<'_>) -> Process {
    let Processes { provider, processor, service, port } = processes;
    let reached = Reached::by_grpc(index, service, port.port, |name| format!("ext-proc|{}|{name}", port.port));
    let filter = ExternalProcessor {
        grpc_service: Some(grpc_service(&reached.cluster, &service.hostname(index.config()))),
        failure_mode_allow: processor.fail_open,
        processing_mode: Some(mode(&processor.told)),
        allow_mode_override: processor.allow_mode_override,
        message_timeout: duration(processor.timeout),
        // What was allowed is what goes on: the route stays.
        route_cache_action: RouteCacheAction::Retain.into(),
        ..Default::default()
    };
    Process { provider: (*provider).to_owned(), filter, reached }
}

fn mode(told: &Told) -> ProcessingMode {
    let headers = |mode| match mode {
        HeaderMode::Send => HeaderSendMode::Send,
        HeaderMode::Skip => HeaderSendMode::Skip,
    };
    let body = |mode| match mode {
        BodyMode::None => BodySendMode::None,
        BodyMode::Buffered => BodySendMode::Buffered,
        BodyMode::Streamed => BodySendMode::Streamed,
    };
    let trailers = |mode| match mode {
        TrailerMode::Skip => HeaderSendMode::Skip,
        TrailerMode::Send => HeaderSendMode::Send,
    };
    ProcessingMode {
        request_header_mode: headers(told.request_header_mode).into(),
        response_header_mode: headers(told.response_header_mode).into(),
        request_body_mode: body(told.request_body_mode).into(),
        response_body_mode: body(told.response_body_mode).into(),
        request_trailer_mode: trailers(told.request_trailer_mode).into(),
        response_trailer_mode: trailers(told.response_trailer_mode).into(),
    }
}

/// The filter of a processor.
pub fn filter(process: &Process) -> HttpFilter {
    HttpFilter { disabled: true, ..http_filter(&format!("{FILTER}{}", process.provider), any(&process.filter)) }
}
