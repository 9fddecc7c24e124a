//! From a request to what is done with it: the filter chain of its destination, its rules, its route.

use std::{borrow::Cow, sync::Arc, time::SystemTime};

use ambit_model::{
    Reason, Refusal,
    balance::Policy,
    jwt::{Changed, Verified},
    route::{Claim, ClusterWeight, Hashed, RequestView, Route, RouteTable, Session, Upstream as Forwarding, normalize_path},
};
use http::{HeaderMap, Request, StatusCode, Version, header};
use serde_json::Value;

use super::headers;
use crate::{
    authn, authz,
    compiled::{AppProtocol, Chain, Cluster, Gate, HttpChain, Proxy as ChainProxy, Routes, Snapshot},
    terminate::Tunnel,
};

/// Envoy's default of how many header fields a request may have (`max_headers_count`). In HTTP/1 hyper counts them, and has the same.
const MOST_FIELDS: usize = 100;
/// In HTTP/2 method, scheme, host and path are fields, too.
const PSEUDO: usize = 4;

/// As much of the name of an upgrade that is refused is told, in bytes.
const LONGEST_UPGRADE: usize = 64;

/// A request's target as rules see it.
#[derive(Debug, Clone)]
pub struct Target {
    /// The host it is for.
    pub authority: String,
    /// The path in its normal form, with the query.
    pub path_and_query: String,
    /// What its client speaks: with us, where it is outside of the mesh, and else where it came from, as it says itself, or as who has taken it in
    /// before says, else `http`.
    pub scheme: &'static str,
}

/// A refusal with the status it is answered with.
pub type Refused = (StatusCode, Refusal);

/// The chain that takes requests of a tunnel now. It is looked up for each request, so that a change holds for open connections too.
pub fn chain(snapshot: &Snapshot, tunnel: &Tunnel, protocol: AppProtocol) -> Result<(Arc<Chain>, Arc<HttpChain>), Refused> {
    let gone = |text: &str| (StatusCode::SERVICE_UNAVAILABLE, Refusal::new(Reason::ListenerNotFound, text));
    let of_requests = |chain: &Arc<Chain>| match &chain.proxy {
        ChainProxy::Http(http) => Ok((chain.clone(), http.clone())),
        ChainProxy::Tcp(_) => Err(gone("the destination is no longer read as HTTP")),
    };
    if let Some(port) = tunnel.edge {
        let chain = snapshot.edge.get(&port).and_then(|edge| edge.chain(tunnel.secure.as_deref()));
        let chain = chain.ok_or_else(|| gone("there is no listener on this port any more"))?;
        return of_requests(chain);
    }
    let inbound = snapshot.inbound.as_ref().ok_or_else(|| gone("there is no inner listener"))?;
    match inbound.select(tunnel.destination, Some(&protocol.into())) {
        Gate::Chain(chain) => of_requests(chain),
        Gate::NeedsProtocol | Gate::NeedsServerName | Gate::Nothing => {
            Err(gone("no filter chain takes the destination any more"))
        }
    }
}

/// The host and path of a request, as `http` wants paths.
pub fn target<B>(request: &Request<B>, http: &HttpChain) -> Result<Target, Refused> {
    let bad = |text: &str| (StatusCode::BAD_REQUEST, Refusal::new(Reason::RequestInvalid, text));
    let fields: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if fields > http.max_header_bytes {
        let text = format!("{fields} bytes of header fields, more than {}", http.max_header_bytes);
        return Err((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Refusal::new(Reason::RequestTooLarge, text)));
    }
    // Of hardly any request it has to be known closely.
    if request.headers().len() + PSEUDO > MOST_FIELDS && request.version() == Version::HTTP_2 {
        let fields = fields_of(request);
        if fields > MOST_FIELDS {
            let text = format!("{fields} header fields, more than {MOST_FIELDS}");
            return Err((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Refusal::new(Reason::RequestTooLarge, text)));
        }
    }
    if request.method() == http::Method::CONNECT && request.uri().authority().is_none() {
        return Err(bad("CONNECT is for no host"));
    }
    if request.method() == http::Method::CONNECT {
        return Err((StatusCode::FORBIDDEN, Refusal::new(Reason::RequestInvalid, "CONNECT is not passed on")));
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next().map(|v| v.to_str());
    // Whoever takes the other one would get around rules (RFC 9112, section 3.2).
    if hosts.next().is_some() {
        return Err(bad("there is more than one host"));
    }
    let authority = match (request.uri().authority(), host) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(host)) => host.map_err(|_| bad("the host is not text"))?,
        (None, None) if request.version() == Version::HTTP_10 => "",
        (None, None) => return Err(bad("there is no host")),
    };
    // What is no host to others must not be one here: rules and endpoints would read it in different ways.
    if !authority.bytes().all(of_host) {
        return Err(bad("the host has letters that no host has"));
    }
    // A host has no user information (RFC 9110, section 7.2): rules on hosts would not know it for the host it is.
    if authority.contains('@') {
        return Err(bad("the host has user information"));
    }
    let (path, query) = (request.uri().path(), request.uri().query());
    // Rules on paths are about those that begin at the root. `GET x` has none, and an endpoint might read it as `/` or as `/x`; Envoy
    // refuses it too.
    let of_the_server = path == "*" && request.method() == http::Method::OPTIONS;
    if !path.starts_with('/') && !of_the_server {
        return Err(bad("the path does not begin with a slash"));
    }
    let path = match http.normalize_path && path.starts_with('/') {
        true => normalize_path(path, http.merge_slashes).ok_or_else(|| bad("the path has no normal form"))?,
        false => Cow::Borrowed(path),
    };
    let path_and_query = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.into_owned(),
    };
    Ok(Target { authority: authority.to_owned(), path_and_query, scheme: scheme(request) })
}

/// How many fields a head of HTTP/2 has, as Envoy counts: with those that begin with a colon, and without cookies, which it puts together once the
/// head is whole.
fn fields_of<B>(request: &Request<B>) -> usize {
    let (fields, uri) = (request.headers(), request.uri());
    let pseudo = PSEUDO - usize::from(uri.scheme().is_none()) - usize::from(uri.authority().is_none());
    fields.len() + pseudo - fields.get_all(header::COOKIE).iter().count()
}

/// As Envoy reads it.
fn scheme<B>(request: &Request<B>) -> &'static str {
    let forwarded = || request.headers().get(headers::FORWARDED_PROTO).and_then(|scheme| scheme.to_str().ok());
    match request.uri().scheme_str().or_else(forwarded) {
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => "https",
        _ => "http",
    }
}

/// Whether a byte may be in an authority (RFC 3986, section 3.2), as Envoy reads it.
fn of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@[]".contains(&byte)
}

/// What is known of a request before anybody is asked about it.
pub struct Known {
    /// What its tokens say; nothing where the chain looks at none.
    pub verified: Option<Verified>,
    /// What of it is another once they were looked at.
    pub changed: Option<Changed>,
    /// Whether they are believed.
    pub believed: Result<(), Refused>,
    /// The route that takes it as it came, as in Envoy, which looks for it first.
    pub route: Result<Arc<Route>, Refused>,
}

impl Known {
    /// What rules may ask of its tokens.
    pub fn metadata(&self) -> Option<&Value> {
        self.verified.as_ref().and_then(Verified::metadata)
    }
}

/// Applies the chain's rules on connections, looks at the tokens of a request, and finds its route.
pub fn known(
    snapshot: &Snapshot,
    tunnel: &Tunnel,
    chain: &Chain,
    http: &HttpChain,
    view: RequestView<'_>,
) -> Result<Known, Refused> {
    authz::connection(&chain.rbac, tunnel).map_err(denied)?;
    let (Tokens { verified, changed }, believed) = match tokens(http, &view) {
        Ok(tokens) => (tokens, Ok(())),
        Err(refused) => (Tokens::default(), Err(refused)),
    };
    Ok(Known { verified, changed, believed, route: taken(snapshot, tunnel, http, view) })
}

fn denied(refusal: Refusal) -> Refused {
    (StatusCode::FORBIDDEN, refusal)
}

fn taken(snapshot: &Snapshot, tunnel: &Tunnel, http: &HttpChain, view: RequestView<'_>) -> Result<Arc<Route>, Refused> {
    let table: &RouteTable = match &http.routes {
        Routes::Inline(table) => table,
        Routes::Named(name) => snapshot.routes.get(name).ok_or_else(|| {
            let text = format!("routes {name} have not been delivered or were rejected");
            (StatusCode::SERVICE_UNAVAILABLE, Refusal::new(Reason::ConfigurationInvalid, text))
        })?,
    };
    table.select(&view, tunnel.peer.uri.as_deref()).cloned().ok_or_else(|| {
        let text = format!("{} {} matches no route of {}", view.method, view.path(), table.name);
        (StatusCode::NOT_FOUND, Refusal::new(Reason::RouteNotFound, text))
    })
}

/// Applies the chain's rules to a request as it then is, if its tokens are believed.
pub fn admits(tunnel: &Tunnel, http: &HttpChain, view: RequestView<'_>, known: &Known) -> Result<(), Refused> {
    known.believed.clone()?;
    authz::request(&http.rbac, tunnel, view, known.metadata()).map_err(denied)
}

/// What rule sets that are not enforced would have decided about a request that the others admit.
pub fn dry_run(tunnel: &Tunnel, chain: &Chain, http: &HttpChain, view: RequestView<'_>, known: &Known) -> Vec<Refusal> {
    let mut decided = authz::dry_run(&chain.rbac, &authz::subject(tunnel, None, None));
    decided.extend(authz::dry_run(&http.rbac, &authz::subject(tunnel, Some(view), known.metadata())));
    decided
}

/// All of that for a request about which nobody is asked; with what of it is another afterwards.
pub fn route(
    snapshot: &Snapshot,
    tunnel: &Tunnel,
    chain: &Chain,
    http: &HttpChain,
    view: RequestView<'_>,
) -> Result<(Arc<Route>, Option<Changed>), Refused> {
    let mut known = known(snapshot, tunnel, chain, http, view)?;
    let changed = known.changed.take();
    admits(tunnel, http, seen(view, changed.as_ref()), &known)?;
    Ok((known.route?, changed))
}

/// What the tokens of a request say, and what of it is another once they were looked at.
#[derive(Debug, Default)]
pub struct Tokens {
    /// Nothing where the chain looks at none.
    pub verified: Option<Verified>,
    pub changed: Option<Changed>,
}

/// Looks at the tokens of a request, if the chain does.
pub fn tokens(http: &HttpChain, view: &RequestView<'_>) -> Result<Tokens, Refused> {
    let verified = http.jwt.as_deref().map(|jwt| authn::request(jwt, view)).transpose()?;
    let changed = verified.as_ref().and_then(|verified| verified.changed(view));
    Ok(Tokens { verified, changed })
}

/// The request as rules see it, with what its tokens have changed.
pub fn seen<'a>(view: RequestView<'a>, changed: Option<&'a Changed>) -> RequestView<'a> {
    match changed {
        Some(Changed { headers, path_and_query }) => RequestView { headers, path_and_query, ..view },
        None => view,
    }
}

/// The upgrade that a request asks for, if it is passed on: as its route says, or where that says nothing, its chain.
pub fn upgrade(http: &HttpChain, forwarding: &Forwarding, fields: &HeaderMap) -> Result<Option<String>, Refused> {
    let Some(name) = headers::upgrade(fields) else { return Ok(None) };
    match forwarding.passes_upgrade(&name, http.upgrades.contains(&name)) {
        // An offer of HTTP/2 in clear may be ignored (RFC 9110, section 7.8), and always is: nobody would look at the requests in it.
        _ if name == "h2c" => Ok(None),
        true => Ok(Some(name)),
        false => {
            // It is told to its client, which may have said anything.
            let named = name.get(..LONGEST_UPGRADE).unwrap_or(&name);
            let text = format!("an upgrade to {named} is not passed on");
            Err((StatusCode::FORBIDDEN, Refusal::new(Reason::RequestInvalid, text)))
        }
    }
}

/// How requests of a route find the endpoint of their session, and what this one says of it.
pub fn session<'a>(route: &'a Route, http: &HttpChain, view: &RequestView<'_>) -> Option<(&'a Session, Claim)> {
    let session = route.filters().session.as_ref().filter(|_| http.sessions)?;
    Some((session, session.claim(view, now())?))
}

/// What tells a request apart from others, if that decides which endpoint of its cluster takes it.
pub fn hashed(
    snapshot: &Snapshot,
    tunnel: &Tunnel,
    (forwarding, weight): (&Forwarding, &ClusterWeight),
    view: &RequestView<'_>,
) -> Hashed {
    let without = |cluster: &Arc<Cluster>| !matches!(cluster.balance.policy, Policy::Hash(_));
    if forwarding.hash.is_empty() || snapshot.clusters.get(&weight.cluster).is_none_or(without) {
        return Hashed::default();
    }
    Hashed::of(&forwarding.hash, view, (tunnel.peer.address, tunnel.destination))
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs())
}

/// The cluster of a share of requests.
pub fn cluster<'a>(snapshot: &'a Snapshot, forwarding: &Forwarding, weight: &ClusterWeight) -> Result<&'a Arc<Cluster>, Refused> {
    snapshot.clusters.get(&weight.cluster).ok_or_else(|| {
        let status = StatusCode::from_u16(forwarding.cluster_not_found).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        (status, Refusal::new(Reason::BackendInvalid, format!("there is no cluster {}", weight.cluster)))
    })
}

/// What a request is refused with whose route sends nothing anywhere.
pub fn nowhere(route: &Route) -> Refused {
    let text = format!("route {} has no cluster with a weight", route.name);
    (StatusCode::INTERNAL_SERVER_ERROR, Refusal::new(Reason::BackendInvalid, text))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::http) fn chain() -> HttpChain {
        HttpChain {
            routes: Routes::Named("shop".into()),
            jwt: None,
            asks: Vec::new(),
            rbac: Vec::new(),
            cors: false,
            sessions: false,
            faults: None,
            limits: None,
            envoy_headers: false,
            upgrades: Vec::new(),
            normalize_path: true,
            merge_slashes: false,
            max_header_bytes: 1024,
            limiters: Vec::new(),
            bodies: None,
            processors: Vec::new(),
            admission: None,
            tracing: None,
            logs: None,
            deadlines: false,
            tells_client: false,
        }
    }

    fn read(method: &str, uri: &str) -> Result<String, u16> {
        let request = Request::builder().method(method).uri(uri).header("host", "shop").body(()).unwrap();
        target(&request, &chain()).map(|target| target.path_and_query).map_err(|(status, _)| status.as_u16())
    }

    #[test]
    fn a_path_that_does_not_begin_at_the_root_gets_around_no_rule() {
        assert_eq!(read("GET", "/a/./b/../c?d").as_deref(), Ok("/a/c?d"));
        assert_eq!(read("GET", "http://shop").as_deref(), Ok("/"));
        assert_eq!(read("OPTIONS", "*").as_deref(), Ok("*"));
        for uri in ["admin", "*"] {
            assert_eq!(read("GET", uri), Err(400), "{uri}");
        }
    }

    #[test]
    fn a_head_of_http2_has_at_most_a_hundred_fields_of_which_four_are_its_own_and_cookies_are_none() {
        let wide = HttpChain { max_header_bytes: 60 * 1024, ..chain() };
        let taken = |version: Version, uri: &str, fields: usize, cookies: usize| {
            let mut request = Request::builder().version(version).uri(uri).body(()).unwrap();
            let headers = request.headers_mut();
            for field in 0..fields {
                // Of several with one name each is one.
                let name = if field % 2 == 0 { "x-twice".to_owned() } else { format!("x-{field}") };
                headers.append(name.parse::<http::HeaderName>().unwrap(), "1".parse().unwrap());
            }
            for _ in 0..cookies {
                headers.append(header::COOKIE, "a=b".parse().unwrap());
            }
            target(&request, &wide).map(drop).map_err(|(status, refusal)| (status.as_u16(), refusal.reason))
        };
        let refused = Err((431, Reason::RequestTooLarge));
        assert_eq!(taken(Version::HTTP_2, "http://shop/", 96, 0), Ok(()));
        assert_eq!(taken(Version::HTTP_2, "http://shop/", 96, 50), Ok(()));
        assert_eq!(taken(Version::HTTP_2, "http://shop/", 97, 0), refused);
        assert_eq!(taken(Version::HTTP_11, "http://shop/", 100, 0), Ok(()), "these have been counted");
        // Without a host it is refused as such.
        assert_eq!(taken(Version::HTTP_2, "/", 97, 0), Err((400, Reason::RequestInvalid)));
        assert_eq!(taken(Version::HTTP_2, "/", 99, 0), refused);
    }

    #[test]
    fn a_host_with_letters_that_no_host_has_is_refused() {
        let read = |host: &str| {
            let request = Request::builder().uri("/").header("host", host).body(()).unwrap();
            target(&request, &chain()).map(|target| target.authority).map_err(|(status, _)| status.as_u16())
        };
        for host in ["svc.shop:80", "[::1]:80", "svc_shop", ""] {
            assert_eq!(read(host).as_deref(), Ok(host));
        }
        for host in ["svc shop", "svc/shop", "svc\\shop", "svc<shop", "svc?shop", "svc#shop"] {
            assert_eq!(read(host), Err(400), "{host}");
        }
    }

    #[test]
    fn a_host_with_user_information_gets_around_no_rule_nor_does_a_second_one() {
        assert_eq!(read("GET", "http://anyone@shop/"), Err(400));
        let two = Request::builder().uri("/").header("host", "shop").header("host", "other").body(()).unwrap();
        assert_eq!(target(&two, &chain()).unwrap_err().0, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn the_scheme_is_that_of_the_client_or_of_who_took_its_request_in() {
        for (uri, forwarded, expected) in
            [("/", "https", "https"), ("/", "http", "http"), ("/", "x", "http"), ("http://shop/", "https", "http")]
        {
            let request =
                Request::builder().uri(uri).header("host", "shop").header("x-forwarded-proto", forwarded).body(()).unwrap();
            assert_eq!(target(&request, &chain()).unwrap().scheme, expected, "{uri} {forwarded}");
        }
    }
}
