//! RequestPolicies: faults, times, upgrades and processors that routes say of themselves, and limits, which the virtual host says for all of its routes.
//!
//! A rule becomes as many routes as it has matches, and each would count for itself. So routes name their policy in their metadata, and the
//! virtual host has a bucket for each policy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ambit_api::envoy::pb::envoy::config::core::v3::{Metadata, RuntimeFractionalPercent, TypedExtensionConfig};
use ambit_api::envoy::pb::envoy::config::route::v3::rate_limit::Action;
use ambit_api::envoy::pb::envoy::config::route::v3::rate_limit::action::{ActionSpecifier, MetaData, RequestHeaders, meta_data};
use ambit_api::envoy::pb::envoy::config::route::v3::route::Action as Does;
use ambit_api::envoy::pb::envoy::config::route::v3::route_action::MaxStreamDuration;
use ambit_api::envoy::pb::envoy::config::route::v3::{HeaderMatcher, RateLimit, Route};
use ambit_api::envoy::pb::envoy::extensions::common::ratelimit::v3::LocalRateLimitDescriptor;
use ambit_api::envoy::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use ambit_api::envoy::pb::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier};
use ambit_api::envoy::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType};
use ambit_api::envoy::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use ambit_api::envoy::pb::envoy::extensions::rate_limit_descriptors::expr::v3::{Descriptor, descriptor::ExprSpecifier};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use ambit_api::envoy::pb::envoy::r#type::metadata::v3::MetadataKey;
use ambit_api::envoy::pb::envoy::r#type::metadata::v3::metadata_key::{PathSegment, path_segment::Segment};
use ambit_api::envoy::pb::envoy::r#type::v3::{FractionalPercent, TokenBucket, fractional_percent::DenominatorType};
use ambit_api::envoy::pb::google::protobuf::{Struct, value};
use gateway_api::Duration as Gep2257;

use super::super::ext_proc;
use super::super::limiter;
use super::super::names::PEER_PRINCIPAL;
use super::super::scope::ServedPort;
use super::super::sizes;
use super::super::wire::{Any, any, bool_value, duration, exactly, header_is, matches, regex, seconds, string_kind, u32_value};
use super::action::parse_duration;
use super::upgrades::{self, UPGRADES};
use super::writes;
use crate::index::{Index, ServiceRef, upgrades_allowed_by};
use crate::source::crd::requests::{self as crd, FaultHeader, FaultHeaderType, LimitBy, RequestPolicy};
use crate::source::{Kind, NamespacedName};

/// The name of the HTTP filter for faults, under which routes say what holds for them.
pub const FAULTS: &str = "envoy.filters.http.fault";
/// The same for limits.
pub const LIMITS: &str = "envoy.filters.http.local_ratelimit";
/// Under which name routes name their policies.
pub const POLICIES: &str = "ambit.dev";
/// What precedes the kind of a limit, and the header that it goes by.
const LIMIT: &str = "limit";
/// The kind of a limit that a server counts.
const GLOBAL: &str = "global";
/// The kind of a limit of how large requests may be.
const SIZE: &str = "size";
/// The client's SPIFFE id, or the value of the header.
const CLIENT: &str = "client";
/// How many clients, or values of headers, have a bucket at once.
const MOST_VALUES: u32 = 1000;

/// What a filter that routes say something for says itself: nothing.
pub fn no_faults() -> Any {
    any(&HttpFault::default())
}

/// The same for limits.
pub fn no_limits() -> Any {
    any(&LocalRateLimit { stat_prefix: "requests".into(), ..Default::default() })
}

/// Adds to a route what the policy for it says: that of its rule, of its route, or of the Service.
pub fn of_route(index: &Index, port: &ServedPort<'_>, from: Option<(Kind, &NamespacedName, Option<&str>)>, route: &mut Route) {
    let service = match &port.service {
        ServiceRef::Kubernetes(service) => Some(service),
        ServiceRef::Host(_) => None,
    };
    let own = from.and_then(|(kind, name, rule)| index.request_policy_of_rule(kind, name, rule));
    let of_service = service.and_then(|service| index.request_policy(Kind::Service, service, None));
    let (fault, mut limit) = (own.or(of_service), own.or(of_service));
    // Who writes routes for his own clients does not say how much a Service of others bears.
    let foreign = from.zip(service).is_some_and(|((_, name, _), service)| name.namespace != service.namespace);
    if foreign && of_service.is_some_and(|policy| policy.spec.rate_limit.is_some()) {
        limit = of_service;
    }
    let mut named = BTreeMap::new();
    if let Some((policy, fault)) = fault.and_then(|policy| Some((policy, policy.spec.fault.as_ref()?))) {
        route.typed_per_filter_config.insert(FAULTS.to_owned(), any(&self::fault(fault)));
        named.insert("fault".to_owned(), policy);
    }
    if let Some(said) = fault.and_then(|policy| policy.spec.timeouts.as_ref()) {
        times(said, route);
    }
    if let Some((policy, limit)) = limit.and_then(|policy| Some((policy, local(policy)?))) {
        named.insert(kind(limit), policy);
    }
    if let Some((policy, limit)) = limit.and_then(|policy| Some((policy, policy.spec.rate_limit.as_ref()?.global.as_ref()?)))
        && let Some((filter, said)) = limiter::of_route(index, limit, &NamespacedName::of(&policy.metadata))
    {
        route.typed_per_filter_config.insert(filter, said);
        named.insert(GLOBAL.to_owned(), policy);
    }
    // Who writes routes for his own clients does not have a Service of others take more.
    let sized = of_service.filter(|policy| foreign && policy.spec.limits.is_some()).or(own).or(of_service);
    let sized = sized.filter(|policy| policy.spec.limits.is_some());
    named.extend(sized.map(|policy| (SIZE.to_owned(), policy)));
    // Calls of gRPC are of HTTP/2, which knows no upgrades.
    let calls = matches!(from, Some((Kind::GrpcRoute, ..)));
    let upgraded = upgrades_allowed_by(own, of_service, foreign).filter(|policy| !calls && upgrades::of_route(policy, route));
    named.extend(upgraded.map(|policy| (UPGRADES.to_owned(), policy)));
    if !named.is_empty() {
        let name = |policy: &Arc<RequestPolicy>| string_kind(NamespacedName::of(&policy.metadata).to_string());
        let fields = named.into_iter().map(|(kind, policy)| (kind, name(policy))).collect();
        let filter_metadata = [(POLICIES.to_owned(), Struct { fields })].into();
        route.metadata = Some(Metadata { filter_metadata, ..Default::default() });
    }
    if let Some(policy) = sized {
        sizes::of_route(policy, route);
    }
    let of_others = of_service.filter(|policy| foreign && policy.spec.external_processing.is_some());
    if let Some(policy) = of_others.or(own).or(of_service) {
        ext_proc::of_route(policy, route);
    }
}

/// Takes out again what [`of_route`] adds, and what policies say of retries, for clients that carry out their routes themselves.
pub fn without(mut route: Route) -> Route {
    route.typed_per_filter_config.retain(|filter, _| filter != FAULTS && limiter::provider(filter).is_none());
    ext_proc::without(&mut route);
    sizes::without(&mut route);
    writes::without(&mut route);
    upgrades::without(&mut route);
    if let Some(Does::Route(action)) = &mut route.action {
        (action.idle_timeout, action.max_stream_duration) = (None, None);
    }
    route.metadata = None;
    route
}

/// How long streams of a route may be silent and last. What is not sent on has no stream. An Envoy heeds `timeout` no more where a stream may not
/// last as long as it likes, so that the shorter of the two is the stream's.
fn times(said: &crd::StreamTimeouts, route: &mut Route) {
    let Some(Does::Route(action)) = &mut route.action else { return };
    let time = |text: &Option<String>| text.as_deref().and_then(parse_duration).filter(|time| !time.is_zero()).and_then(duration);
    action.idle_timeout = time(&said.idle);
    let own = action.timeout.filter(|own| (own.seconds, own.nanos) != (0, 0));
    let longest = time(&said.stream).map(|stream| match own {
        Some(own) if (own.seconds, own.nanos) < (stream.seconds, stream.nanos) => own,
        _ => stream,
    });
    action.max_stream_duration =
        longest.map(|longest| MaxStreamDuration { max_stream_duration: Some(longest), ..Default::default() });
}

/// The limits that a route names, which its virtual host is to say: of each the kind, and the policy.
pub fn limits(route: &Route) -> impl Iterator<Item = (&str, &str)> {
    let said = route.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get(POLICIES));
    let fields = said.into_iter().flat_map(|said| &said.fields).filter(|(kind, _)| kind.starts_with(LIMIT));
    fields.filter_map(|(kind, policy)| match &policy.kind {
        Some(value::Kind::StringValue(policy)) => Some((kind.as_str(), policy.as_str())),
        _ => None,
    })
}

/// What the virtual host says for its routes, if any of them names a limit.
pub fn of_host(index: &Index, limits: &BTreeSet<(String, String)>) -> Option<Any> {
    let mut named: BTreeMap<(&str, &str), &crd::LocalRateLimit> = BTreeMap::new();
    for (kind, policy) in limits {
        if let Some(limit) = limit_of(index, policy) {
            named.insert((kind.as_str(), policy.as_str()), limit);
        }
    }
    if named.is_empty() {
        return None;
    }
    let mut kinds: Vec<(&str, &crd::LocalRateLimit)> = named.iter().map(|((kind, _), limit)| (*kind, *limit)).collect();
    kinds.dedup_by_key(|(kind, _)| *kind);
    let unlimited = TokenBucket { max_tokens: u32::MAX, tokens_per_fill: u32_value(u32::MAX), fill_interval: seconds(1) };
    Some(any(&LocalRateLimit {
        stat_prefix: "requests".into(),
        token_bucket: Some(unlimited),
        filter_enabled: Some(always()),
        filter_enforced: Some(always()),
        rate_limits: kinds
            .into_iter()
            .map(|(kind, limit)| RateLimit { actions: actions(kind, limit), ..Default::default() })
            .collect(),
        descriptors: named.iter().flat_map(|((kind, name), limit)| descriptors(kind, name, limit)).collect(),
        // Who is under no limit takes from the bucket that is never empty, and nobody else does.
        always_consume_default_token_bucket: bool_value(false),
        rate_limited_as_resource_exhausted: true,
        enable_retry_after_header: true,
        max_dynamic_descriptors: u32_value(MOST_VALUES),
        ..Default::default()
    }))
}

/// The limit of a policy that a route names.
fn limit_of<'a>(index: &'a Index, policy: &str) -> Option<&'a crd::LocalRateLimit> {
    let (namespace, name) = policy.split_once('/')?;
    local(index.objects().request_policies.get(&NamespacedName::new(namespace, name))?)
}

fn local(policy: &RequestPolicy) -> Option<&crd::LocalRateLimit> {
    policy.spec.rate_limit.as_ref()?.local.as_ref()
}

/// Under which key a route names the policy of a limit: one for each way in which is counted.
fn kind(limit: &crd::LocalRateLimit) -> String {
    match (limit.by.unwrap_or_default(), &limit.header) {
        (LimitBy::Identity, _) => format!("{LIMIT}-by-identity"),
        (LimitBy::Header, Some(header)) => format!("{LIMIT}-by-header-{}", header.to_ascii_lowercase()),
        (LimitBy::Total | LimitBy::Header, _) => LIMIT.to_owned(),
    }
}

/// What a request is counted by: the policy that its route names, and who it is from where that is told apart. Where it is from nobody, it is
/// counted with the others of which that is so.
fn actions(kind: &str, limit: &crd::LocalRateLimit) -> Vec<Action> {
    let segment = PathSegment { segment: Some(Segment::Key(kind.to_owned())) };
    let policy = ActionSpecifier::Metadata(MetaData {
        descriptor_key: kind.to_owned(),
        metadata_key: Some(MetadataKey { key: POLICIES.into(), path: vec![segment] }),
        source: meta_data::Source::RouteEntry.into(),
        ..Default::default()
    });
    let client = match (limit.by.unwrap_or_default(), &limit.header) {
        (LimitBy::Identity, _) => {
            let text = format!("filter_state[\"{PEER_PRINCIPAL}\"]");
            let expression = Descriptor {
                descriptor_key: CLIENT.into(),
                skip_if_error: true,
                expr_specifier: Some(ExprSpecifier::Text(text)),
            };
            let name = "envoy.rate_limit_descriptors.expr".to_owned();
            Some(ActionSpecifier::Extension(TypedExtensionConfig { name, typed_config: Some(any(&expression)) }))
        }
        (LimitBy::Header, Some(header)) => Some(ActionSpecifier::RequestHeaders(RequestHeaders {
            header_name: header.to_ascii_lowercase(),
            descriptor_key: CLIENT.into(),
            skip_if_absent: true,
        })),
        (LimitBy::Total | LimitBy::Header, _) => None,
    };
    [Some(policy), client].into_iter().flatten().map(|action| Action { action_specifier: Some(action) }).collect()
}

fn descriptors(kind: &str, name: &str, limit: &crd::LocalRateLimit) -> Vec<LocalRateLimitDescriptor> {
    let token_bucket = Some(TokenBucket {
        max_tokens: limit.burst.unwrap_or(limit.requests),
        tokens_per_fill: u32_value(limit.requests),
        fill_interval: duration(limit.interval().unwrap_or(Duration::from_secs(1))),
    });
    let policy = Entry { key: kind.to_owned(), value: name.to_owned() };
    // Of each value another bucket.
    let client = Entry { key: CLIENT.into(), value: String::new() };
    let of = |entries| LocalRateLimitDescriptor { entries, token_bucket, ..Default::default() };
    match kind {
        LIMIT => vec![of(vec![policy])],
        _ => vec![of(vec![policy.clone(), client]), of(vec![policy])],
    }
}

fn fault(fault: &crd::Fault) -> HttpFault {
    let delay = fault.delay.as_ref().and_then(|delay| {
        let fixed = delay.fixed.parse::<Gep2257>().ok()?;
        let fixed = duration(Duration::new(fixed.as_secs(), fixed.subsec_nanos()))?;
        let fault_delay_secifier = Some(FaultDelaySecifier::FixedDelay(fixed));
        Some(FaultDelay { percentage: Some(share(delay.percent)), fault_delay_secifier })
    });
    let abort = fault.abort.as_ref().map(|abort| FaultAbort {
        percentage: Some(share(abort.percent)),
        error_type: Some(ErrorType::HttpStatus(u32::try_from(abort.status).unwrap_or(500))),
        ..Default::default()
    });
    HttpFault { delay, abort, headers: fault.headers.iter().map(header).collect(), ..Default::default() }
}

fn header(header: &FaultHeader) -> HeaderMatcher {
    let value = match header.r#type.unwrap_or_default() {
        FaultHeaderType::Exact => exactly(header.value.clone()),
        FaultHeaderType::RegularExpression => matches(MatchPattern::SafeRegex(regex(header.value.clone()))),
    };
    header_is(header.name.to_ascii_lowercase(), value)
}

/// Of a hundred, or of a million, as many as the percentage says; all where it says nothing.
pub fn share(percent: Option<f64>) -> FractionalPercent {
    let of_million = (percent.unwrap_or(100.0) * 10_000.0).round().clamp(0.0, 1_000_000.0);
    let numerator = of_million as u32;
    match numerator % 10_000 {
        0 => FractionalPercent { numerator: numerator / 10_000, denominator: DenominatorType::Hundred.into() },
        _ => FractionalPercent { numerator, denominator: DenominatorType::Million.into() },
    }
}

fn always() -> RuntimeFractionalPercent {
    RuntimeFractionalPercent { default_value: Some(share(None)), runtime_key: String::new() }
}

#[cfg(test)]
mod tests {
    use ambit_api::envoy::pb::envoy::config::route::v3::RouteAction;

    use super::*;

    #[test]
    fn of_the_time_of_a_stream_and_that_of_its_route_the_shorter_is_sent() {
        for (timeout, stream, expected) in
            [(0, Some("1h"), Some(3600)), (5, Some("1h"), Some(5)), (5, Some("2s"), Some(2)), (5, None, None)]
        {
            let action = RouteAction { timeout: seconds(timeout), ..Default::default() };
            let mut route = Route { action: Some(Does::Route(action)), ..Default::default() };
            let said = crd::StreamTimeouts { idle: Some("1m30s".into()), stream: stream.map(str::to_owned) };
            times(&said, &mut route);
            let sent = without(route.clone());
            let Some(Does::Route(action)) = route.action else { panic!("it sends on") };
            assert_eq!((action.timeout, action.idle_timeout), (seconds(timeout), seconds(90)));
            let longest = action.max_stream_duration.and_then(|said| said.max_stream_duration);
            assert_eq!(longest, expected.and_then(seconds), "{timeout} {stream:?}");
            let Some(Does::Route(plain)) = sent.action else { panic!("it sends on") };
            assert_eq!((plain.idle_timeout, plain.max_stream_duration), (None, None), "clients without a waypoint have none");
        }
    }
}
