//! Which rules of a route are not carried out. The waypoint answers requests that they match with 500, calls with `UNAVAILABLE`; a test
//! holds this against the translation.

use gateway_api::experimental::httproutes::{
    HttpRoute, HttpRouteRules, HttpRouteRulesBackendRefsFilters, HttpRouteRulesFilters, HttpRouteRulesMatchesPathType as PathType,
};

use crate::source::{FieldError, Object};
use crate::translate::waypoint;

/// What is carried out of a route. Paths begin below its `spec`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// How many rules it has.
    rules: usize,
    /// The rules that are not carried out, and why; without a path what holds for all of them.
    pub(crate) dropped: Vec<FieldError>,
    /// What has no effect and harms nothing.
    pub(crate) notes: Vec<FieldError>,
}

impl Verdict {
    /// What is carried out of a route of any kind.
    pub(crate) fn of(route: &Object) -> Self {
        let mut verdict = Self::default();
        match route {
            Object::HttpRoute(route) => verdict.requests(route),
            Object::GrpcRoute(route) => match waypoint::grpc_as_http(route) {
                Some(route) => verdict.requests(&route),
                None => verdict.nothing("it says what no HTTPRoute can"),
            },
            Object::TlsRoute(_) | Object::TcpRoute(_) => verdict.rules = 1,
            _ => {}
        }
        verdict
    }

    /// Nothing of the route is carried out.
    fn nothing(&mut self, why: &str) {
        self.rules = 1;
        self.dropped.push(FieldError::new("", why));
    }

    fn requests(&mut self, route: &HttpRoute) {
        for (at, rule) in route.spec.rules.iter().flatten().enumerate() {
            self.rules += 1;
            self.dropped.extend(refusal(rule).map(|why| FieldError::new(format!("rules[{at}]"), why)));
            let of_session = waypoint::session::remarks(rule).into_iter();
            self.notes.extend(of_session.map(|(field, reason)| FieldError::new(format!("rules[{at}].{field}"), reason)));
            let filters = || rule.filters.iter().flatten();
            if filters().any(|filter| filter.request_redirect.is_some()) {
                let (cors, mirror) = (filters().any(|one| one.cors.is_some()), filters().any(|one| one.request_mirror.is_some()));
                for (name, _) in [("CORS", cors), ("RequestMirror", mirror)].into_iter().filter(|(_, given)| *given) {
                    let reason = format!("{name} has no effect on a redirect");
                    self.notes.push(FieldError::new(format!("rules[{at}].filters"), reason));
                }
            }
        }
    }

    /// Whether some rule is not carried out.
    pub(super) fn any_dropped(&self) -> bool {
        !self.dropped.is_empty()
    }

    /// Whether no rule is carried out.
    pub(super) fn nothing_left(&self) -> bool {
        self.any_dropped() && self.dropped.len() == self.rules
    }

    /// The rules that are not carried out, and why, in one text.
    pub(super) fn dropped(&self) -> String {
        let texts = self.dropped.iter().map(|FieldError { path, reason, .. }| match path.as_str() {
            "" => reason.clone(),
            path => format!("{path}: {reason}"),
        });
        texts.collect::<Vec<_>>().join("; ")
    }
}

/// Why a rule cannot be carried out. References are not looked at: a filter that refers to an extension has its place
/// in `ResolvedRefs`.
fn refusal(rule: &HttpRouteRules) -> Option<String> {
    let filters = rule.filters.as_deref().unwrap_or_default();
    if let Some(name) = filters.iter().find_map(unsupported) {
        return Some(format!("filter {name} is not supported"));
    }
    let needs_prefix = filters.iter().any(|filter| {
        let rewrite = filter.url_rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
        let redirect = filter.request_redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
        rewrite.is_some_and(|path| path.replace_prefix_match.is_some())
            || redirect.is_some_and(|path| path.replace_prefix_match.is_some())
    });
    let mut paths = rule.matches.iter().flatten().filter_map(|one| one.path.as_ref());
    if needs_prefix && paths.any(|path| !matches!(path.r#type, None | Some(PathType::PathPrefix))) {
        return Some("replacePrefixMatch needs a match of type PathPrefix".into());
    }
    rule.backend_refs.iter().flatten().enumerate().find_map(|(at, backend)| {
        let name = backend.filters.iter().flatten().find_map(unsupported_on_backend)?;
        Some(format!("filter {name} of backendRefs[{at}] is not supported"))
    })
}

fn unsupported(filter: &HttpRouteRulesFilters) -> Option<&'static str> {
    filter.external_auth.is_some().then_some("ExternalAuth")
}

fn unsupported_on_backend(filter: &HttpRouteRulesBackendRefsFilters) -> Option<&'static str> {
    let given = [
        ("RequestMirror", filter.request_mirror.is_some()),
        ("CORS", filter.cors.is_some()),
        ("ExternalAuth", filter.external_auth.is_some()),
        ("RequestRedirect", filter.request_redirect.is_some()),
        ("URLRewrite with a path", filter.url_rewrite.as_ref().is_some_and(|rewrite| rewrite.path.is_some())),
    ];
    given.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
}
