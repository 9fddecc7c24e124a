//! What is asked: `to.operation`, and the `when` conditions that speak of the request.

use ambit_api::envoy::pb::envoy::config::rbac::v3::{Permission, permission::Rule};
use ambit_api::envoy::pb::envoy::config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::{PathMatcher, path_matcher};

use super::super::names::Layer;
use super::super::wire::{header_is, matches, regex};
use super::principal::{address_in, escape, network, range};
use super::term::{Combine, Term, all_of, field, pattern};
use super::{Condition, Context, claim};
use crate::source::crd::{Operation, When};

pub fn boxed(rule: Rule) -> Permission {
    Permission { rule: Some(rule) }
}

impl Context<'_> {
    /// All that one `operation` asks.
    pub(super) fn operation(&self, operation: &Operation) -> Term<Rule> {
        let effect = self.effect;
        all_of([
            self.of_request(&operation.hosts, &operation.not_hosts, |value| Some(host(value))),
            self.of_request(&operation.methods, &operation.not_methods, |value| Some(header(":method", value))),
            self.of_request(&operation.paths, &operation.not_paths, path),
            field(effect, &operation.ports, &operation.not_ports, |value| self.port_is(value)),
        ])
    }

    /// One `when` condition.
    pub(super) fn condition(&self, when: &When) -> Condition {
        let (effect, values, not_values) = (self.effect, &when.values, &when.not_values);
        if let Some(name) = when.key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']')) {
            let name = name.to_ascii_lowercase();
            // A pseudo-header is not a header here: paths and methods have fields of their own.
            let valid = !name.is_empty() && !name.starts_with(':');
            return Condition::Permission(self.of_request(values, not_values, |value| valid.then(|| header(&name, value))));
        }
        if let Some(keys) = when.key.strip_prefix("request.auth.claims") {
            let path = claim::path(keys);
            let is = |value: &str| path.as_deref().and_then(|path| claim::is(path, value));
            return Condition::Principal(self.of_request(values, not_values, is));
        }
        match when.key.as_str() {
            "request.auth.principal" => Condition::Principal(self.of_request(values, not_values, claim::principal)),
            "request.auth.audiences" => {
                Condition::Principal(self.of_request(values, not_values, |value| claim::is(&["aud"], value)))
            }
            "request.auth.presenter" => {
                Condition::Principal(self.of_request(values, not_values, |value| claim::is(&["azp"], value)))
            }
            "source.ip" | "remote.ip" => Condition::Principal(field(effect, values, not_values, address_in)),
            "source.namespace" => Condition::Principal(field(effect, values, not_values, |value| self.namespace_is(value))),
            "source.principal" => Condition::Principal(field(effect, values, not_values, |value| self.principal(value))),
            "source.serviceAccount" => Condition::Principal(field(effect, values, not_values, |value| self.account_is(value))),
            "destination.port" => Condition::Permission(field(effect, values, not_values, |value| self.port_is(value))),
            "destination.ip" => Condition::Permission(field(effect, values, not_values, |value| self.destination_is(value))),
            _ => Condition::Permission(effect.unknown()),
        }
    }

    /// A field of HTTP requests; unknown on a connection.
    pub(super) fn of_request<T: Combine>(
        &self,
        values: &[String],
        not_values: &[String],
        compile: impl Fn(&str) -> Option<Term<T>>,
    ) -> Term<T> {
        let absent = values.is_empty() && not_values.is_empty();
        if self.place.layer == Layer::Tcp && !absent {
            return self.effect.unknown();
        }
        field(self.effect, values, not_values, compile)
    }

    /// The destination port: known beforehand for a service.
    fn port_is(&self, value: &str) -> Option<Term<Rule>> {
        let wanted: u16 = value.parse().ok()?;
        Some(match self.place.port {
            Some(port) if port == wanted => Term::Always,
            Some(_) => Term::Never,
            None => Term::Is(Rule::DestinationPort(wanted.into())),
        })
    }

    /// The address that a client asks for: of a service known beforehand, unless only some of its addresses are meant.
    fn destination_is(&self, value: &str) -> Option<Term<Rule>> {
        let wanted = network(value)?;
        let Some(addresses) = self.place.addresses else { return Some(Term::Is(Rule::DestinationIp(range(wanted)))) };
        let among = addresses.iter().filter(|address| wanted.contains(&address.to_canonical())).count();
        match among {
            // At the edge of the mesh: which of a Gateway's addresses it is depends on what leads there.
            _ if addresses.is_empty() => None,
            0 => Some(Term::Never),
            all if all == addresses.len() => Some(Term::Always),
            // These are asked before a tunnel stands, where an Envoy knows no address but its own.
            _ if self.place.layer == Layer::Tcp => None,
            _ => Some(Term::Is(Rule::DestinationIp(range(wanted)))),
        }
    }
}

fn header(name: &str, value: &str) -> Term<Rule> {
    Term::Is(Rule::Header(match pattern(value) {
        None => HeaderMatcher {
            name: name.into(),
            header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
            ..Default::default()
        },
        Some(pattern) => header_is(name, matches(pattern)),
    }))
}

/// A host in any case. One written without a port matches with any: a client must not get around a DENY by adding it.
fn host(value: &str) -> Term<Rule> {
    let port = |host: &str| if host.contains(':') { "" } else { "(:[0-9]+)?" };
    let expression = match pattern(value) {
        Some(MatchPattern::Exact(host)) => format!("(?i){}{}", escape(&host), port(&host)),
        Some(MatchPattern::Suffix(host)) => format!("(?i).*{}{}", escape(&host), port(&host)),
        Some(MatchPattern::Prefix(host)) => format!("(?i){}.*", escape(&host)),
        _ => return header(":authority", value),
    };
    Term::Is(Rule::Header(header_is(":authority", matches(MatchPattern::SafeRegex(regex(expression))))))
}

/// Exact, `prefix*`, `*suffix`, `*`, or a template whose `{*}` is one path element and `{**}` any number of them.
fn path(value: &str) -> Option<Term<Rule>> {
    let matcher = if value.contains(['{', '}']) {
        matches(MatchPattern::SafeRegex(regex(template(value)?)))
    } else {
        matches(pattern(value).unwrap_or(MatchPattern::Prefix("/".into())))
    };
    Some(Term::Is(Rule::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(matcher)) })))
}

/// A path template as a regular expression; `None` when it is not one (other braces, or a star outside of braces).
fn template(value: &str) -> Option<String> {
    let mut expression = String::new();
    for (index, element) in value.split('/').enumerate() {
        if index > 0 {
            expression.push('/');
        }
        match element {
            "{*}" => expression.push_str("[^/]+"),
            "{**}" => expression.push_str(".*"),
            literal if literal.contains(['{', '}', '*']) => return None,
            literal => expression.push_str(&escape(literal)),
        }
    }
    Some(expression)
}
