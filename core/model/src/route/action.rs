//! What a route does with a request.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{HashPolicy, Mirror, PathMatch, Pattern, RequestView, RetryPolicy, mutation::HeaderMutations};

/// What a route does with a request.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Sends it to a cluster. Routes that say the same of that share it.
    Forward(Arc<Upstream>),
    /// Sends the client elsewhere.
    Redirect(Box<Redirect>),
    /// Answers itself.
    Direct(Box<DirectResponse>),
}

/// A fixed answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DirectResponse {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// A cluster and its share of the requests.
#[derive(Debug, Clone, Serialize)]
pub struct ClusterWeight {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// Its share, out of the sum of all.
    pub weight: u32,
    /// Changes to requests that go to this cluster.
    pub request_headers: HeaderMutations,
    /// Changes to its responses.
    pub response_headers: HeaderMutations,
    /// The host that requests to this cluster are given; goes before the route's.
    pub host: Option<HostRewrite>,
}

/// How the path changes on the way.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathRewrite {
    /// The matched prefix is replaced.
    Prefix(String),
    /// Matches of the expression are replaced.
    Regex(Pattern, String),
    /// The whole path is replaced.
    Full(String),
}

impl PathRewrite {
    /// The new path with the request's query.
    #[must_use]
    pub fn apply(&self, request: &RequestView<'_>, matched: &PathMatch) -> String {
        let path = request.path();
        let new = match self {
            Self::Prefix(prefix) => {
                let rest = path.get(matched.matched_length(path)..).unwrap_or("");
                format!("{prefix}{rest}")
            }
            Self::Regex(pattern, substitution) => pattern.substitute(path, substitution),
            Self::Full(path) => path.clone(),
        };
        let new = if new.is_empty() { "/".to_owned() } else { new };
        match request.query() {
            Some(query) => format!("{new}?{query}"),
            None => new,
        }
    }
}

/// The host that a request is given on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostRewrite(pub String);

/// Forwarding to one of several clusters.
#[derive(Debug, Clone, Serialize)]
pub struct Upstream {
    /// The clusters with their shares. One cluster has the whole share.
    pub clusters: Vec<Arc<ClusterWeight>>,
    /// What is answered when the cluster is not known: 503, or 404, or 500.
    pub cluster_not_found: u16,
    /// How the path changes.
    pub path: Option<PathRewrite>,
    /// How the host changes.
    pub host: Option<HostRewrite>,
    /// The longest from the end of the request to the end of the response; `None` for no limit.
    pub timeout: Option<Duration>,
    /// Who gets copies.
    pub mirrors: Vec<Mirror>,
    /// When it is sent again.
    pub retry: Option<RetryPolicy>,
    /// Of gRPC calls what their clients say counts, up to this, zero for any; `None` where only `timeout` does.
    pub calls: Option<Duration>,
    /// How long it may last in all, and be silent, where that is said. Hardly a route does, so it is held aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<Box<StreamTimes>>,
    /// By what the endpoint is chosen in clusters whose endpoints hashes lead to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hash: Vec<HashPolicy>,
    /// What it says of upgrades by itself, whatever its chain says of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upgrades: Vec<UpgradeRule>,
}

/// Whether an upgrade is passed on (`RouteAction.UpgradeConfig`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UpgradeRule {
    /// What is upgraded to, in lower case.
    pub name: String,
    /// Whether it is.
    pub enabled: bool,
}

/// How long a stream may last and be silent: a request with its response, or what comes after an upgrade.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StreamTimes {
    /// It ends when no byte has passed in either direction for so long (`RouteAction.idle_timeout`).
    pub idle: Option<Duration>,
    /// It ends so long after it began, also in the middle of its response (`RouteAction.MaxStreamDuration.max_stream_duration`).
    pub longest: Option<Duration>,
    /// Of gRPC calls what their clients say takes the place of `longest`, up to this, zero for any (`grpc_timeout_header_max`).
    pub calls: Option<Duration>,
}

impl StreamTimes {
    /// The same as a route holds it: not at all where nothing is limited.
    #[must_use]
    pub fn held(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }

    /// The longest that a stream may last, beside what counts of the time of a call's client.
    #[must_use]
    pub fn longest_beside(&self, call: Option<Duration>) -> Option<Duration> {
        self.longest.filter(|_| call.is_none() || self.calls.is_none())
    }

    /// What counts of the time that the client of a call says.
    #[must_use]
    pub fn of_call(&self, said: Option<Duration>) -> Option<Duration> {
        let most = self.calls?;
        said.map(|time| if most.is_zero() { time } else { time.min(most) })
    }
}

impl Upstream {
    /// Whether an upgrade, by its name in lower case, is passed on where the chain of the route says `otherwise`. What the route says of it goes
    /// before that, and of all others it says nothing.
    #[must_use]
    pub fn passes_upgrade(&self, name: &str, otherwise: bool) -> bool {
        self.upgrades.iter().find(|rule| rule.name == name).map_or(otherwise, |rule| rule.enabled)
    }

    /// The cluster for one request; `random` decides, evenly spread over its whole range. `None` when all weights are 0.
    #[must_use]
    pub fn choose(&self, random: u64) -> Option<&Arc<ClusterWeight>> {
        let total: u64 = self.clusters.iter().map(|c| u64::from(c.weight)).sum();
        let mut point = random.checked_rem(total)?;
        self.clusters.iter().find(|c| match point.checked_sub(u64::from(c.weight)) {
            Some(rest) => {
                point = rest;
                false
            }
            None => true,
        })
    }
}

/// A redirect (`envoy.config.route.v3.RedirectAction`).
#[derive(Debug, Clone, Serialize)]
pub struct Redirect {
    /// The status code.
    pub status: u16,
    /// The new scheme.
    pub scheme: Option<String>,
    /// The new host.
    pub host: Option<String>,
    /// The new port.
    pub port: Option<u16>,
    /// The new path.
    pub path: Option<PathRewrite>,
    /// The query is left out.
    pub strip_query: bool,
}

impl Redirect {
    /// The `Location` to send. The request's port is left out when a port is given, or when it is the default one of
    /// the request's scheme and the scheme changes.
    #[must_use]
    pub fn location(&self, request: &RequestView<'_>, matched: &PathMatch) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme);
        let host = match &self.host {
            Some(host) => host.as_str(),
            None => {
                let (name, port) = split_port(request.authority);
                let implied =
                    scheme != request.scheme && matches!((request.scheme, port), ("http", Some("80")) | ("https", Some("443")));
                if self.port.is_some() || implied { name } else { request.authority }
            }
        };
        let port = self.port.map(|p| format!(":{p}")).unwrap_or_default();
        let mut path = match &self.path {
            Some(PathRewrite::Full(full)) if full.contains('?') => full.clone(),
            Some(rewrite) => rewrite.apply(request, matched),
            None => request.path_and_query.to_owned(),
        };
        if self.strip_query
            && let Some(at) = path.find('?')
        {
            path.truncate(at);
        }
        format!("{scheme}://{host}{port}{path}")
    }
}

/// Splits `host:port`; an IPv6 address stays whole in its brackets.
pub(super) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && !ends_open(host) => {
            (host, Some(port))
        }
        _ => (authority, None),
    }
}

/// Whether the text is an IPv6 address cut in its middle.
fn ends_open(host: &str) -> bool {
    host.starts_with('[') && !host.ends_with(']')
}
