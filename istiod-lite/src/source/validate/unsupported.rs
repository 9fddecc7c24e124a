//! What is said of kinds that are read and not carried out: what happens in their place, and what to write instead. Validation and status say
//! the same.

use std::time::Duration;

use ambit_model::jwt::Keys;

use crate::jwks::{Address, KeySource, usable};
use crate::source::crd::telemetry::Telemetry;
use crate::source::crd::tokens::{JwtRule, RequestAuthentication};
use crate::source::typed::FieldError;

/// Why a RequestAuthentication without targets has no effect.
const TOKENS_UNSEEN: &str = "it has no effect: node proxies see connections, not requests, and what has no targetRefs is for no waypoint; give targetRefs to Services with a waypoint, or to the waypoint's Gateway";
/// What becomes of the tokens of an issuer without keys.
pub(crate) const NOT_BELIEVED: &str = "no token of this issuer is believed, and requests that bring one are refused";
/// What becomes of requests where a BackendTLSPolicy holds.
pub(crate) const TLS_REFUSED: &str = "a waypoint begins no TLS to backends, and answers requests with 500";
/// What to do in place of a BackendTLSPolicy.
pub(crate) const TLS_INSTEAD: &str = "have clients speak TLS themselves, which passes as it is, or leave it to the mesh, in which pods are reached by mutual TLS; a sectionName leaves other ports alone";

/// Why a RequestAuthentication is not what its author thinks it is.
pub(crate) fn unverified(policy: &RequestAuthentication) -> Vec<FieldError> {
    if policy.spec.targets().next().is_none() {
        return vec![FieldError::new("spec", TOKENS_UNSEEN)];
    }
    let rules = policy.spec.jwt_rules.iter().enumerate();
    rules
        .filter_map(|(index, rule)| {
            let (field, why) = keys_of(rule).err()?;
            Some(FieldError::new(format!("spec.jwtRules[{index}].{field}"), format!("{why}: {NOT_BELIEVED}")))
        })
        .collect()
}

/// The keys of a rule.
#[derive(Debug)]
pub(crate) enum RuleKeys {
    /// It has them itself.
    Given(Keys),
    /// They are fetched.
    From(KeySource),
}

/// The keys of an issuer, or the field for which there are none and why.
pub(crate) fn keys_of(rule: &JwtRule) -> Result<RuleKeys, (&'static str, String)> {
    if rule.issuer.is_empty() {
        return Err(("issuer", "whose tokens these are is not said".into()));
    }
    let Some(source) = rule.key_source() else {
        return usable(&rule.jwks).map(RuleKeys::Given).map_err(|why| ("jwks", why));
    };
    let Err(why) = Address::parse(&source.address()) else { return Ok(RuleKeys::From(source)) };
    Err(match source {
        KeySource::Set(_) => ("jwksUri", why),
        KeySource::Issuer(issuer) => {
            let why = format!("without it, and without jwksUri, the issuer is asked for its keys, and {issuer:?} is no address");
            ("jwks", why)
        }
    })
}

/// The field by which it is said where the keys of a rule are fetched from.
pub(crate) fn source_field(source: &KeySource) -> &'static str {
    match source {
        KeySource::Set(_) => "jwksUri",
        KeySource::Issuer(_) => "issuer",
    }
}

/// From where keys are fetched for a RequestAuthentication, and how long that may take. For one that has no effect there are none.
pub(crate) fn key_sources(policy: &RequestAuthentication) -> Vec<(KeySource, Duration)> {
    if policy.spec.targets().next().is_none() {
        return Vec::new();
    }
    let fetched = policy.spec.jwt_rules.iter().filter(|rule| rule.jwks.is_empty());
    fetched
        .filter_map(|rule| match keys_of(rule) {
            Ok(RuleKeys::From(source)) => Some((source, rule.patience())),
            _ => None,
        })
        .collect()
}

/// The keys of a RequestAuthentication that are left out beside others that are used.
pub(super) fn unused_keys(policy: &RequestAuthentication) -> Vec<FieldError> {
    let rules = policy.spec.jwt_rules.iter().enumerate();
    let keys = rules.filter_map(|(index, rule)| match keys_of(rule) {
        Ok(RuleKeys::Given(keys)) => Some((index, keys)),
        _ => None,
    });
    keys.flat_map(|(index, keys)| {
        let path = format!("spec.jwtRules[{index}].jwks");
        let unused = keys.unusable().iter();
        unused.map(|(place, why)| FieldError::new(path.clone(), format!("keys[{place}] is not used: {why}"))).collect::<Vec<_>>()
    })
    .collect()
}

/// The parts of a Telemetry that no proxy heeds, each with what to use instead; what of them waypoints heed, if it cannot be carried out.
pub(crate) fn heedless(telemetry: &Telemetry) -> Vec<FieldError> {
    let spec = &telemetry.spec;
    let mut found = Vec::new();
    let unmeasured = spec.measured().1.into_iter();
    found.extend(unmeasured.map(|(path, why)| FieldError::new(path, format!("of metrics this is not carried out: {why}"))));
    if let Err((path, why)) = spec.spans() {
        found.push(FieldError::new(path, format!("no spans are sent by this Telemetry: {why}")));
    }
    if spec.metrics.is_empty() && found.is_empty() && spec.tracing.is_empty() && spec.access_logging.is_empty() {
        found.push(FieldError::new("spec", "it asks for nothing: take it out"));
    }
    if spec.selector.is_some() && !spec.access_logging.is_empty() {
        found.push(FieldError::new(
            "spec.selector",
            "access logs of node proxies are alike for all pods; give targetRefs to Services with a waypoint, or to a Gateway",
        ));
    }
    for (at, entry) in spec.access_logging.iter().enumerate() {
        if let Err(why) = entry.only() {
            found.push(FieldError::new(format!("spec.accessLogging[{at}].filter.expression"), why));
        }
    }
    found
}
