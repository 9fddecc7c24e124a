//! What is taken of the filter for external authorization, and what is rejected and by which name.

use ambit_api::envoy::pb::{
    envoy::{
        config::core::v3::{
            RuntimeFeatureFlag,
            grpc_service::{EnvoyGrpc, TargetSpecifier},
        },
        r#type::matcher::v3::{StringMatcher, ValueMatcher, metadata_matcher::PathSegment, string_matcher::MatchPattern as Text},
    },
    google::protobuf::Duration as ProtoDuration,
};
use ambit_model::route::{Permission, Principal, RbacAction, RbacPolicy};

use super::*;

fn exact(text: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(Text::Exact(text.into())), ..Default::default() }
}

fn condition(filter: &str, key: &str, value: &str) -> MetadataMatcher {
    MetadataMatcher {
        filter: filter.into(),
        path: vec![PathSegment { segment: Some(Segment::Key(key.into())) }],
        value: Some(ValueMatcher { match_pattern: Some(MatchPattern::StringMatch(exact(value))) }),
        invert: false,
    }
}

/// By gRPC, without anything that need not be said.
fn config() -> Config {
    let envoy = EnvoyGrpc { cluster_name: "guard".into(), ..Default::default() };
    let service = GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..Default::default() };
    Config { transport_api_version: ApiVersion::V3.into(), services: Some(Services::GrpcService(service)), ..Default::default() }
}

fn marks() -> Vec<(String, Rbac)> {
    let rules = |name: &str| {
        let policy = RbacPolicy { name: name.into(), permissions: vec![Permission::Any], principals: vec![Principal::Any] };
        Rbac { action: RbacAction::Deny, policies: vec![policy] }
    };
    vec![("a_".into(), rules("first")), ("b_".into(), rules("other")), ("a_".into(), rules("last"))]
}

#[test]
fn an_authorizer_is_asked_about_what_the_rule_set_of_that_name_marks() {
    let all = filter(config(), &mut Vec::new()).unwrap();
    assert!(all.when.is_none() && !all.failure_mode_allow);
    assert_eq!((all.status_on_error, all.timeout), (StatusCode::FORBIDDEN, Duration::from_millis(200)));
    let mut marks = marks();
    for (key, of, rule) in
        [("a_shadow_engine_result", Mark::Result, "last"), ("b_shadow_effective_policy_id", Mark::Rule, "other")]
    {
        let some = Config { filter_enabled_metadata: Some(condition(MARKS, key, "denied")), ..config() };
        let when = filter(some, &mut marks).unwrap().when.unwrap();
        assert_eq!((when.of, when.rules.policies[0].name.as_str()), (of, rule));
    }
    assert_eq!(marks.len(), 1, "what is asked for is no dry run");
}

#[test]
fn what_is_not_implemented_of_external_authorization_is_rejected_by_name() {
    let rejected = |config: Config, part: &str| {
        let problem = filter(config, &mut marks()).unwrap_err().to_string();
        assert!(problem.contains(part), "{part}: {problem}");
    };
    rejected(Config { services: None, ..config() }, "grpc_service or http_service is missing");
    rejected(Config { transport_api_version: 0, ..config() }, "transport_api_version");
    rejected(Config { clear_route_cache: true, ..config() }, "clear_route_cache is not implemented");
    rejected(Config { shadow_mode: true, ..config() }, "shadow_mode is not implemented");
    rejected(Config { deny_at_disable: Some(RuntimeFeatureFlag::default()), ..config() }, "deny_at_disable is not implemented");
    rejected(Config { include_peer_certificate: true, ..config() }, "include_peer_certificate is not implemented");
    let too_much = BufferSettings { max_request_bytes: MOST_BODY + 1, ..Default::default() };
    rejected(Config { with_request_body: Some(too_much), ..config() }, "with_request_body.max_request_bytes");
    for (filter, key, part) in [
        ("envoy.filters.http.other", "a_shadow_engine_result", "filter \"envoy.filters.http.other\" is not implemented"),
        (MARKS, "a_other", "is no result of a rule set"),
        (MARKS, "c_shadow_engine_result", "no rule set before it leaves"),
    ] {
        rejected(Config { filter_enabled_metadata: Some(condition(filter, key, "denied")), ..config() }, part);
    }
    let http = |change: fn(&mut HttpConfig)| {
        let server_uri = Some(HttpUri {
            uri: "http://guard".into(),
            timeout: Some(ProtoDuration { seconds: 1, nanos: 0 }),
            http_upstream_type: Some(HttpUpstreamType::Cluster("guard".into())),
        });
        let mut service = HttpConfig { server_uri, ..Default::default() };
        change(&mut service);
        Config { services: Some(Services::HttpService(service)), ..config() }
    };
    assert_eq!(filter(http(|_| {}), &mut Vec::new()).unwrap().timeout, Duration::from_secs(1));
    rejected(http(|service| service.path_override = "/x".into()), "path_override is not implemented");
    rejected(http(|service| service.path_prefix = "x".into()), "path_prefix");
    rejected(http(|service| service.server_uri = None), "server_uri is missing");
    let dynamic = |service: &mut HttpConfig| {
        let dynamic_metadata_from_headers = Some(ListStringMatcher { patterns: Vec::new() });
        service.authorization_response = Some(AuthorizationResponse { dynamic_metadata_from_headers, ..Default::default() });
    };
    rejected(http(dynamic), "authorization_response: dynamic_metadata_from_headers is not implemented");
    let formatted = |service: &mut HttpConfig| {
        let header = Header { key: "x".into(), value: "%REQ(y)%".into(), ..Default::default() };
        service.authorization_request = Some(AuthorizationRequest { headers_to_add: vec![header], ..Default::default() });
    };
    rejected(http(formatted), "authorization_request.headers_to_add");
}
