//! How often requests may come (`envoy.extensions.filters.http.local_ratelimit.v3`).

use std::{
    mem::take,
    sync::Arc,
    time::{Duration, Instant},
};

use ambit_api::envoy::pb::{
    envoy::{
        config::{
            core::v3::{RuntimeFractionalPercent, TypedExtensionConfig},
            route::v3::{
                RateLimit,
                rate_limit::{
                    Action,
                    action::{ActionSpecifier, MetaData, meta_data},
                },
            },
        },
        extensions::{
            common::ratelimit::v3::{LocalRateLimitDescriptor, XRateLimitHeadersRfcVersion},
            filters::http::local_ratelimit::v3::LocalRateLimit,
            rate_limit_descriptors::expr::v3::{Descriptor as Expression, descriptor::ExprSpecifier},
        },
        r#type::{metadata::v3::metadata_key::path_segment::Segment, v3::TokenBucket},
    },
    google::protobuf::Any,
};
use ambit_model::route::{Descriptor, Filling, LimitSettings, LocalLimit, Part, Share, Source};

use super::{
    mirror,
    read::{Compiled, Problem, Under, boolean, duration, finish, number, required, unpack},
    text,
};

/// The name that the filter, and what a route says for it, must have.
pub const NAME: &str = "envoy.filters.http.local_ratelimit";
/// The filter's type, and that of what a route says for it.
pub const FILTER: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
const EXPRESSION: &str = "envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor";
/// The one expression that is understood: the client's SPIFFE id.
const PEER: &str = "filter_state[\"io.istio.peer_principal\"]";
/// Envoy's bounds of the times in which buckets fill, and of values with a bucket of their own.
const SHORTEST: Duration = Duration::from_millis(50);
const MOST_VALUES: u32 = 20;
const STATUS: u16 = 429;

/// What a route or a virtual host says.
pub fn of_routes(any: &Any) -> Compiled<Arc<LocalLimit>> {
    let settings = required(settings(any)?, "token_bucket")?;
    Ok(Arc::new(LocalLimit::new(settings, Instant::now())))
}

/// What the filter says; without a bucket nothing.
pub fn of_filter(any: &Any) -> Compiled<Option<Arc<LocalLimit>>> {
    Ok(settings(any)?.map(|settings| Arc::new(LocalLimit::new(settings, Instant::now()))))
}

fn settings(any: &Any) -> Compiled<Option<LimitSettings>> {
    let mut config: LocalRateLimit = unpack(any, FILTER)?;
    config.stat_prefix.clear();
    let Some(bucket) = config.token_bucket.take() else {
        finish(&config)?;
        return Ok(None);
    };
    let filling = filling(bucket).under("token_bucket")?;
    let enabled = share(config.filter_enabled.take()).under("filter_enabled")?;
    let enforced = share(config.filter_enforced.take()).under("filter_enforced")?;
    let parts = take(&mut config.rate_limits).into_iter().map(parts).collect::<Compiled<Vec<_>>>().under("rate_limits")?;
    let descriptors = take(&mut config.descriptors).into_iter().map(|one| descriptor(one, filling)).collect::<Compiled<Vec<_>>>();
    let descriptors = descriptors.under("descriptors")?;
    if !descriptors.is_empty() && parts.is_empty() {
        return Err(Problem::new("descriptors without rate_limits are not implemented"));
    }
    for (index, one) in descriptors.iter().enumerate() {
        if descriptors.iter().skip(index + 1).any(|other| other.entries == one.entries) {
            return Err(Problem::new(format!("{:?} is there twice", one.entries)).under("descriptors"));
        }
    }
    let refused = text::mutations(take(&mut config.response_headers_to_add), Vec::new()).under("response_headers_to_add")?;
    let passed = text::mutations(take(&mut config.request_headers_to_add_when_not_enforced), Vec::new())
        .under("request_headers_to_add_when_not_enforced")?;
    let tells = match XRateLimitHeadersRfcVersion::try_from(take(&mut config.enable_x_ratelimit_headers)) {
        Ok(version) => version == XRateLimitHeadersRfcVersion::DraftVersion03,
        Err(_) => return Err(Problem::new("enable_x_ratelimit_headers is not implemented")),
    };
    let status = config.status.take().and_then(|status| u16::try_from(status.code).ok());
    let settings = LimitSettings {
        enabled,
        enforced,
        filling,
        always: boolean(config.always_consume_default_token_bucket.take(), true),
        parts,
        descriptors,
        most_values: number(config.max_dynamic_descriptors.take()).unwrap_or(MOST_VALUES) as usize,
        // As Envoy, which answers nothing that would not be an error.
        status: status.filter(|status| (400..600).contains(status)).unwrap_or(STATUS),
        exhausted: take(&mut config.rate_limited_as_resource_exhausted),
        tells,
        tells_when: take(&mut config.enable_retry_after_header),
        refused,
        passed,
    };
    finish(&config)?;
    Ok(Some(settings))
}

fn filling(mut bucket: TokenBucket) -> Compiled<Filling> {
    let most = take(&mut bucket.max_tokens);
    let tokens = number(bucket.tokens_per_fill.take()).unwrap_or(1);
    let every = required(bucket.fill_interval.take(), "fill_interval").and_then(duration).under("fill_interval")?;
    if every < SHORTEST || tokens == 0 {
        return Err(Problem::new("it must be given tokens, and not more often than every 50 ms"));
    }
    finish(&bucket)?;
    Ok(Filling { most, tokens, every })
}

fn share(share: Option<RuntimeFractionalPercent>) -> Compiled<Share> {
    let Some(mut share) = share else { return Ok(Share::NONE) };
    // There is no runtime that could say something else under this name.
    share.runtime_key.clear();
    let (taken, of) = required(share.default_value.take(), "default_value").and_then(mirror::share)?;
    finish(&share)?;
    Ok(Share { taken, of })
}

fn descriptor(mut config: LocalRateLimitDescriptor, default: Filling) -> Compiled<Descriptor> {
    let entries = take(&mut config.entries).into_iter().map(|entry| (entry.key, entry.value)).collect();
    let filling = required(config.token_bucket.take(), "token_bucket").and_then(filling)?;
    if filling.every.as_millis() % default.every.as_millis().max(1) != 0 {
        return Err(Problem::new("its fill_interval is no multiple of that of the filter's bucket, which Envoy asks for"));
    }
    finish(&config)?;
    Ok(Descriptor { entries, filling })
}

/// What requests are counted by.
pub fn parts(mut config: RateLimit) -> Compiled<Vec<Part>> {
    let parts = take(&mut config.actions).into_iter().map(part).collect::<Compiled<Vec<_>>>().under("actions")?;
    finish(&config)?;
    Ok(parts)
}

fn part(action: Action) -> Compiled<Part> {
    match required(action.action_specifier, "an action")? {
        ActionSpecifier::GenericKey(mut text) => {
            let key = Some(take(&mut text.descriptor_key)).filter(|key| !key.is_empty());
            let source = Source::Text(take(&mut text.descriptor_value));
            finish(&text).under("generic_key")?;
            Ok(Part { key: key.unwrap_or_else(|| "generic_key".to_owned()), source, may_miss: false })
        }
        ActionSpecifier::RequestHeaders(header) => {
            let source = Source::Header(header.header_name.to_ascii_lowercase());
            Ok(Part { key: header.descriptor_key, source, may_miss: header.skip_if_absent })
        }
        ActionSpecifier::RemoteAddress(_) => {
            Ok(Part { key: "remote_address".to_owned(), source: Source::Remote, may_miss: false })
        }
        ActionSpecifier::Metadata(metadata) => of_route(metadata).under("metadata"),
        ActionSpecifier::Extension(extension) => peer(extension).under("extension"),
        _ => Err(Problem::new(
            "an action other than generic_key, request_headers, remote_address, metadata and extension is not implemented",
        )),
    }
}

/// What a route says of itself.
fn of_route(mut config: MetaData) -> Compiled<Part> {
    if meta_data::Source::try_from(take(&mut config.source)).ok() != Some(meta_data::Source::RouteEntry) {
        return Err(Problem::new("source other than ROUTE_ENTRY is not implemented"));
    }
    let key = required(config.metadata_key.take(), "metadata_key")?;
    let segment = |segment: Option<Segment>| match required(segment, "key")? {
        Segment::Key(key) => Ok(key),
        Segment::Index(_) => Err(Problem::new("index is not implemented")),
    };
    let path = key.path.into_iter().map(|part| segment(part.segment)).collect::<Compiled<Vec<_>>>().under("path")?;
    let part = Part {
        key: take(&mut config.descriptor_key),
        source: Source::Route(key.key, path),
        may_miss: take(&mut config.skip_if_absent),
    };
    finish(&config)?;
    Ok(part)
}

/// The client, the one thing that an expression may ask for.
fn peer(extension: TypedExtensionConfig) -> Compiled<Part> {
    let expression: Expression = unpack(&required(extension.typed_config, "typed_config")?, EXPRESSION)?;
    match expression.expr_specifier {
        Some(ExprSpecifier::Text(text)) if text == PEER => {
            Ok(Part { key: expression.descriptor_key, source: Source::Peer, may_miss: expression.skip_if_error })
        }
        _ => Err(Problem::new(format!("an expression other than {PEER} is not implemented"))),
    }
}
