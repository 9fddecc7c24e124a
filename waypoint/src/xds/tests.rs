//! What is taken, what is rejected and by which name, and what becomes of it.

use std::{net::SocketAddr, time::Duration};

use ambit_api::{
    envoy::pb::{
        envoy::{
            config::{
                cluster::v3::Cluster,
                core::v3::{HeaderValue, HeaderValueOption},
                listener::v3::{
                    Filter, FilterChain, Listener, filter, listener::InternalListenerConfig, listener::ListenerSpecifier,
                },
                rbac::v3 as rbac_pb,
                route::v3::{
                    self as route_pb, HeaderMatcher, QueryParameterMatcher, Route, RouteAction, RouteConfiguration, RouteMatch,
                    VirtualHost,
                    header_matcher::HeaderMatchSpecifier,
                    query_parameter_matcher::QueryParameterMatchSpecifier,
                    route_action::{ClusterSpecifier, MaxStreamDuration, RequestMirrorPolicy},
                    route_match::PathSpecifier,
                },
            },
            extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy},
            r#type::matcher::v3::{
                FilterStateMatcher, MetadataMatcher, RegexMatcher, StringMatcher, ValueMatcher, filter_state_matcher,
                string_matcher::MatchPattern, value_matcher::MatchPattern as ValueTest,
            },
        },
        google::protobuf::{Any, BoolValue, Duration as Time, StringValue},
        xds::{
            core::v3::TypedExtensionConfig,
            r#type::matcher::v3::{
                Matcher, StringMatcher as XdsString,
                matcher::{
                    MatcherList, MatcherType, OnMatch,
                    matcher_list::{
                        FieldMatcher, Predicate,
                        predicate::{MatchType, PredicateList, SinglePredicate, single_predicate},
                    },
                    on_match,
                },
                string_matcher,
            },
        },
    },
    type_url,
};
use ambit_model::{
    jwt,
    route::{Action, RequestView, StreamTimes},
};
use ambit_xds::{Resource, client::Subscriptions};
use http::HeaderMap;
use prost::Message;

use super::{Store, cluster, matcher, rbac, route, text};
use crate::compiled::{AppProtocol, FirstBytes, Selection};

mod named;

fn any<M: Message>(name: &str, message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

fn exact(value: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::Exact(value.into())), ..Default::default() }
}

fn to_cluster() -> route_pb::route::Action {
    let cluster_specifier = Some(ClusterSpecifier::Cluster("c".into()));
    route_pb::route::Action::Route(RouteAction { cluster_specifier, ..Default::default() })
}

fn table(when: RouteMatch) -> RouteConfiguration {
    let route = Route { name: "r".into(), r#match: Some(when), action: Some(to_cluster()), ..Default::default() };
    let host = VirtualHost { name: "v".into(), domains: vec!["*".into()], routes: vec![route], ..Default::default() };
    RouteConfiguration { name: "t".into(), virtual_hosts: vec![host], ..Default::default() }
}

/// Whether a compiled match takes a request.
fn takes(when: RouteMatch, method: &str, path: &str, header: Option<(&'static str, &str)>) -> bool {
    let table = route::table(table(when)).unwrap();
    let mut headers = HeaderMap::new();
    if let Some((name, value)) = header {
        headers.insert(name, value.parse().unwrap());
    }
    let view = RequestView { method, scheme: "http", authority: "a", path_and_query: path, headers: &headers };
    table.select(&view, Some("spiffe://td/ns/shop/sa/web")).is_some()
}

fn path(path_specifier: PathSpecifier) -> RouteMatch {
    RouteMatch { path_specifier: Some(path_specifier), ..Default::default() }
}

#[test]
fn every_kind_of_route_match_is_compiled() {
    let all = || path(PathSpecifier::Prefix("/".into()));
    assert!(takes(path(PathSpecifier::Path("/a".into())), "GET", "/a?x", None));
    assert!(!takes(path(PathSpecifier::PathSeparatedPrefix("/a".into())), "GET", "/ab", None));
    let regex = RegexMatcher { regex: "/v[0-9]+".into(), ..Default::default() };
    assert!(takes(path(PathSpecifier::SafeRegex(regex.clone())), "GET", "/v12", None));
    assert!(!takes(path(PathSpecifier::SafeRegex(regex)), "GET", "/v12/x", None));
    let header = |name: &str, value: &str| HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact(value))),
        ..Default::default()
    };
    let by_header = RouteMatch { headers: vec![header("X-A", "1"), header(":method", "GET")], ..all() };
    assert!(takes(by_header.clone(), "GET", "/", Some(("x-a", "1"))));
    assert!(!takes(by_header.clone(), "POST", "/", Some(("x-a", "1"))));
    assert!(!takes(by_header, "GET", "/", None));
    let query = QueryParameterMatcher {
        name: "q".into(),
        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(exact("1"))),
    };
    let by_query = RouteMatch { query_parameters: vec![query], ..all() };
    assert!(takes(by_query.clone(), "GET", "/?q=1", None) && !takes(by_query, "GET", "/?q=2", None));
    let peer = |prefix: &str| FilterStateMatcher {
        key: text::PEER_PRINCIPAL.into(),
        matcher: Some(filter_state_matcher::Matcher::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::Prefix(prefix.into())),
            ..Default::default()
        })),
    };
    assert!(takes(RouteMatch { filter_state: vec![peer("spiffe://td/ns/shop/")], ..all() }, "GET", "/", None));
    assert!(!takes(RouteMatch { filter_state: vec![peer("spiffe://td/ns/other/")], ..all() }, "GET", "/", None));
}

/// The rejection of a route table must have these words.
fn check_rejected(config: RouteConfiguration, words: &[&str]) {
    let problem = route::table(config).unwrap_err().to_string();
    assert!(words.iter().all(|word| problem.contains(word)), "{words:?} are not in {problem:?}");
}

#[test]
fn a_field_that_is_not_implemented_is_named_with_its_place() {
    let change = |edit: fn(&mut Route)| {
        let mut config = table(path(PathSpecifier::Prefix("/".into())));
        edit(&mut config.virtual_hosts[0].routes[0]);
        config
    };
    check_rejected(
        change(|r| r.tracing = Some(Default::default())),
        &["virtual_hosts[v].routes[r]", "tracing is not implemented"],
    );
    check_rejected(change(|r| r.action = None), &["routes[r]", "action is missing"]);
    check_rejected(
        change(|r| r.r#match.as_mut().unwrap().runtime_fraction = Some(Default::default())),
        &["routes[r].match", "runtime_fraction is not implemented"],
    );
    for (edit, name) in [
        ((|a| a.priority = 1) as fn(&mut RouteAction), "priority"),
        (|a| a.append_x_forwarded_host = true, "append_x_forwarded_host"),
        (
            |a| {
                let trace_sampled = Some(BoolValue { value: false });
                a.request_mirror_policies =
                    vec![RequestMirrorPolicy { cluster: "c".into(), trace_sampled, ..Default::default() }];
            },
            "trace_sampled",
        ),
    ] {
        let mut config = table(path(PathSpecifier::Prefix("/".into())));
        if let Some(route_pb::route::Action::Route(action)) = &mut config.virtual_hosts[0].routes[0].action {
            edit(action);
        }
        check_rejected(config, &["routes[r].route", name, "is not implemented"]);
    }
    named::of_clusters();
    named::of_sockets();
    named::of_managers();
    named::of_tunnels();
    named::of_listeners();
    named::of_the_way_to_endpoints();
    check_rejected(
        change(|r| {
            r.request_headers_to_add = vec![HeaderValueOption {
                header: Some(HeaderValue { key: "x".into(), value: "%START_TIME%".into(), ..Default::default() }),
                ..Default::default()
            }];
        }),
        &["request_headers_to_add", "%START_TIME% is not implemented"],
    );
    let regex = RegexMatcher { regex: "(".into(), ..Default::default() };
    check_rejected(table(path(PathSpecifier::SafeRegex(regex))), &["safe_regex", "is not an expression"]);
    let mut host = table(path(PathSpecifier::Prefix("/".into())));
    host.virtual_hosts[0].retry_policy = Some(Default::default());
    check_rejected(host, &["virtual_hosts[v]", "retry_policy is not implemented"]);
}

/// The table of a route that calls may take 7 s of, and what else is said.
#[allow(deprecated)]
fn timed(edit: impl FnOnce(&mut RouteAction)) -> RouteConfiguration {
    let mut config = table(path(PathSpecifier::Prefix("/".into())));
    if let Some(route_pb::route::Action::Route(action)) = &mut config.virtual_hosts[0].routes[0].action {
        action.max_grpc_timeout = Some(Time { seconds: 7, nanos: 0 });
        edit(action);
    }
    config
}

#[test]
fn times_of_streams_are_read_and_what_clients_say_counts_as_in_envoy() {
    let read = |config| {
        let table = route::table(config).unwrap();
        let Action::Forward(forwarding) = &table.hosts[0].routes[0].action else { panic!("it sends on") };
        assert_eq!(forwarding.timeout.is_some(), forwarding.calls.is_some(), "both count, or neither");
        (forwarding.stream.as_deref().copied(), forwarding.calls)
    };
    let time = |seconds| Some(Time { seconds, nanos: 0 });
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let lasting = |idle, longest, calls| Some(StreamTimes { idle, longest, calls });
    assert_eq!(read(timed(|_| {})), (None, seconds(7)));
    assert_eq!(read(timed(|a| a.idle_timeout = time(1))), (lasting(seconds(1), None, None), seconds(7)));
    assert_eq!(read(timed(|a| a.idle_timeout = time(0))), (None, seconds(7)), "it is no limit");
    for (longest, calls, expected) in [
        (None, None, None),
        (time(0), None, None),
        (time(1), None, lasting(None, seconds(1), None)),
        (time(1), time(0), lasting(None, seconds(1), seconds(0))),
    ] {
        let said = MaxStreamDuration { max_stream_duration: longest, grpc_timeout_header_max: calls, ..Default::default() };
        // With this message Envoy does not look at `timeout` and `max_grpc_timeout` any more.
        assert_eq!(read(timed(|a| a.max_stream_duration = Some(said))), (expected, None), "{said:?}");
    }
    let offset = MaxStreamDuration { grpc_timeout_header_offset: time(1), ..Default::default() };
    check_rejected(
        timed(|a| a.max_stream_duration = Some(offset)),
        &["routes[r].route.max_stream_duration", "grpc_timeout_header_offset is not implemented"],
    );
}

/// A test on metadata of a filter, or of the route.
fn of_metadata(filter: &str, metadata_source: i32, test: ValueTest) -> rbac_pb::principal::Identifier {
    let value = Some(ValueMatcher { match_pattern: Some(test) });
    let metadata_matcher = Some(MetadataMatcher { filter: filter.into(), value, ..Default::default() });
    rbac_pb::principal::Identifier::SourcedMetadata(rbac_pb::SourcedMetadata { metadata_matcher, metadata_source })
}

#[test]
fn rules_with_something_unknown_in_them_are_rejected_whole() {
    let rules = |rule, identifier| rbac_pb::Rbac {
        policies: [(
            "p".to_owned(),
            rbac_pb::Policy {
                permissions: vec![rbac_pb::Permission { rule: Some(rule) }],
                principals: vec![rbac_pb::Principal { identifier: Some(identifier) }],
                ..Default::default()
            },
        )]
        .into(),
        ..Default::default()
    };
    use rbac_pb::{permission::Rule, principal::Identifier};
    assert!(rbac::rules(rules(Rule::Any(true), Identifier::Any(true))).is_ok());
    let of_token = of_metadata(jwt::METADATA, 0, ValueTest::StringMatch(exact("x")));
    assert!(rbac::rules(rules(Rule::Any(true), of_token)).is_ok());
    let nested = Rule::NotRule(Box::new(rbac_pb::Permission { rule: Some(Rule::SourcedMetadata(Default::default())) }));
    let other_state = FilterStateMatcher { key: "other".into(), ..Default::default() };
    for (rule, identifier, word) in [
        (nested, Identifier::Any(true), "sourced_metadata"),
        (Rule::Any(true), Identifier::FilterState(other_state), "\"other\""),
        (Rule::Any(true), Identifier::Custom(Default::default()), "custom"),
        (Rule::Any(true), of_metadata("envoy.lb", 0, ValueTest::PresentMatch(true)), "filter \"envoy.lb\""),
        (Rule::Any(true), of_metadata(jwt::METADATA, 1, ValueTest::StringMatch(exact("x"))), "metadata_source"),
        (Rule::Any(true), of_metadata(jwt::METADATA, 0, ValueTest::PresentMatch(true)), "value: present_match"),
        (Rule::DestinationPort(70_000), Identifier::Any(true), "70000"),
    ] {
        let problem = rbac::rules(rules(rule, identifier)).unwrap_err().to_string();
        assert!(problem.contains("policies[p]") && problem.contains(word), "{problem}");
    }
    let log = rbac_pb::Rbac { action: rbac_pb::rbac::Action::Log as i32, ..Default::default() };
    assert!(rbac::rules(log).is_err(), "an action that only logs would let everything through");
}

fn predicate(input: &str, value: &str) -> Predicate {
    let type_name = format!("envoy.extensions.matching.common_inputs.network.v3.{input}");
    let single = SinglePredicate {
        input: Some(TypedExtensionConfig { name: input.into(), typed_config: Some(any(&type_name, &())) }),
        matcher: Some(single_predicate::Matcher::ValueMatch(XdsString {
            match_pattern: Some(string_matcher::MatchPattern::Exact(value.into())),
            ..Default::default()
        })),
    };
    Predicate { match_type: Some(MatchType::SinglePredicate(single)) }
}

fn chain_action(name: &str) -> OnMatch {
    let value = any("google.protobuf.StringValue", &StringValue { value: name.into() });
    let config = TypedExtensionConfig { name: name.into(), typed_config: Some(value) };
    OnMatch { on_match: Some(on_match::OnMatch::Action(config)), ..Default::default() }
}

fn list(entries: Vec<(Predicate, OnMatch)>, otherwise: Option<OnMatch>) -> Matcher {
    let matchers = entries.into_iter().map(|(p, m)| FieldMatcher { predicate: Some(p), on_match: Some(m) }).collect();
    Matcher { matcher_type: Some(MatcherType::MatcherList(MatcherList { matchers })), on_no_match: otherwise.map(Box::new) }
}

#[test]
fn a_list_of_ports_and_protocols_leads_to_chains() {
    let either = Predicate {
        match_type: Some(MatchType::OrMatcher(PredicateList {
            predicate: vec![predicate("ApplicationProtocolInput", "'http/1.1'"), predicate("ApplicationProtocolInput", "'h2c'")],
        })),
    };
    let sniffed = list(vec![(either, chain_action("http"))], Some(chain_action("tcp")));
    let nested = OnMatch { on_match: Some(on_match::OnMatch::Matcher(Box::new(sniffed))), ..Default::default() };
    let ports = vec![
        (predicate("DestinationPortInput", "80"), chain_action("eighty")),
        (predicate("DestinationPortInput", "80"), chain_action("never")),
        (predicate("DestinationPortInput", "81"), nested),
    ];
    let node = matcher::node(list(ports, Some(chain_action("blocked")))).unwrap();
    let at = |port| SocketAddr::from(([10, 0, 0, 1], port));
    let name = |selection| match selection {
        Selection::Chain(name) => name.to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(name(node.select(at(80), None)), "eighty");
    assert_eq!(name(node.select(at(81), None)), "NeedsProtocol");
    assert_eq!(name(node.select(at(81), Some(&AppProtocol::Http2.into()))), "http");
    assert_eq!(name(node.select(at(81), Some(&FirstBytes::default()))), "tcp");
    assert_eq!(name(node.select(at(82), None)), "blocked");

    let mixed = vec![
        (predicate("DestinationPortInput", "80"), chain_action("a")),
        (predicate("DestinationIPInput", "::1"), chain_action("b")),
    ];
    assert!(matcher::node(list(mixed, None)).unwrap_err().to_string().contains("several inputs"));
    let other = vec![(predicate("SourceIPInput", "::1"), chain_action("a"))];
    assert!(matcher::node(list(other, None)).unwrap_err().to_string().contains("SourceIPInput is not implemented"));
}

/// A predicate on the server name.
fn server_name(pattern: string_matcher::MatchPattern) -> Predicate {
    let mut predicate = predicate("ServerNameInput", "");
    if let Some(MatchType::SinglePredicate(SinglePredicate {
        matcher: Some(single_predicate::Matcher::ValueMatch(test)), ..
    })) = &mut predicate.match_type
    {
        test.match_pattern = Some(pattern);
    }
    predicate
}

#[test]
fn of_a_list_of_server_names_the_first_that_fits_counts() {
    use string_matcher::MatchPattern::{Contains, Exact, Suffix};
    let names = list(
        vec![
            (server_name(Exact("a.example".into())), chain_action("exact")),
            (server_name(Suffix(".b.example".into())), chain_action("longer")),
            (server_name(Suffix(".example".into())), chain_action("shorter")),
        ],
        Some(chain_action("blocked")),
    );
    let nested = OnMatch { on_match: Some(on_match::OnMatch::Matcher(Box::new(names))), ..Default::default() };
    let node = matcher::node(list(vec![(predicate("DestinationPortInput", "443"), nested)], None)).unwrap();
    let destination = SocketAddr::from(([10, 0, 0, 1], 443));
    assert_eq!(node.select(destination, None), Selection::NeedsServerName);
    for (name, chain) in [
        (Some("a.example"), "exact"),
        (Some("x.a.example"), "shorter"),
        (Some("x.y.b.example"), "longer"),
        (Some("b.example"), "shorter"),
        (Some("example"), "blocked"),
        (Some("b.other"), "blocked"),
        (None, "blocked"),
    ] {
        let seen = FirstBytes { protocol: None, server_name: name.map(str::to_owned) };
        assert_eq!(node.select(destination, Some(&seen)), Selection::Chain(&chain.into()), "{name:?}");
    }
    for (test, word) in [
        (server_name(Contains("a".into())), "only exact and suffix"),
        (predicate_ending("DestinationPortInput", "3"), "only exact"),
    ] {
        let problem = matcher::node(list(vec![(test, chain_action("a"))], None)).unwrap_err().to_string();
        assert!(problem.contains(word), "{problem}");
    }
}

fn predicate_ending(input: &str, value: &str) -> Predicate {
    let mut named = server_name(string_matcher::MatchPattern::Suffix(value.into()));
    let other = predicate(input, "");
    if let (Some(MatchType::SinglePredicate(named)), Some(MatchType::SinglePredicate(other))) =
        (&mut named.match_type, other.match_type)
    {
        named.input = other.input;
    }
    named
}

fn resource<M: Message>(name: &str, type_url: &str, message: &M) -> Resource {
    let body = Any { type_url: type_url.into(), value: message.encode_to_vec() };
    Resource { name: name.into(), version: "1".into(), body }
}

fn internal(name: &str, filters: Vec<Filter>) -> Listener {
    Listener {
        name: name.into(),
        listener_specifier: Some(ListenerSpecifier::InternalListener(InternalListenerConfig {})),
        filter_chains: vec![FilterChain { name: "only".into(), filters, ..Default::default() }],
        ..Default::default()
    }
}

fn filter(name: &str, message: &impl Message) -> Filter {
    Filter { name: "f".into(), config_type: Some(filter::ConfigType::TypedConfig(any(name, message))) }
}

#[test]
fn one_bad_resource_is_rejected_and_the_others_are_taken() {
    let store = Store::new(Subscriptions::new());
    let proxy = TcpProxy { cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster("c".into())), ..Default::default() };
    let tcp = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    let good = internal("main_internal", vec![filter(tcp, &proxy)]);
    let unknown =
        internal("main_internal", vec![filter("envoy.extensions.filters.network.echo.v3.Echo", &()), filter(tcp, &proxy)]);
    let apply = |listeners: Vec<(&str, &Listener)>| {
        let resources = listeners.into_iter().map(|(name, l)| resource(name, type_url::LISTENER, l)).collect();
        store.apply(type_url::LISTENER, resources, vec![])
    };
    let rejected = apply(vec![("main_internal", &good), ("other", &internal("other", vec![]))]);
    assert_eq!(rejected.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["other"]);
    assert!(store.snapshot().inbound.is_some());
    let rejected = apply(vec![("main_internal", &unknown)]);
    assert!(
        rejected[0].reason.contains("filter_chains[only].f: envoy.extensions.filters.network.echo.v3.Echo is not implemented")
    );
    assert!(store.snapshot().inbound.is_some(), "what was in force before stays");
    assert!(
        apply(vec![("main_internal", &internal("main_internal", vec![filter(tcp, &TcpProxy::default())]))])[0]
            .reason
            .contains("a cluster is missing")
    );

    let garbage =
        Resource { name: "x".into(), version: "1".into(), body: Any { type_url: type_url::CLUSTER.into(), value: vec![0xff] } };
    let fine = resource("c", type_url::CLUSTER, &Cluster { name: "c".into(), ..Default::default() });
    assert_eq!(store.apply(type_url::CLUSTER, vec![garbage, fine], vec![]).len(), 1);
    assert_eq!(store.snapshot().clusters.len(), 1);
    store.apply(type_url::CLUSTER, vec![], vec!["c".into()]);
    assert!(store.snapshot().clusters.is_empty());
}

#[test]
fn tls_to_the_endpoints_of_a_service_is_refused_and_not_left_out() {
    use ambit_api::envoy::pb::envoy::{
        config::core::v3::{TransportSocket, transport_socket},
        extensions::transport_sockets::tls::v3::{
            CommonTlsContext, SdsSecretConfig, UpstreamTlsContext,
            common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
        },
    };
    let secret = |name: &str| SdsSecretConfig { name: name.into(), sds_config: None };
    let validation = CombinedCertificateValidationContext {
        validation_context_sds_secret_config: Some(secret("ROOTCA")),
        ..Default::default()
    };
    let common = CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![secret("default")],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
        ..Default::default()
    };
    let name = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let context = UpstreamTlsContext { common_tls_context: Some(common), ..Default::default() };
    let config_type = Some(transport_socket::ConfigType::TypedConfig(any(name, &context)));
    let socket = Some(TransportSocket { name: "tls".into(), config_type });
    let problem = cluster::cluster(Cluster { name: "c".into(), transport_socket: socket, ..Default::default() }).unwrap_err();
    assert!(problem.to_string().contains(&format!("{name} is not implemented")), "{problem}");
}

#[test]
fn endpoints_are_known_by_what_their_place_is_called_and_by_how_far_it_is() {
    use ambit_api::envoy::pb::envoy::config::{
        core::v3::Locality,
        endpoint::v3::{ClusterLoadAssignment, LocalityLbEndpoints},
    };
    let group = |region: &str, zone: &str, priority| LocalityLbEndpoints {
        locality: Some(Locality { region: region.into(), zone: zone.into(), ..Default::default() }),
        priority,
        ..Default::default()
    };
    let endpoints = vec![group("east", "a", 0), group("east", "", 1), group("", "", 2), LocalityLbEndpoints::default()];
    let assignment = ClusterLoadAssignment { endpoints, ..Default::default() };
    let (_, endpoints) = cluster::endpoints(assignment).unwrap();
    let said: Vec<_> = endpoints.localities.iter().map(|locality| (&*locality.place, locality.priority)).collect();
    assert_eq!(said, [("east/a", 0), ("east", 1), ("", 2), ("", 0)]);
}
