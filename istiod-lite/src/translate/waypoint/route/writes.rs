//! Routes that send again also what may not arrive twice, as a RequestPolicy says (`retries.writes`). Their retry policy is that of all other
//! requests, so that an Envoy knows all of it; the policy's name is a word in metadata of ours, for those who ask why.

use ambit_api::envoy::pb::envoy::config::route::v3::{Route, route::Action};

use super::super::scope::ServedPort;
use super::super::wire::string_kind;
use super::requests::POLICIES;
use super::retry::UNSEEN;
use crate::index::{Index, ServiceRef, writes_allowed_by};
use crate::source::{Kind, NamespacedName};

/// What the policy is named for.
const RETRIES: &str = "retries";

/// The policy by which writes of a route are sent again after an endpoint may have seen them. `from` is the kind, name and rule of a route that
/// policies can be for.
pub fn allowed_by(
    index: &Index,
    port: &ServedPort<'_>,
    from: Option<(Kind, &NamespacedName, Option<&str>)>,
) -> Option<NamespacedName> {
    let service = match &port.service {
        ServiceRef::Kubernetes(service) => Some(service),
        ServiceRef::Host(_) => None,
    };
    let own = from.and_then(|(kind, name, rule)| index.request_policy_of_rule(kind, name, rule));
    let of_service = service.and_then(|service| index.request_policy(Kind::Service, service, None));
    let foreign = from.zip(service).is_some_and(|((_, name, _), service)| name.namespace != service.namespace);
    writes_allowed_by(own, of_service, foreign)
}

/// Has a route name the policy.
pub fn say(route: &mut Route, policy: &NamespacedName) {
    let said = route.metadata.get_or_insert_default().filter_metadata.entry(POLICIES.to_owned()).or_default();
    said.fields.insert(RETRIES.to_owned(), string_kind(policy.to_string()));
}

/// Takes it out again, for clients that carry out their routes themselves: what is left is sent again while no endpoint has seen it. What names the
/// policy stays.
pub fn without(route: &mut Route) {
    let said = route.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get(POLICIES));
    let named = said.is_some_and(|said| said.fields.contains_key(RETRIES));
    if let Some(Action::Route(action)) = &mut route.action
        && let Some(policy) = action.retry_policy.as_mut().filter(|_| named)
    {
        UNSEEN.clone_into(&mut policy.retry_on);
        policy.retriable_status_codes.clear();
    }
}
