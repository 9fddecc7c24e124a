//! The other end of a tunnel: who it has proven to be, and what it says about itself.

use std::{net::SocketAddr, sync::Arc};

use ambit_identity::SpiffeId;
use http::{HeaderMap, HeaderValue};

use crate::observe::hashed;

/// The most of a peer's own words that are kept, in characters.
const LONGEST: usize = 128;

/// The client's side of a tunnel.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Its proven identity; none when the handshake failed.
    pub identity: Option<SpiffeId>,
    /// The identity as rules compare it, `spiffe://…`.
    pub uri: Option<Arc<str>>,
    /// The workload it says it is (`baggage`). Never used to decide anything.
    pub workload: Option<Arc<str>>,
    /// The service it says it belongs to.
    pub canonical_service: Option<Arc<str>>,
    /// The version it says it is.
    pub canonical_revision: Option<Arc<str>>,
    /// What whoever comes next is told of it: its identity, and who has seen it proven.
    pub certificate: Option<HeaderValue>,
    /// It proves no identity, and TLS ends with us.
    pub in_tls: bool,
    /// Of its identity and all that it says.
    pub hash: u64,
}

impl Peer {
    /// A peer that has proven its identity, or has not.
    pub fn new(address: SocketAddr, identity: Option<SpiffeId>) -> Self {
        let uri = identity.as_ref().map(|id| id.to_string().into());
        let (workload, canonical_service, canonical_revision) = (None, None, None);
        let certificate = None;
        let peer =
            Self { address, identity, uri, workload, canonical_service, canonical_revision, certificate, in_tls: false, hash: 0 };
        peer.with_hash()
    }

    /// The same peer, which has proven itself to this waypoint. Written once for all that comes from it, in the form of Envoy's
    /// `x-forwarded-client-cert`; nothing in a SPIFFE id needs quotes there.
    #[must_use]
    pub fn seen_by(self, waypoint: &SpiffeId) -> Self {
        self.said(&format!("By={waypoint};"))
    }

    /// The same peer, where it is not known which waypoint it has proven itself to.
    #[must_use]
    pub fn seen(self) -> Self {
        self.said("")
    }

    fn said(mut self, by: &str) -> Self {
        let text = self.uri.as_deref().map(|uri| format!("{by}URI={uri}"));
        self.certificate = text.and_then(|text| HeaderValue::try_from(text).ok());
        self
    }

    fn with_hash(mut self) -> Self {
        self.hash = hashed(&(&self.uri, &self.workload, &self.canonical_service, &self.canonical_revision));
        self
    }

    /// The same peer with what the CONNECT says about it (wire contract, section 4: `baggage`).
    #[must_use]
    pub fn described(&self, headers: &HeaderMap) -> Self {
        let mut peer = self.clone();
        let Some(baggage) = headers.get("baggage").and_then(|v| v.to_str().ok()) else { return peer };
        for (key, value) in baggage.split(',').filter_map(|pair| pair.trim().split_once('=')) {
            let value = || Some(value.split(';').next().unwrap_or_default().chars().take(LONGEST).collect::<String>().into());
            match key.trim() {
                "k8s.deployment.name" | "k8s.job.name" | "k8s.cronjob.name" => peer.workload = value(),
                "k8s.pod.name" if peer.workload.is_none() => peer.workload = value(),
                "service.name" => peer.canonical_service = value(),
                "service.version" => peer.canonical_revision = value(),
                _ => {}
            }
        }
        peer.with_hash()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_peer_is_its_proven_identity_and_who_has_seen_it() {
        let waypoint = "spiffe://cluster.local/ns/shop/sa/waypoint".parse().unwrap();
        let address = "127.0.0.1:1".parse().unwrap();
        let web = Peer::new(address, Some("spiffe://cluster.local/ns/shop/sa/web".parse().unwrap())).seen_by(&waypoint);
        let expected = "By=spiffe://cluster.local/ns/shop/sa/waypoint;URI=spiffe://cluster.local/ns/shop/sa/web";
        assert_eq!(web.certificate.as_ref().unwrap(), expected);
        let mut headers = HeaderMap::new();
        headers.insert("baggage", HeaderValue::from_static("service.name=admin"));
        assert_eq!(web.described(&headers).certificate.unwrap(), expected, "whatever it says of itself");
        assert!(Peer::new(address, None).seen_by(&waypoint).certificate.is_none());
    }

    #[test]
    fn baggage_describes_the_workload_and_the_deployment_wins_over_the_pod() {
        let mut headers = HeaderMap::new();
        let baggage =
            "k8s.cluster.name=Kubernetes,k8s.pod.name=web-1, k8s.deployment.name=web;p=1,service.name=web,service.version=v1";
        headers.insert("baggage", baggage.parse().unwrap());
        let peer = Peer::new("127.0.0.1:1".parse().unwrap(), None).described(&headers);
        assert_eq!(peer.workload.as_deref(), Some("web"));
        let other = Peer::new(peer.address, None);
        assert!(peer.hash != other.hash && peer.hash == other.described(&headers).hash, "its metrics are of what it says");
        assert_eq!(peer.canonical_revision.as_deref(), Some("v1"));
    }
}
