//! One CONNECT: is its authority known, which filter chain takes it, may this peer.

use std::{net::SocketAddr, sync::Arc};

use ambit_hbone::{AuthorityError, Incoming, TunnelStream};
use ambit_model::{Reason, Refusal};
use ambit_runtime::drain::Watch;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::Peer;
use crate::{
    authz,
    compiled::{Chain, Gate, Proxy as ChainProxy, Snapshot},
    http::{
        self as l7, CLIENT_CERTIFICATE,
        detect::{self, Look},
    },
    observe::Record,
    proxy::Proxy,
    tcp,
};

/// A tunnel that may be opened: whose, and for what.
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// Who asks.
    pub peer: Arc<Peer>,
    /// What for.
    pub destination: SocketAddr,
    /// Headers of a CONNECT to the endpoint for what is carried byte by byte, which is one for each tunnel: `baggage`, `forwarded`,
    /// `traceparent`, `tracestate` as they came, and the client's identity, which the endpoint's proxy would not know.
    pub passed_on: HeaderMap,
    /// Told when the program drains.
    pub drain: Watch,
    /// The port of the listener at the edge of the mesh that the client came to, in no tunnel and without identity.
    pub edge: Option<u16>,
    /// The filter chain there that the server name of the client led to, where it speaks TLS.
    pub secure: Option<Arc<str>>,
}

impl Tunnel {
    /// What a client outside of the mesh speaks; requests inside a tunnel are in clear there.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.secure.is_some() { "https" } else { "http" }
    }
}

/// Decides about one CONNECT and carries it to its end.
pub async fn open(proxy: Arc<Proxy>, peer: Arc<Peer>, incoming: Incoming, drain: Watch) {
    let peer = Arc::new(peer.described(incoming.headers()));
    let destination = match authority(incoming.authority()) {
        Ok(destination) => destination,
        Err(refusal) => {
            let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
            refuse(Record::new(proxy.telemetry.clone(), peer, nowhere, "tcp"), incoming, &refusal);
            return;
        }
    };
    let Ok(_place) = proxy.places.clone().try_acquire_owned() else {
        let refusal = Refusal::new(Reason::ConnectionLimit, format!("{} tunnels are open", proxy.limits.open_tunnels));
        refuse(Record::new(proxy.telemetry.clone(), peer, destination, "tcp"), incoming, &refusal);
        return;
    };
    let passed_on = passed_on(incoming.headers(), &peer);
    let tunnel = Arc::new(Tunnel { peer: peer.clone(), destination, passed_on, drain, edge: None, secure: None });
    let snapshot = proxy.config.load_full();
    match decide(&snapshot, &tunnel) {
        Err(refusal) => {
            let mut record = Record::new(proxy.telemetry.clone(), peer, destination, "tcp");
            if let Some(Gate::Chain(chain)) = snapshot.inbound.as_ref().map(|inbound| inbound.select(destination, None)) {
                record.service = chain.service();
            }
            refuse(record, incoming, &refusal);
        }
        Ok(Opening::Chain(chain)) => match &chain.proxy {
            ChainProxy::Http(_) => {
                if let Some(stream) = accept(incoming) {
                    l7::serve(proxy, tunnel, detect::Detected::later(stream)).await;
                }
            }
            ChainProxy::Tcp(tcp) => tcp::connect_then_accept(proxy.clone(), tunnel, chain.clone(), tcp, incoming).await,
        },
        Ok(Opening::Looking(look)) => {
            if let Some(stream) = accept(incoming) {
                sniffed(proxy, tunnel, stream, look).await;
            }
        }
    }
}

/// The first bytes decide between HTTP and TCP, or between names of servers. A client that is silent waits for the server to speak first,
/// which is TCP, and says no name.
async fn sniffed(proxy: Arc<Proxy>, tunnel: Arc<Tunnel>, stream: TunnelStream, look: Look) {
    let detected = match detect::within(stream, look, proxy.limits.detect).await {
        Ok(detected) => detected,
        Err(error) => {
            let mut record = Record::new(proxy.telemetry.clone(), tunnel.peer.clone(), tunnel.destination, "tcp");
            record.error = Some(error.to_string());
            return;
        }
    };
    let snapshot = proxy.config.load_full();
    let gate = snapshot.inbound.as_ref().map(|inbound| inbound.select(tunnel.destination, Some(&detected.seen)));
    let chain = match gate {
        Some(Gate::Chain(chain)) => chain.clone(),
        _ => {
            let mut record = Record::new(proxy.telemetry.clone(), tunnel.peer.clone(), tunnel.destination, "tcp");
            record.refused(&Refusal::new(Reason::ListenerNotFound, "no filter chain takes these bytes"));
            return;
        }
    };
    match &chain.proxy {
        ChainProxy::Http(_) => l7::serve(proxy, tunnel, detected).await,
        ChainProxy::Tcp(tcp) => tcp::carry(proxy, tunnel, chain.clone(), tcp, detected.into_stream()).await,
    }
}

/// What can be said of a tunnel before its first byte.
#[derive(Debug)]
pub enum Opening {
    /// This chain takes it.
    Chain(Arc<Chain>),
    /// Its first bytes have to be looked at.
    Looking(Look),
}

/// The chain for a tunnel, after every rule that can be decided before its first byte.
pub fn decide(snapshot: &Snapshot, tunnel: &Tunnel) -> Result<Opening, Refusal> {
    let missing =
        |what: &str| Refusal::new(Reason::ConfigurationInvalid, format!("{what} has not been delivered or was rejected"));
    if snapshot.terminate.is_none() {
        return Err(missing("the terminating listener"));
    }
    let authorities = snapshot.authorities.as_ref().ok_or_else(|| missing("the table of authorities"))?;
    let host = authorities
        .get(tunnel.destination)
        .ok_or_else(|| Refusal::new(Reason::ListenerNotFound, format!("{} is not served here", tunnel.destination)))?;
    authz::connection(&host.rbac, tunnel)?;
    let inbound = snapshot.inbound.as_ref().ok_or_else(|| missing("the inner listener"))?;
    match inbound.select(tunnel.destination, None) {
        Gate::NeedsProtocol => Ok(Opening::Looking(Look::Protocol)),
        Gate::NeedsServerName => Ok(Opening::Looking(Look::ServerName)),
        Gate::Nothing => Err(Refusal::new(Reason::ListenerNotFound, format!("no filter chain takes {}", tunnel.destination))),
        Gate::Chain(chain) => {
            authz::connection(&chain.rbac, tunnel)?;
            Ok(Opening::Chain(chain.clone()))
        }
    }
}

fn authority(authority: Result<&ambit_hbone::Authority, &AuthorityError>) -> Result<SocketAddr, Refusal> {
    let authority = authority.map_err(|error| Refusal::new(Reason::AuthorityInvalid, error.to_string()))?;
    authority
        .socket_addr()
        .map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
        .ok_or_else(|| Refusal::new(Reason::AuthorityInvalid, format!("{authority} is a name, not an address")))
}

fn accept(incoming: Incoming) -> Option<TunnelStream> {
    incoming.accept(HeaderMap::new()).inspect_err(|error| tracing::debug!(%error, "the client left before its answer")).ok()
}

/// Answers a CONNECT with the status of a refusal, its reason and its policy.
pub fn refuse(mut record: Record, incoming: Incoming, refusal: &Refusal) {
    record.refused(refusal);
    let status = status(refusal.reason);
    record.status = Some(status.as_u16());
    if let Err(error) = incoming.refuse(status, reason_headers(refusal)) {
        tracing::debug!(%error, "the client left before its answer");
    }
}

/// The headers that say why.
pub fn reason_headers(refusal: &Refusal) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-ambit-reason", HeaderValue::from_static(refusal.reason.label()));
    if let Some(policy) = refusal.policy.as_ref().and_then(|p| HeaderValue::from_str(&p.to_string()).ok()) {
        headers.insert("x-ambit-policy", policy);
    }
    headers
}

/// The status that a tunnel is refused with (wire contract, section 4; a known route's absence is 404 as in Envoy).
fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::AuthorityInvalid | Reason::NotConnect => StatusCode::BAD_REQUEST,
        Reason::ListenerNotFound | Reason::RouteNotFound => StatusCode::NOT_FOUND,
        _ if reason.is_policy() => StatusCode::FORBIDDEN,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn passed_on(headers: &HeaderMap, peer: &Peer) -> HeaderMap {
    const NAMES: [&str; 4] = ["baggage", "forwarded", "traceparent", "tracestate"];
    let mut kept = HeaderMap::new();
    for name in NAMES {
        if let Some(value) = headers.get(name) {
            kept.insert(name, value.clone());
        }
    }
    if let Some(certificate) = &peer.certificate {
        kept.insert(CLIENT_CERTIFICATE, certificate.clone());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_to_an_endpoint_tells_the_client_that_was_seen_and_not_what_it_says_itself() {
        let waypoint = "spiffe://cluster.local/ns/shop/sa/waypoint".parse().unwrap();
        let address = "127.0.0.1:1".parse().unwrap();
        let web = Peer::new(address, Some("spiffe://cluster.local/ns/shop/sa/web".parse().unwrap())).seen_by(&waypoint);
        let mut asked = HeaderMap::new();
        for (name, value) in [("baggage", "a=b"), ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/admin")] {
            asked.insert(name, HeaderValue::from_static(value));
        }
        let told = passed_on(&asked, &web);
        let mut expected = HeaderMap::new();
        expected.insert("baggage", HeaderValue::from_static("a=b"));
        expected.insert("x-forwarded-client-cert", web.certificate.clone().unwrap());
        assert_eq!(told, expected);
        assert!(!passed_on(&asked, &Peer::new(address, None)).contains_key("x-forwarded-client-cert"));
    }
}
