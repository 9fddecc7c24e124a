//! Which tokens of requests are believed (`envoy.extensions.filters.http.jwt_authn.v3`). Keys are read here, once for a configuration.

use std::mem::take;

use ambit_api::envoy::pb::envoy::{
    config::{
        core::v3::{DataSource, data_source::Specifier},
        route::v3::{RouteMatch, route_match::PathSpecifier},
    },
    extensions::filters::http::jwt_authn::v3::{
        JwtAuthentication as Config, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement, RequirementRule,
        jwt_provider::{JwksSourceSpecifier, NormalizePayload},
        jwt_requirement::RequiresType,
        requirement_rule::RequirementType,
    },
};
use ambit_model::jwt::{ClaimHeader, JwtAuthentication, Keys, Place, Provider, Requirement};
use http::HeaderName;

use super::read::{Compiled, Problem, Under, finish, required};

/// The filter's type.
pub const FILTER: &str = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";

/// The filter.
pub fn filter(mut config: Config) -> Compiled<JwtAuthentication> {
    config.stat_prefix.clear();
    let mut named: Vec<_> = take(&mut config.providers).into_iter().collect();
    named.sort_by(|one, other| one.0.cmp(&other.0));
    let providers = named
        .into_iter()
        .map(|(name, provider)| self::provider(&name, provider).under(format!("providers[{name}]")))
        .collect::<Compiled<Vec<_>>>()?;
    let bypass_preflight = take(&mut config.bypass_cors_preflight);
    let mut rules = take(&mut config.rules);
    let requirement = match (rules.pop(), rules.is_empty()) {
        (Some(rule), true) => self::rule(rule, &providers).under("rules")?,
        _ => return Err(Problem::new("other than one rule is not implemented").under("rules")),
    };
    finish(&config)?;
    Ok(JwtAuthentication { providers, requirement, bypass_preflight })
}

fn provider(name: &str, mut config: JwtProvider) -> Compiled<Provider> {
    let keys = keys(required(config.jwks_source_specifier.take(), "a source of keys")?)?;
    let mut places = Vec::new();
    for JwtHeader { name, value_prefix } in take(&mut config.from_headers) {
        places.push(Place::Header(header(&name).under("from_headers")?, value_prefix));
    }
    places.extend(take(&mut config.from_params).into_iter().map(Place::Parameter));
    places.extend(take(&mut config.from_cookies).into_iter().map(Place::Cookie));
    if places.is_empty() {
        places = Place::usual();
    }
    let payload_header = match take(&mut config.forward_payload_header).as_str() {
        "" => None,
        name => Some(header(name).under("forward_payload_header")?),
    };
    let claim_headers = take(&mut config.claim_to_headers)
        .into_iter()
        .map(claim_header)
        .collect::<Compiled<Vec<_>>>()
        .under("claim_to_headers")?;
    let NormalizePayload { space_delimited_claims } = config.normalize_payload_in_metadata.take().unwrap_or_default();
    let provider = Provider {
        name: name.to_owned(),
        issuer: take(&mut config.issuer),
        audiences: take(&mut config.audiences),
        keys,
        places,
        forward: take(&mut config.forward),
        payload_header,
        pad_payload: take(&mut config.pad_forward_payload_header),
        claim_headers,
        metadata: Some(take(&mut config.payload_in_metadata)).filter(|name| !name.is_empty()),
        space_delimited: space_delimited_claims,
    };
    finish(&config)?;
    Ok(provider)
}

/// Keys that are given with the provider. A set without any that can be used believes nothing.
fn keys(source: JwksSourceSpecifier) -> Compiled<Keys> {
    let text = match source {
        JwksSourceSpecifier::LocalJwks(DataSource { specifier: Some(Specifier::InlineString(text)), .. }) => text,
        JwksSourceSpecifier::LocalJwks(_) => return Err(Problem::new("only inline_string is implemented").under("local_jwks")),
        JwksSourceSpecifier::RemoteJwks(_) => return Err(Problem::new("remote_jwks is not implemented")),
    };
    Keys::parse(&text).map_err(|error| Problem::new(error.to_string()).under("local_jwks"))
}

fn header(name: &str) -> Compiled<HeaderName> {
    name.parse().map_err(|_| Problem::new(format!("{name:?} is no name of a header")))
}

fn claim_header(mut told: JwtClaimToHeader) -> Compiled<ClaimHeader> {
    let (name, claim) = (take(&mut told.header_name), take(&mut told.claim_name));
    finish(&told)?;
    Ok(ClaimHeader { header: header(&name)?, claim })
}

/// What is required of all requests.
fn rule(rule: RequirementRule, providers: &[Provider]) -> Compiled<Requirement> {
    let all = RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() };
    if rule.r#match.as_ref() != Some(&all) {
        return Err(Problem::new("other than the prefix / is not implemented").under("match"));
    }
    match required(rule.requirement_type, "a requirement")? {
        RequirementType::Requires(requirement) => self::requirement(requirement, providers, &[]).under("requires"),
        RequirementType::RequirementName(_) => Err(Problem::new("requirement_name is not implemented")),
    }
}

/// A requirement; `beside` are the providers named next to it, whose tokens may be missing.
fn requirement(config: JwtRequirement, providers: &[Provider], beside: &[usize]) -> Compiled<Requirement> {
    let named = |name: &str| {
        let place = providers.iter().position(|provider| provider.name == name);
        place.ok_or_else(|| Problem::new(format!("there is no provider {name}")))
    };
    Ok(match required(config.requires_type, "a requirement")? {
        RequiresType::ProviderName(name) => Requirement::Provider(named(&name)?),
        RequiresType::RequiresAny(any) => {
            let mut of = Vec::new();
            for one in &any.requirements {
                if let Some(RequiresType::ProviderName(name)) = &one.requires_type {
                    of.push(named(name)?);
                }
            }
            // Envoy asks last whether there need be none.
            let (missing, others): (Vec<_>, Vec<_>) =
                any.requirements.into_iter().partition(|one| matches!(one.requires_type, Some(RequiresType::AllowMissing(_))));
            let ordered = others.into_iter().chain(missing);
            let several = ordered.map(|one| requirement(one, providers, &of)).collect::<Compiled<Vec<_>>>();
            Requirement::Any(several.under("requires_any")?)
        }
        RequiresType::RequiresAll(all) => {
            let several = all.requirements.into_iter().map(|one| requirement(one, providers, &[])).collect::<Compiled<Vec<_>>>();
            Requirement::All(several.under("requires_all")?)
        }
        RequiresType::AllowMissing(_) => Requirement::AllowMissing(beside.to_vec()),
        RequiresType::ProviderAndAudiences(_) => return Err(Problem::new("provider_and_audiences is not implemented")),
        RequiresType::AllowMissingOrFailed(_) => return Err(Problem::new("allow_missing_or_failed is not implemented")),
        RequiresType::ExtractOnlyWithoutValidation(_) => {
            return Err(Problem::new("extract_only_without_validation is not implemented"));
        }
    })
}

#[cfg(test)]
mod tests;
