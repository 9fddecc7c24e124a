//! AuthorizationPolicies of action CUSTOM that hold for requests. For each extension provider there are two filters: one that only marks what
//! a rule matches, as a rule set that is not enforced leaves its result for others, and one that has the provider asked about what is
//! marked. They come before all rules that are enforced. Where nobody can be asked a policy denies what it matches, as DENY would.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_api::envoy::pb::envoy::config::core::v3::{ApiVersion, GrpcService, HeaderValue, HttpUri, http_uri::HttpUpstreamType};
use ambit_api::envoy::pb::envoy::extensions::filters::http::ext_authz::v3::{
    AuthorizationRequest, AuthorizationResponse, BufferSettings, ExtAuthz, HttpService, ext_authz::Services,
};
use ambit_api::envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::metadata_matcher::{PathSegment, path_segment::Segment};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::value_matcher::MatchPattern as ValuePattern;
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::{ListStringMatcher, MetadataMatcher, StringMatcher, ValueMatcher};
use ambit_api::envoy::pb::envoy::r#type::v3::HttpStatus;
use ambit_api::workload::AppProtocol;

use super::listener::http_filter;
use super::rbac::{self, Place};
use super::reached::Reached;
use super::wire::ordered::{HttpRbac, Rules};
use super::wire::{any, any_as, duration, exactly, grpc_service};
use crate::index::{Asked, Index};
use crate::source::crd::AuthorizationPolicy;
use crate::source::crd::mesh::{Authorizer, HttpCheck};

/// Where a rule set leaves its results.
const MARKS: &str = "envoy.filters.http.rbac";
const RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";

/// An authorizer with what it is asked about.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// The extension provider.
    provider: String,
    /// What of requests it is asked about.
    marks: Rules,
    /// How it is asked.
    filter: ExtAuthz,
    /// How it is reached.
    pub reached: Reached,
}

/// What the policies of action CUSTOM have asked at a place, in the order of the providers' names. They are all such for which there is
/// somebody to be asked.
pub fn asks(index: &Index, policies: &[&Arc<AuthorizationPolicy>], place: Place<'_>) -> Vec<Ask> {
    let mut of_providers: BTreeMap<&str, (Asked<'_>, Vec<&Arc<AuthorizationPolicy>>)> = BTreeMap::new();
    for policy in policies {
        if let Ok(asked) = index.asked_by(policy) {
            of_providers.entry(asked.provider).or_insert_with(|| (asked, Vec::new())).1.push(policy);
        }
    }
    let each = of_providers.into_values();
    // What would be denied if there were nobody to ask.
    each.filter_map(|(asked, policies)| Some(ask(index, &asked, rbac::compile(&policies, place).deny?))).collect()
}

fn ask(index: &Index, asked: &Asked<'_>, marks: Rules) -> Ask {
    let Asked { provider, authorizer, service, port } = asked;
    let kind = if authorizer.http.is_some() { "http" } else { "grpc" };
    let by_grpc = Reached::by_grpc(index, service, port.port, |name| format!("ext-authz|{}|{kind}|{name}", port.port));
    let http2 = authorizer.http.is_none() || matches!(port.protocol, AppProtocol::Http2 | AppProtocol::Grpc);
    let reached = Reached { http2, ..by_grpc };
    let filter = filter(provider, authorizer, &reached.cluster, &service.hostname(index.config()));
    Ask { provider: (*provider).to_owned(), marks, filter, reached }
}

/// What marks the requests for a provider, as the beginning of what it is called.
fn prefix(provider: &str) -> String {
    format!("istio_ext_authz_{provider}_")
}

/// The filters of an authorizer.
pub fn filters(ask: &Ask) -> [HttpFilter; 2] {
    let marks = HttpRbac { rules: None, shadow_rules: Some(ask.marks.clone()), shadow_rules_stat_prefix: prefix(&ask.provider) };
    [http_filter(MARKS, any_as(RBAC, &marks)), http_filter("envoy.filters.http.ext_authz", any(&ask.filter))]
}

fn filter(provider: &str, authorizer: &Authorizer, cluster: &str, host: &str) -> ExtAuthz {
    let marked = MetadataMatcher {
        filter: MARKS.into(),
        path: vec![PathSegment { segment: Some(Segment::Key(format!("{}shadow_engine_result", prefix(provider)))) }],
        value: Some(ValueMatcher { match_pattern: Some(ValuePattern::StringMatch(exactly("denied"))) }),
        invert: false,
    };
    let services = match &authorizer.http {
        None => {
            let timeout = duration(authorizer.timeout);
            Services::GrpcService(GrpcService { timeout, ..grpc_service(cluster, host) })
        }
        Some(check) => Services::HttpService(http(check, authorizer, cluster, host)),
    };
    let told = authorizer.http.as_ref().and_then(|check| patterns(&check.told));
    ExtAuthz {
        transport_api_version: ApiVersion::V3.into(),
        failure_mode_allow: authorizer.fail_open,
        status_on_error: authorizer.status_on_error.map(|code| HttpStatus { code: code.into() }),
        with_request_body: authorizer.body.as_ref().map(|body| BufferSettings {
            max_request_bytes: body.max_request_bytes,
            allow_partial_message: body.allow_partial_message,
            pack_as_bytes: body.pack_as_bytes,
        }),
        filter_enabled_metadata: Some(marked),
        allowed_headers: told,
        services: Some(services),
        ..Default::default()
    }
}

fn http(check: &HttpCheck, authorizer: &Authorizer, cluster: &str, host: &str) -> HttpService {
    let added = |(name, value): (&String, &String)| HeaderValue { key: name.clone(), value: value.clone(), ..Default::default() };
    let request = AuthorizationRequest { headers_to_add: check.added.iter().map(added).collect(), ..Default::default() };
    let response = AuthorizationResponse {
        allowed_upstream_headers: patterns(&check.to_upstream),
        allowed_client_headers: patterns(&check.to_client_on_deny),
        allowed_client_headers_on_success: patterns(&check.to_client_on_allow),
        ..Default::default()
    };
    HttpService {
        server_uri: Some(HttpUri {
            uri: format!("http://{host}"),
            timeout: duration(authorizer.timeout),
            http_upstream_type: Some(HttpUpstreamType::Cluster(cluster.into())),
        }),
        path_prefix: check.path_prefix.clone(),
        authorization_request: (!check.added.is_empty()).then_some(request),
        authorization_response: (response != AuthorizationResponse::default()).then_some(response),
        ..Default::default()
    }
}

/// Names of headers, of which case says nothing, with `*` at one end for any; `None` where there are none.
fn patterns(names: &[String]) -> Option<ListStringMatcher> {
    let pattern = |name: &String| {
        let pattern = match (name.strip_suffix('*'), name.strip_prefix('*')) {
            (Some(beginning), _) => MatchPattern::Prefix(beginning.to_ascii_lowercase()),
            (None, Some(end)) => MatchPattern::Suffix(end.to_ascii_lowercase()),
            (None, None) => MatchPattern::Exact(name.to_ascii_lowercase()),
        };
        StringMatcher { match_pattern: Some(pattern), ignore_case: true }
    };
    (!names.is_empty()).then(|| ListStringMatcher { patterns: names.iter().map(pattern).collect() })
}
