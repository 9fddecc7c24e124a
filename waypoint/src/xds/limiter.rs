//! Rate limit servers that are asked about requests (`envoy.extensions.filters.http.ratelimit.v3`).

use std::{mem::take, sync::Arc, time::Duration};

use ambit_api::envoy::pb::{
    envoy::{
        config::core::v3::ApiVersion,
        extensions::filters::http::ratelimit::v3::{RateLimit, RateLimitPerRoute},
    },
    google::protobuf::Any,
};
use ambit_model::route::GlobalLimit;
use http::StatusCode;

use super::{
    grpc::{self, Called},
    limit,
    read::{Compiled, Problem, Under, duration, finish, required, unpack},
    text,
};
use crate::compiled::Limiter;

/// What the filter's name begins with; of several each has something of its own behind a dot.
const NAME: &str = "envoy.filters.http.ratelimit";
/// The filter's type.
pub const FILTER: &str = "envoy.extensions.filters.http.ratelimit.v3.RateLimit";
/// The type of what a route says for it.
const OF_ROUTES: &str = "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute";
/// Envoy's default.
const TIMEOUT: Duration = Duration::from_millis(20);

/// Whether a filter may be called so, and what routes say under this name is for it.
pub fn is_name(name: &str) -> bool {
    name.strip_prefix(NAME).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The filter of this name.
fn filter(name: &str, mut config: RateLimit) -> Compiled<Limiter> {
    config.stat_prefix.clear();
    // Which is all requests, as when nothing is said.
    if config.request_type == "both" {
        config.request_type.clear();
    }
    let mut service = required(config.rate_limit_service.take(), "rate_limit_service")?;
    if take(&mut service.transport_api_version) != ApiVersion::V3 as i32 {
        return Err(Problem::new("a transport_api_version other than V3 is not implemented").under("rate_limit_service"));
    }
    let called = required(service.grpc_service.take(), "grpc_service").and_then(grpc::called);
    let Called { cluster, authority, timeout } = called.under("rate_limit_service.grpc_service")?;
    finish(&service).under("rate_limit_service")?;
    // Envoy goes by that of the filter.
    if timeout.is_some() {
        return Err(Problem::new("timeout is not implemented").under("rate_limit_service.grpc_service"));
    }
    let timeout = config.timeout.take().map_or(Ok(TIMEOUT), duration).under("timeout")?;
    if timeout.is_zero() {
        return Err(Problem::new("to wait for ever is not implemented").under("timeout"));
    }
    let domain = take(&mut config.domain);
    if domain.is_empty() {
        return Err(Problem::new("it must not be empty").under("domain"));
    }
    let status = config.rate_limited_status.take().map(grpc::status).transpose().under("rate_limited_status")?;
    let status_on_error = config.status_on_error.take().map(grpc::status).transpose().under("status_on_error")?;
    let refused = text::mutations(take(&mut config.response_headers_to_add), Vec::new()).under("response_headers_to_add")?;
    let read = Limiter {
        name: name.into(),
        cluster,
        authority,
        domain,
        timeout,
        failure_mode_deny: take(&mut config.failure_mode_deny),
        status_on_error: status_on_error.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        // As Envoy, which answers nothing that would not be an error.
        status: status.filter(|status| status.as_u16() >= 400).unwrap_or(StatusCode::TOO_MANY_REQUESTS),
        exhausted: take(&mut config.rate_limited_as_resource_exhausted),
        tells: !take(&mut config.disable_x_envoy_ratelimited_header),
        tells_when: take(&mut config.enable_retry_after_header),
        refused,
    };
    finish(&config)?;
    Ok(read)
}

/// Adds the filter of this name to those that are there.
pub fn add(name: &str, any: &Any, to: &mut Vec<Arc<Limiter>>) -> Compiled<()> {
    if !is_name(name) {
        return Err(Problem::new(format!("this filter under a name that does not begin with {NAME} is not implemented")));
    }
    if to.iter().any(|limiter| *limiter.name == *name) {
        return Err(Problem::new("this filter twice under one name is not implemented"));
    }
    to.push(Arc::new(filter(name, unpack(any, FILTER)?)?));
    Ok(())
}

/// What a route or a virtual host says.
pub fn of_routes(any: &Any) -> Compiled<Arc<GlobalLimit>> {
    let mut config: RateLimitPerRoute = unpack(any, OF_ROUTES)?;
    let domain = Some(take(&mut config.domain)).filter(|domain| !domain.is_empty());
    let descriptors = take(&mut config.rate_limits).into_iter().map(limit::parts).collect::<Compiled<Vec<_>>>();
    let descriptors = descriptors.under("rate_limits")?;
    finish(&config)?;
    Ok(Arc::new(GlobalLimit { domain, descriptors }))
}

#[cfg(test)]
mod tests;
