//! Authorizers that are asked about requests (`envoy.extensions.filters.http.ext_authz.v3`).

use std::{mem::take, sync::Arc, time::Duration};

use ambit_api::envoy::pb::envoy::{
    config::core::v3::{ApiVersion, GrpcService, HeaderValue as Header, HttpUri, http_uri::HttpUpstreamType},
    extensions::filters::http::ext_authz::v3::{
        AuthorizationRequest, AuthorizationResponse, BufferSettings, ExtAuthz as Config, HttpService as HttpConfig,
        ext_authz::Services,
    },
    r#type::matcher::v3::{
        ListStringMatcher, MetadataMatcher, metadata_matcher::path_segment::Segment, value_matcher::MatchPattern,
    },
};
use ambit_model::route::{Rbac, StringMatch};
use http::{HeaderName, HeaderValue, StatusCode};

use super::{
    grpc::{self, Called},
    read::{Compiled, Problem, Under, duration, finish, required},
    text,
};
use crate::compiled::{AuthorizerService, Buffered, ExtAuthz, HttpService, Mark, Marked, NameTests};

/// The filter's type.
pub const FILTER: &str = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
/// Whose results its condition may be about.
const MARKS: &str = "envoy.filters.http.rbac";
/// Envoy's default.
const TIMEOUT: Duration = Duration::from_millis(200);
/// The most of a body that may be wanted, in bytes.
const MOST_BODY: u32 = 1 << 20;

/// The filter. `marks` are the rule sets before it that are not enforced, with the beginning of what their results are called; the one that
/// its condition is about is taken out.
pub fn filter(mut config: Config, marks: &mut Vec<(String, Rbac)>) -> Compiled<ExtAuthz> {
    config.stat_prefix.clear();
    config.charge_cluster_response_stats = None;
    // There is one span for each request, and none of what authorizers are asked.
    config.emit_client_span = config.emit_client_span.filter(|on| on.value);
    // What is known of a request besides goes nowhere from here.
    if config.enable_dynamic_metadata_ingestion.is_some_and(|on| !on.value) {
        config.enable_dynamic_metadata_ingestion = None;
    }
    if take(&mut config.transport_api_version) != ApiVersion::V3 as i32 {
        return Err(Problem::new("a transport_api_version other than V3 is not implemented"));
    }
    let when = config.filter_enabled_metadata.take().map(|test| marked(test, marks)).transpose();
    let when = when.under("filter_enabled_metadata")?;
    let (cluster, service, timeout) = match required(config.services.take(), "grpc_service or http_service")? {
        Services::GrpcService(service) => grpc(service).under("grpc_service")?,
        Services::HttpService(service) => http(service).under("http_service")?,
    };
    let read = ExtAuthz {
        when,
        cluster,
        service,
        timeout,
        failure_mode_allow: take(&mut config.failure_mode_allow),
        status_on_error: config
            .status_on_error
            .take()
            .map_or(Ok(StatusCode::FORBIDDEN), grpc::status)
            .under("status_on_error")?,
        allowed_headers: config.allowed_headers.take().map(names).transpose().under("allowed_headers")?,
        body: config.with_request_body.take().map(body).transpose().under("with_request_body")?,
    };
    finish(&config)?;
    Ok(read)
}

/// A condition on what one of the rule sets said.
fn marked(test: MetadataMatcher, marks: &mut Vec<(String, Rbac)>) -> Compiled<Marked> {
    if test.filter != MARKS {
        return Err(Problem::new(format!("filter {:?} is not implemented", test.filter)));
    }
    let mut path = test.path.into_iter().map(|part| part.segment);
    let (Some(Some(Segment::Key(key))), None) = (path.next(), path.next()) else {
        return Err(Problem::new("a path other than of one key is not implemented"));
    };
    let ends = [("shadow_engine_result", Mark::Result), ("shadow_effective_policy_id", Mark::Rule)];
    let named = ends.into_iter().find_map(|(end, of)| Some((key.strip_suffix(end)?.to_owned(), of)));
    let (prefix, of) = named.ok_or_else(|| Problem::new(format!("{key:?} is no result of a rule set")))?;
    // Of several with one name the last one writes last.
    let place = marks.iter().rposition(|(of, _)| *of == prefix);
    let place = place.ok_or_else(|| Problem::new(format!("no rule set before it leaves {key:?}")))?;
    let (_, rules) = marks.remove(place);
    let is = match required(test.value.and_then(|value| value.match_pattern), "value")? {
        MatchPattern::StringMatch(test) => text::string(test).under("value")?,
        _ => return Err(Problem::new("a value other than string_match is not implemented")),
    };
    Ok(Marked { rules, of, is, invert: test.invert })
}

type Service = (Arc<str>, AuthorizerService, Duration);

fn grpc(config: GrpcService) -> Compiled<Service> {
    let Called { cluster, authority, timeout } = grpc::called(config)?;
    Ok((cluster, AuthorizerService::Grpc { authority }, timeout.unwrap_or(TIMEOUT)))
}

fn http(mut config: HttpConfig) -> Compiled<Service> {
    let HttpUri { uri: _, timeout, http_upstream_type } = required(config.server_uri.take(), "server_uri")?;
    let timeout = timeout.map_or(Ok(TIMEOUT), duration).under("server_uri.timeout")?;
    let HttpUpstreamType::Cluster(cluster) = required(http_upstream_type, "cluster").under("server_uri")?;
    let path_prefix = take(&mut config.path_prefix);
    if !path_prefix.is_empty() && !path_prefix.starts_with('/') {
        return Err(Problem::new(format!("{path_prefix:?} does not begin with a slash")).under("path_prefix"));
    }
    let mut request: AuthorizationRequest = config.authorization_request.take().unwrap_or_default();
    let added = take(&mut request.headers_to_add).into_iter().map(added).collect::<Compiled<_>>();
    let added = added.under("authorization_request.headers_to_add")?;
    finish(&request).under("authorization_request")?;
    let mut response: AuthorizationResponse = config.authorization_response.take().unwrap_or_default();
    let list = |list: Option<ListStringMatcher>, name: &str| {
        list.map(names).transpose().under(format!("authorization_response.{name}")).map(Option::unwrap_or_default)
    };
    let to_upstream = list(response.allowed_upstream_headers.take(), "allowed_upstream_headers")?;
    let to_client_on_deny = list(response.allowed_client_headers.take(), "allowed_client_headers")?;
    let to_client_on_allow = list(response.allowed_client_headers_on_success.take(), "allowed_client_headers_on_success")?;
    finish(&response).under("authorization_response")?;
    finish(&config)?;
    let service = HttpService { path_prefix, added, to_upstream, to_client_on_deny, to_client_on_allow };
    Ok((cluster.into(), AuthorizerService::Http(Box::new(service)), timeout))
}

fn added(mut header: Header) -> Compiled<(HeaderName, HeaderValue)> {
    let (key, value) = (take(&mut header.key), take(&mut header.value));
    finish(&header)?;
    // Envoy would replace what is between percent signs.
    match (key.parse(), value.parse()) {
        (Ok(name), Ok(parsed)) if !value.contains('%') => Ok((name, parsed)),
        _ => Err(Problem::new(format!("{key:?} with {value:?} is not a header that can be added"))),
    }
}

fn names(list: ListStringMatcher) -> Compiled<NameTests> {
    list.patterns.into_iter().map(text::string).collect::<Compiled<Vec<StringMatch>>>()
}

fn body(settings: BufferSettings) -> Compiled<Buffered> {
    let BufferSettings { max_request_bytes, allow_partial_message, pack_as_bytes } = settings;
    if max_request_bytes == 0 || max_request_bytes > MOST_BODY {
        return Err(Problem::new(format!("{max_request_bytes} is not between 1 and {MOST_BODY}")).under("max_request_bytes"));
    }
    Ok(Buffered { max_bytes: max_request_bytes as usize, partial: allow_partial_message, as_bytes: pack_as_bytes })
}

#[cfg(test)]
mod tests;
