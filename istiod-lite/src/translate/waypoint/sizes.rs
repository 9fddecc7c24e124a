//! RequestPolicies that say how large requests may be. Of bodies a route says it for Envoy's buffer filter, which is off where no route has it
//! on: an Envoy collects the body whole to know, a waypoint of ours counts it as it passes. Of heads Envoy has nothing that a route could say, so
//! it is a word in metadata of ours, which an Envoy passes over.

use ambit_api::envoy::pb::envoy::config::route::v3::{Route, VirtualHost};
use ambit_api::envoy::pb::envoy::extensions::filters::http::buffer::v3::{Buffer, BufferPerRoute, buffer_per_route::Override};
use ambit_api::envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use ambit_api::envoy::pb::google::protobuf::{Struct, Value, value::Kind};

use super::listener::http_filter;
use super::wire::{any, u32_value};
use crate::source::crd::requests::RequestPolicy;

/// The name of the filter, under which routes say what holds for them.
const FILTER: &str = "envoy.filters.http.buffer";
/// The metadata of ours, and the word in it.
const OWN: &str = "io.ambit";
const MAX_HEADER_BYTES: &str = "max_header_bytes";

/// Has the requests of a route be no larger than its policy says.
pub fn of_route(policy: &RequestPolicy, route: &mut Route) {
    let Some(limits) = &policy.spec.limits else { return };
    if let Some(most) = limits.max_body_bytes {
        let per_route = BufferPerRoute { r#override: Some(Override::Buffer(of_bytes(most))) };
        route.typed_per_filter_config.insert(FILTER.to_owned(), any(&per_route));
    }
    if let Some(most) = limits.max_header_bytes {
        let most = Value { kind: Some(Kind::NumberValue(most.into())) };
        let said = Struct { fields: [(MAX_HEADER_BYTES.to_owned(), most)].into() };
        route.metadata.get_or_insert_default().filter_metadata.insert(OWN.to_owned(), said);
    }
}

/// Takes out again what [`of_route`] adds, but for metadata.
pub fn without(route: &mut Route) {
    route.typed_per_filter_config.remove(FILTER);
}

/// Whether a route needs the filter.
pub fn is_named(route: &Route) -> bool {
    route.typed_per_filter_config.contains_key(FILTER)
}

/// Whether any of these routes does.
pub fn named<'h>(hosts: impl IntoIterator<Item = &'h VirtualHost>) -> bool {
    hosts.into_iter().flat_map(|host| &host.routes).any(is_named)
}

/// The filter, which is off where routes say nothing. It has to say something itself all the same.
pub fn filter() -> HttpFilter {
    HttpFilter { disabled: true, ..http_filter(FILTER, any(&of_bytes(u32::MAX))) }
}

fn of_bytes(most: u32) -> Buffer {
    Buffer { max_request_bytes: u32_value(most) }
}
