//! What pages of other origins may do (`envoy.extensions.filters.http.cors.v3`).

use std::{collections::HashMap, mem::take};

use ambit_api::envoy::pb::{
    envoy::extensions::filters::http::cors::v3::{self as pb, CorsPolicy},
    google::protobuf::Any,
};
use ambit_model::route::Cors;

use super::{
    read::{Compiled, Problem, Under, boolean, finish, unpack},
    text,
};

/// The name that the filter, and what a route says for it, must have.
const NAME: &str = "envoy.filters.http.cors";
/// The filter's type.
pub const FILTER: &str = "envoy.extensions.filters.http.cors.v3.Cors";
const POLICY: &str = "envoy.extensions.filters.http.cors.v3.CorsPolicy";

/// The filter, which says nothing itself.
pub fn filter(name: &str, any: &Any) -> Compiled<()> {
    if name != NAME {
        return Err(Problem::new(format!("a CORS filter that is not called {NAME} is not implemented")));
    }
    finish(&unpack::<pb::Cors>(any, FILTER)?)
}

/// What a route says for this filter among others.
pub fn per_filter(said: &mut HashMap<String, Any>) -> Compiled<Option<Cors>> {
    said.remove(NAME).map(|any| policy(unpack(&any, POLICY)?)).transpose().under(NAME)
}

fn policy(mut policy: CorsPolicy) -> Compiled<Cors> {
    let origins = take(&mut policy.allow_origin_string_match)
        .into_iter()
        .map(text::string)
        .collect::<Compiled<_>>()
        .under("allow_origin_string_match")?;
    let cors = Cors {
        origins,
        methods: take(&mut policy.allow_methods),
        headers: take(&mut policy.allow_headers),
        exposed: take(&mut policy.expose_headers),
        max_age: take(&mut policy.max_age),
        credentials: boolean(policy.allow_credentials.take(), false),
        private_network: boolean(policy.allow_private_network_access.take(), false),
        forward_unknown: boolean(policy.forward_not_matching_preflights.take(), true),
    };
    finish(&policy)?;
    Ok(cors)
}
