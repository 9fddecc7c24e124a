//! Filters of a rule or of a backend, in list order.

use std::collections::BTreeMap;

use ambit_api::envoy::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use ambit_api::envoy::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use gateway_api::experimental::httproutes::{
    HttpRouteRulesBackendRefsFilters, HttpRouteRulesFilters, HttpRouteRulesFiltersCors,
    HttpRouteRulesFiltersRequestHeaderModifier, HttpRouteRulesFiltersRequestMirror, HttpRouteRulesFiltersRequestRedirect,
    HttpRouteRulesFiltersUrlRewrite,
};
use serde::Serialize;

/// What all filters of one list do together.
#[derive(Debug, Default)]
pub struct Filters {
    /// Changes to request headers.
    pub request: HeaderChange,
    /// Changes to response headers.
    pub response: HeaderChange,
    /// Answer with a redirect.
    pub redirect: Option<HttpRouteRulesFiltersRequestRedirect>,
    /// Change the path or the host.
    pub rewrite: Option<HttpRouteRulesFiltersUrlRewrite>,
    /// Who gets copies of requests.
    pub mirrors: Vec<HttpRouteRulesFiltersRequestMirror>,
    /// What pages of other origins may do.
    pub cors: Option<HttpRouteRulesFiltersCors>,
    /// The host to send, when a header modifier sets `Host`.
    pub host: Option<String>,
    /// A filter that this mesh does not carry out; what it stands on must not be forwarded as if it were not there.
    pub unsupported: bool,
}

impl Filters {
    /// Filters of a rule.
    pub fn of_rule(filters: Option<&[HttpRouteRulesFilters]>) -> Self {
        let mut all = Self::default();
        for filter in filters.unwrap_or_default() {
            all.add(filter);
        }
        all
    }

    /// Filters of a backend reference, which the API gives other types with the same fields; after the changes to headers that its rule
    /// makes, if these are given.
    pub fn of_backend(rule: Option<&Self>, filters: Option<&[HttpRouteRulesBackendRefsFilters]>) -> Self {
        let (request, response) = rule.map(|rule| (rule.request.clone(), rule.response.clone())).unwrap_or_default();
        let mut all = Self { request, response, ..Self::default() };
        for filter in filters.unwrap_or_default() {
            match convert::<_, HttpRouteRulesFilters>(filter) {
                Some(filter) => all.add(&filter),
                None => all.unsupported = true,
            }
        }
        // Envoy decides about them before it chooses a backend.
        all.unsupported |= all.cors.is_some() || !all.mirrors.is_empty();
        all
    }

    fn add(&mut self, filter: &HttpRouteRulesFilters) {
        if let Some(change) = &filter.request_header_modifier {
            self.change_request(change);
        } else if let Some(change) = &filter.response_header_modifier {
            match convert::<_, HttpRouteRulesFiltersRequestHeaderModifier>(change) {
                Some(change) => self.response.apply(&change),
                None => self.unsupported = true,
            }
        } else if let Some(redirect) = &filter.request_redirect {
            self.redirect = Some(redirect.clone());
        } else if let Some(rewrite) = &filter.url_rewrite {
            self.rewrite = Some(rewrite.clone());
        } else if let Some(mirror) = &filter.request_mirror {
            self.mirrors.push(mirror.clone());
        } else if let Some(cors) = &filter.cors {
            self.cors = Some(cors.clone());
        } else {
            self.unsupported = true;
        }
    }

    /// Envoy does not let `Host` be set as a header; it has a field of its own on the route.
    fn change_request(&mut self, change: &HttpRouteRulesFiltersRequestHeaderModifier) {
        let mut change = change.clone();
        if let Some(set) = &mut change.set {
            for host in set.iter().filter(|header| header.name.eq_ignore_ascii_case("host")) {
                self.host = Some(host.value.clone());
            }
            set.retain(|header| !header.name.eq_ignore_ascii_case("host"));
        }
        self.request.apply(&change);
    }
}

/// The same fields in another type.
fn convert<From: Serialize, To: serde::de::DeserializeOwned>(from: &From) -> Option<To> {
    serde_json::from_value(serde_json::to_value(from).ok()?).ok()
}

/// Header changes in Envoy's form, which removes first and then sets and adds in order.
#[derive(Debug, Default, Clone)]
pub struct HeaderChange {
    /// To set or to add.
    pub add: Vec<HeaderValueOption>,
    /// To remove, in lower case.
    pub remove: Vec<String>,
}

impl HeaderChange {
    /// What is set, what is added, and what is taken out.
    pub fn of(set: &BTreeMap<String, String>, add: &BTreeMap<String, String>, remove: &[String]) -> Self {
        let set = set.iter().map(|(name, value)| option(name, value, HeaderAppendAction::OverwriteIfExistsOrAdd));
        let add = add.iter().map(|(name, value)| option(name, value, HeaderAppendAction::AppendIfExistsOrAdd));
        Self { add: set.chain(add).collect(), remove: remove.iter().map(|name| name.to_lowercase()).collect() }
    }

    fn apply(&mut self, change: &HttpRouteRulesFiltersRequestHeaderModifier) {
        for header in change.set.iter().flatten() {
            self.forget(&header.name);
            self.add.push(option(&header.name, &header.value, HeaderAppendAction::OverwriteIfExistsOrAdd));
        }
        for header in change.add.iter().flatten().filter(|header| may_change(&header.name)) {
            self.add.push(option(&header.name, &header.value, HeaderAppendAction::AppendIfExistsOrAdd));
        }
        for name in change.remove.iter().flatten().filter(|name| may_change(name)) {
            self.forget(name);
            self.remove.push(name.to_lowercase());
        }
    }

    fn forget(&mut self, name: &str) {
        self.add.retain(|option| option.header.as_ref().is_none_or(|header| !header.key.eq_ignore_ascii_case(name)));
    }
}

/// Envoy refuses a whole configuration that adds or removes these.
fn may_change(name: &str) -> bool {
    !name.eq_ignore_ascii_case("host") && !name.starts_with(':')
}

/// Envoy expands `%…%` in values; a percent sign is written twice.
fn option(name: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
    let header = HeaderValue { key: name.into(), value: value.replace('%', "%%"), ..Default::default() };
    HeaderValueOption { header: Some(header), append_action: action.into(), keep_empty_value: true, ..Default::default() }
}
