//! Limits that a server counts, as RequestPolicies have it asked. For each server that the routes of a port name there is a filter, and each
//! route says for it what of its requests counts. Where nobody can be asked a limit does not hold, which its status says: a limit authorizes
//! nobody. It refuses where its provider is known and lets nothing pass without an answer.

use std::collections::BTreeSet;

use ambit_api::envoy::pb::envoy::config::core::v3::{ApiVersion, TypedExtensionConfig};
use ambit_api::envoy::pb::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use ambit_api::envoy::pb::envoy::config::route::v3::rate_limit::Action;
use ambit_api::envoy::pb::envoy::config::route::v3::rate_limit::action::{
    ActionSpecifier, GenericKey, RemoteAddress, RequestHeaders,
};
use ambit_api::envoy::pb::envoy::config::route::v3::{RateLimit as Descriptor, Route, VirtualHost};
use ambit_api::envoy::pb::envoy::extensions::filters::http::ratelimit::v3::{RateLimit, RateLimitPerRoute};
use ambit_api::envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use ambit_api::envoy::pb::envoy::extensions::rate_limit_descriptors::expr::v3::{
    Descriptor as Expression, descriptor::ExprSpecifier,
};
use ambit_api::envoy::pb::envoy::r#type::v3::HttpStatus;

use super::listener::http_filter;
use super::names::{INVALID_BACKEND, PEER_PRINCIPAL};
use super::reached::Reached;
use super::wire::{Any, any, duration, grpc_service};
use crate::index::{Index, Limited};
use crate::source::NamespacedName;
use crate::source::crd::mesh;
use crate::source::crd::requests::{GlobalRateLimit, LimitEntry, LimitSource};

/// What the names of the filters begin with; the provider's name is behind it.
const FILTER: &str = "envoy.filters.http.ratelimit.";
/// The domain of a filter, which every route says anew.
const DOMAIN: &str = "ambit";

/// A server that is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Limiter {
    /// The extension provider.
    provider: String,
    /// How it is asked.
    filter: RateLimit,
    /// How it is reached, if it is.
    pub reached: Option<Reached>,
}

/// The provider whose filter this is the name of, if it is one.
pub fn provider(filter: &str) -> Option<&str> {
    filter.strip_prefix(FILTER)
}

/// What a route says for the server of a limit of `policy`, with the filter's name; nothing where that does not hold.
pub fn of_route(index: &Index, limit: &GlobalRateLimit, policy: &NamespacedName) -> Option<(String, Any)> {
    server(index, &limit.provider)?;
    let descriptor = |entries: &[LimitEntry]| {
        let action = |entry| Action { action_specifier: Some(action(entry, policy)) };
        Descriptor { actions: entries.iter().map(action).collect(), ..Default::default() }
    };
    let said = RateLimitPerRoute {
        rate_limits: limit.descriptors.iter().map(|of| descriptor(&of.entries)).collect(),
        domain: limit.domain.clone(),
        ..Default::default()
    };
    Some((format!("{FILTER}{}", limit.provider), any(&said)))
}

fn action(entry: &LimitEntry, policy: &NamespacedName) -> ActionSpecifier {
    let may_miss = entry.optional.unwrap_or_default();
    let text = |descriptor_value: String| {
        ActionSpecifier::GenericKey(GenericKey { descriptor_value, descriptor_key: entry.key(), ..Default::default() })
    };
    match entry.from {
        LimitSource::Value => text(entry.value.clone().unwrap_or_default()),
        LimitSource::Policy => text(policy.to_string()),
        LimitSource::RemoteAddress => ActionSpecifier::RemoteAddress(RemoteAddress {}),
        LimitSource::Header => ActionSpecifier::RequestHeaders(RequestHeaders {
            header_name: entry.header.as_deref().unwrap_or_default().to_ascii_lowercase(),
            descriptor_key: entry.key(),
            skip_if_absent: may_miss,
        }),
        LimitSource::Identity => {
            let expression = Expression {
                descriptor_key: entry.key(),
                skip_if_error: may_miss,
                expr_specifier: Some(ExprSpecifier::Text(format!("filter_state[\"{PEER_PRINCIPAL}\"]"))),
            };
            let name = "envoy.rate_limit_descriptors.expr".to_owned();
            ActionSpecifier::Extension(TypedExtensionConfig { name, typed_config: Some(any(&expression)) })
        }
    }
}

/// The providers that a route names.
pub fn providers(route: &Route) -> impl Iterator<Item = &str> {
    route.typed_per_filter_config.keys().filter_map(|name| provider(name))
}

/// The servers of these providers, in the order of their names.
pub fn servers(index: &Index, providers: &BTreeSet<String>) -> Vec<Limiter> {
    providers.iter().filter_map(|provider| server(index, provider)).collect()
}

/// The servers that routes name, in the order of the providers' names.
pub fn named<'h>(index: &Index, hosts: impl IntoIterator<Item = &'h VirtualHost>) -> Vec<Limiter> {
    let routes = hosts.into_iter().flat_map(|host| &host.routes);
    servers(index, &routes.flat_map(providers).map(str::to_owned).collect())
}

/// The server of a provider. One that cannot be asked is there all the same where no request passes without its answer.
fn server(index: &Index, provider: &str) -> Option<Limiter> {
    let provider_name = provider.to_owned();
    match index.limiter(provider) {
        Ok(Limited { limiter, service, port }) => {
            let reached = Reached::by_grpc(index, &service, port.port, |name| format!("rate-limit|{}|grpc|{name}", port.port));
            let filter = asked(limiter, &reached.cluster, &service.hostname(index.config()));
            Some(Limiter { provider: provider_name, filter, reached: Some(reached) })
        }
        Err(_) => {
            let limiter = index.known_limiter(provider).filter(|limiter| !limiter.fail_open)?;
            let host = limiter.service.rsplit('/').next().unwrap_or_default();
            Some(Limiter { provider: provider_name, filter: asked(limiter, INVALID_BACKEND, host), reached: None })
        }
    }
}

fn asked(limiter: &mesh::Limiter, cluster: &str, host: &str) -> RateLimit {
    RateLimit {
        domain: DOMAIN.into(),
        timeout: duration(limiter.timeout),
        failure_mode_deny: !limiter.fail_open,
        rate_limited_as_resource_exhausted: true,
        rate_limit_service: Some(RateLimitServiceConfig {
            grpc_service: Some(grpc_service(cluster, host)),
            transport_api_version: ApiVersion::V3.into(),
        }),
        status_on_error: limiter.status_on_error.map(|code| HttpStatus { code: code.into() }),
        enable_retry_after_header: true,
        ..Default::default()
    }
}

/// The filter of a server.
pub fn filter(limiter: &Limiter) -> HttpFilter {
    http_filter(&format!("{FILTER}{}", limiter.provider), any(&limiter.filter))
}
