//! What is said of kinds that are read and not carried out: what happens in their place, and what to write instead. Validation and status say
//! the same.

use crate::source::crd::telemetry::Telemetry;
use crate::source::crd::tokens::RequestAuthentication;
use crate::source::typed::FieldError;

/// What becomes of requests where a RequestAuthentication holds.
pub(crate) const TOKENS_REFUSED: &str =
    "tokens are not verified: a waypoint refuses requests that bring one, and rules on their claims never allow";
/// Why a RequestAuthentication without targets has no effect.
pub(crate) const TOKENS_UNSEEN: &str =
    "it has no effect: node proxies see connections, not requests, and what has no targetRefs is for no waypoint";
/// What to do in place of a RequestAuthentication.
pub(crate) const TOKENS_INSTEAD: &str = "take it out, have tokens verified by the services, or by the gateway through which they come, and name callers of the mesh by principals in an AuthorizationPolicy";
/// What becomes of requests where a BackendTLSPolicy holds.
pub(crate) const TLS_REFUSED: &str = "a waypoint begins no TLS to backends, and answers requests with 500";
/// What to do in place of a BackendTLSPolicy.
pub(crate) const TLS_INSTEAD: &str = "have clients speak TLS themselves, which passes as it is, or leave it to the mesh, in which pods are reached by mutual TLS; a sectionName leaves other ports alone";

/// Why a RequestAuthentication is not what its author thinks it is.
pub(crate) fn unverified(policy: &RequestAuthentication) -> FieldError {
    match policy.spec.targets().next() {
        Some(_) => FieldError::new("spec.jwtRules", format!("{TOKENS_REFUSED}; {TOKENS_INSTEAD}")),
        None => FieldError::new("spec", format!("{TOKENS_UNSEEN}; {TOKENS_INSTEAD}")),
    }
}

/// The parts of a Telemetry, which no proxy heeds, each with what to use instead.
pub(crate) fn heedless(telemetry: &Telemetry) -> Vec<FieldError> {
    let spec = &telemetry.spec;
    let parts = [
        (
            spec.tracing.len(),
            "spec.tracing",
            "node proxies send spans where the settings ztunnel.otlpEndpoint and ztunnel.traceSample say so",
        ),
        (
            spec.metrics.len(),
            "spec.metrics",
            "all proxies count all traffic, with labels that are fixed; drop series where they are scraped",
        ),
        (
            spec.access_logging.len(),
            "spec.accessLogging",
            "all that is refused or breaks is logged, and of the rest the share that the setting ztunnel.accessLogSample says",
        ),
    ];
    let mut found: Vec<FieldError> = parts
        .into_iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(_, path, instead)| FieldError::new(path, format!("it has no effect, as no proxy heeds a Telemetry; {instead}")))
        .collect();
    if found.is_empty() {
        found.push(FieldError::new("spec", "it asks for nothing, and no proxy heeds a Telemetry: take it out"));
    }
    found
}
