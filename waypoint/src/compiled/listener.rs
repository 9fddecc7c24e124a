//! Listeners and their filter chains.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ambit_identity::SpiffeId;
use ambit_model::{
    jwt::JwtAuthentication,
    measure::MetricChanges,
    route::{LocalLimit, Rbac, RouteTable, StringMatch},
};
use serde::Serialize;

use super::{Admission, ExtAuthz, ExtProc, Faults, FirstBytes, Limiter, Logs, Map, MatchNode, Selection, ServiceInfo, Tracing};

/// The listener that ends tunnels (`connect_terminate`).
#[derive(Debug, Clone, Serialize)]
pub struct Terminate {
    /// The port it listens on.
    pub port: u16,
    /// A peer's SPIFFE id must pass one of these; none means any identity under the mesh roots.
    pub peers: Vec<StringMatch>,
    /// The name of the table of known authorities, or the table itself.
    pub authorities: Result<Arc<str>, Arc<TerminateTable>>,
}

/// A rule set with the one that is only reported on.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RbacFilter {
    /// Enforced, unless absent.
    pub rules: Option<Rbac>,
    /// What it would decide is noted, in the access log and in a metric, and nothing is refused by it.
    pub shadow: Option<Rbac>,
}

/// A virtual host of the terminating listener: what a tunnel may be opened for.
#[derive(Debug, Clone, Serialize)]
pub struct TerminateHost {
    /// Its name.
    pub name: String,
    /// Decided on the tunnel itself, before any byte.
    pub rbac: Vec<RbacFilter>,
}

/// The authorities a tunnel may be opened for.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TerminateTable {
    /// By address and port.
    pub exact: HashMap<SocketAddr, Arc<TerminateHost>>,
    /// By address, with any port.
    pub any_port: HashMap<IpAddr, Arc<TerminateHost>>,
    /// All others.
    pub any: Option<Arc<TerminateHost>>,
}

impl TerminateTable {
    /// The virtual host for a destination.
    #[must_use]
    pub fn get(&self, destination: SocketAddr) -> Option<&Arc<TerminateHost>> {
        self.exact.get(&destination).or_else(|| self.any_port.get(&destination.ip())).or(self.any.as_ref())
    }
}

/// The listener inside the tunnel (`main_internal`).
#[derive(Debug, Clone, Serialize)]
pub struct Inbound {
    /// From a destination to a chain's name.
    pub matcher: MatchNode,
    /// Chains by name.
    pub chains: Map<Arc<str>, Arc<Chain>>,
    /// Who may have it told what becomes of requests of theirs.
    pub administrators: BTreeSet<SpiffeId>,
}

impl Inbound {
    /// What goes on in chains that are the same as before goes on.
    pub fn follow(&mut self, before: &Self) {
        for (name, chain) in &mut self.chains {
            let (Some(chain), Some(before)) = (Arc::get_mut(chain), before.chains.get(name)) else { continue };
            let (Proxy::Http(http), Proxy::Http(before)) = (&mut chain.proxy, &before.proxy) else { continue };
            let (Some(http), Some(before)) = (Arc::get_mut(http), &before.admission) else { continue };
            if let Some(admission) = http.admission.as_mut().and_then(Arc::get_mut) {
                admission.follow(before);
            }
        }
    }

    /// The chain for a destination, or that it depends on the first bytes. See [`MatchNode::select`].
    #[must_use]
    pub fn select(&self, destination: SocketAddr, seen: Option<&FirstBytes>) -> Gate<'_> {
        match self.matcher.select(destination, seen) {
            Selection::Chain(name) => self.chains.get(name).map_or(Gate::Nothing, Gate::Chain),
            Selection::NeedsProtocol => Gate::NeedsProtocol,
            Selection::NeedsServerName => Gate::NeedsServerName,
            Selection::Nothing => Gate::Nothing,
        }
    }
}

/// Where a destination leads.
#[derive(Debug, Clone, Copy)]
pub enum Gate<'a> {
    /// To this filter chain.
    Chain(&'a Arc<Chain>),
    /// It depends on the protocol of the first bytes.
    NeedsProtocol,
    /// It depends on the server name in them.
    NeedsServerName,
    /// Nowhere.
    Nothing,
}

/// A filter chain.
#[derive(Debug, Clone, Serialize)]
pub struct Chain {
    /// Its name, `inbound-vip|<port>|<http|tcp>|<host>` for a service port; `<namespace>/<host>` for a host of a ServiceEntry. The
    /// chain of a TLSRoute has the route's name before the host.
    pub name: Arc<str>,
    /// Rule sets on the connection.
    pub rbac: Vec<RbacFilter>,
    /// The identity that a directly addressed destination must prove (`direct-http` and `direct-tcp` chains).
    pub upstream_identity: Option<SpiffeId>,
    /// What carries the connection on.
    pub proxy: Proxy,
    /// What of the metrics of what it takes is another.
    pub metrics: Option<Arc<MetricChanges>>,
}

impl Chain {
    /// Whether it carries bytes, and looks for no requests in them.
    #[must_use]
    pub fn carries(&self) -> bool {
        matches!(self.proxy, Proxy::Tcp(_))
    }

    /// The service whose port this is, as the name says; `None` where a destination is addressed directly.
    #[must_use]
    pub fn service(&self) -> Option<Arc<ServiceInfo>> {
        Self::service_named(&self.name).map(Arc::new)
    }

    fn service_named(name: &str) -> Option<ServiceInfo> {
        let (_, host) = name.strip_prefix("inbound-vip|")?.rsplit_once('|')?;
        // A host of a ServiceEntry belongs to the namespace of the entry, and has no other name.
        if let Some((namespace, host)) = host.split_once('/') {
            return Some(ServiceInfo { name: host.into(), namespace: namespace.into(), host: host.into() });
        }
        let mut labels = host.split('.');
        let (name, namespace) = (labels.next()?.into(), labels.next()?.into());
        Some(ServiceInfo { name, namespace, host: host.into() })
    }
}

/// What carries a connection on.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Proxy {
    /// Request by request.
    Http(Arc<HttpChain>),
    /// Byte by byte.
    Tcp(TcpChain),
}

/// Byte by byte, to one of these clusters with their weights.
#[derive(Debug, Clone, Serialize)]
pub struct TcpChain {
    /// The clusters.
    pub clusters: Vec<(Arc<str>, u32)>,
    /// What is logged in place of the waypoint's own lines.
    pub logs: Option<Arc<Logs>>,
    /// A connection is ended that has carried nothing for so long; none is, where this is not set.
    pub idle: Option<Duration>,
}

impl TcpChain {
    /// The cluster for a connection; `random` decides. `None` when all weights are 0.
    #[must_use]
    pub fn choose(&self, random: u64) -> Option<&Arc<str>> {
        let total: u64 = self.clusters.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut point = random.checked_rem(total)?;
        for (cluster, weight) in &self.clusters {
            match point.checked_sub(u64::from(*weight)) {
                Some(rest) => point = rest,
                None => return Some(cluster),
            }
        }
        None
    }
}

/// Where a chain's routes are.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Routes {
    /// Discovered under this name.
    Named(Arc<str>),
    /// Given with the chain.
    Inline(Arc<RouteTable>),
}

/// Request by request.
#[derive(Debug, Clone, Serialize)]
pub struct HttpChain {
    /// The routes.
    pub routes: Routes,
    /// Whose tokens are believed, before any rule is asked.
    pub jwt: Option<Arc<JwtAuthentication>>,
    /// Who is asked about requests before any rule is, in order.
    pub asks: Vec<Arc<ExtAuthz>>,
    /// Rule sets on each request, in order.
    pub rbac: Vec<RbacFilter>,
    /// What routes say of CORS holds.
    pub cors: bool,
    /// What routes say of sessions holds.
    pub sessions: bool,
    /// What routes say of faults holds, and where they say nothing, this.
    pub faults: Option<Faults>,
    /// What routes say of limits holds, and where they say nothing, this.
    pub limits: Option<Option<Arc<LocalLimit>>>,
    /// Answers tell what Envoy tells of itself, where a client may act by it (`x-envoy-overloaded`).
    pub envoy_headers: bool,
    /// Upgrades that are passed on, in lower case (`websocket`).
    pub upgrades: Vec<String>,
    /// Paths are brought to their normal form before anything looks at them.
    pub normalize_path: bool,
    /// Several slashes count as one.
    pub merge_slashes: bool,
    /// The most that header fields may take together, in bytes.
    pub max_header_bytes: usize,
    /// Servers of limits that are asked about what routes say, in order.
    pub limiters: Vec<Arc<Limiter>>,
    /// The longest body where routes say nothing, in bytes (`u64::MAX` for any); what they say holds where it is given.
    pub bodies: Option<u64>,
    /// Who processes requests that nothing has refused, and their responses in reverse order.
    pub processors: Vec<Arc<ExtProc>>,
    /// How many requests are let in at once, by how long they take.
    pub admission: Option<Arc<Admission>>,
    /// What is told of them to a collector of spans.
    pub tracing: Option<Arc<Tracing>>,
    /// What is logged in place of the waypoint's own lines.
    pub logs: Option<Arc<Logs>>,
    /// How long the proxy before this one waits bounds how long an answer may take.
    pub deadlines: bool,
    /// Requests say who their client is (`x-forwarded-client-cert`). What a client says of that itself is taken out in any case.
    pub tells_client: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_says_which_service_it_is_for() {
        let named =
            |name: &str| Chain::service_named(name).map(|of| [of.name, of.namespace, of.host].map(|text| text.to_string()));
        let service = named("inbound-vip|80|http|api.shop.svc.cluster.local").unwrap();
        assert_eq!(service, ["api", "shop", "api.shop.svc.cluster.local"]);
        let host = named("inbound-vip|443|tcp|shop/www.example.com").unwrap();
        assert_eq!(host, ["www.example.com", "shop", "www.example.com"], "a host of a ServiceEntry");
        assert_eq!(
            named("inbound-vip|443|tcp|shop/route|api.shop.svc.cluster.local").unwrap(),
            service,
            "the chain of a TLSRoute"
        );
        assert_eq!(named("direct-tcp|spiffe://cluster.local/ns/shop/sa/api"), None);
    }
}
