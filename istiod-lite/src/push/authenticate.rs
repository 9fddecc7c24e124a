//! Who may see which view over xDS.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use ambit_xds::{
    Node, node_string,
    server::{Authenticate, seen_from},
};
use tonic::{Status, metadata::MetadataMap};

use super::{CLIENT_VIEW, Clients, NODE_VIEW, Waypoints, resources::gateway_of, waypoint_view};
use crate::{
    ca::{Caller, Refusals, Tokens, Who, claimed, short},
    config::Account,
    deploy::{MANAGED_BY, MANAGER},
    index::{Index, label},
    mesh::Mesh,
    source::NamespacedName,
    translate::waypoint::Place,
};

/// Decides the view by the identity of the token: a node account gets the addresses and policies of the whole mesh, a waypoint gets
/// the configuration of its own Gateway, and every account of the cluster where services are, as a gRPC client does. What a node says of
/// itself only chooses among what its identity may see.
pub struct XdsAuthenticator {
    tokens: Tokens,
    node_accounts: BTreeSet<Account>,
    mesh: Arc<Mesh>,
    clients: Clients,
    refusals: Refusals,
    waypoints: Waypoints,
}

impl XdsAuthenticator {
    /// Node proxies are those that run under one of `node_accounts`; `clients` is told when a gRPC client comes, `waypoints` from where a
    /// waypoint does; `refusals` says how much is logged about who is refused.
    #[must_use]
    pub fn new(
        tokens: Tokens,
        node_accounts: BTreeSet<Account>,
        mesh: Arc<Mesh>,
        (clients, waypoints): (Clients, Waypoints),
        refusals: Refusals,
    ) -> Self {
        Self { tokens, node_accounts, mesh, clients, refusals, waypoints }
    }

    /// Whether the caller runs the waypoint of this Gateway: its pod is labelled so, or its service account bears the Gateway's name
    /// (as generated for waypoints). The configuration of a Gateway at the edge of the mesh has private keys in it: it is for its service account
    /// alone, whatever labels a pod has.
    fn runs(&self, caller: &Caller, gateway: &str) -> bool {
        let (index, name) = (self.mesh.index(), NamespacedName::new(caller.account.namespace.as_str(), gateway));
        match index.objects().gateways.get(&name) {
            Some(held) if index.is_ingress(held) => is_its_own(&index, caller, &name),
            // One that is not there yet may come to have keys.
            held => caller.account.name.as_str() == gateway || (held.is_some() && is_labelled(&index, caller, gateway)),
        }
    }
}

/// Where the caller's pod runs; `None` where that is not known.
fn place_of(index: &Index, caller: &Caller) -> Option<Place> {
    let of_pod = caller.pod.as_ref().and_then(|token| {
        let name = NamespacedName::new(caller.account.namespace.as_str(), token.name.as_str());
        let pod = index.objects().pods.get(&name)?;
        let same = pod.metadata.uid.as_deref().unwrap_or_default() == token.uid;
        pod.spec.as_ref().filter(|_| same)?.node_name.as_deref()
    });
    Place::of_node(index, of_pod.or(caller.node.as_deref())?)
}

/// Whether the caller's account is that which was made for the Gateway. One of its name that others run under (`default`, say) is not, and
/// nothing is deployed for the Gateway beside it. Without Kubernetes accounts need not be there.
fn is_its_own(index: &Index, caller: &Caller, gateway: &NamespacedName) -> bool {
    let bears = caller.account.namespace.as_str() == &*gateway.namespace && caller.account.name.as_str() == &*gateway.name;
    bears
        && index.objects().service_accounts.get(gateway).is_none_or(|account| {
            let label = |key: &str| account.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
            label(label::GATEWAY_NAME) == Some(&*gateway.name) && label(MANAGED_BY) == Some(MANAGER)
        })
}

/// Whether the caller's pod bears the label of the Gateway.
fn is_labelled(index: &Index, caller: &Caller, gateway: &str) -> bool {
    caller.pod.as_ref().is_some_and(|token| {
        let name = NamespacedName::new(caller.account.namespace.as_str(), token.name.as_str());
        index.objects().pods.get(&name).is_some_and(|pod| {
            let labels = pod.metadata.labels.as_ref();
            crate::index::service_account(pod) == caller.account.name.as_str()
                && pod.metadata.uid.as_deref().unwrap_or_default() == token.uid
                && labels.and_then(|labels| labels.get(label::GATEWAY_NAME)).is_some_and(|name| name == gateway)
        })
    })
}

impl Authenticate for XdsAuthenticator {
    type Caller = Caller;

    async fn caller(&self, metadata: &MetadataMap, peer: Option<SocketAddr>) -> Result<Caller, Status> {
        self.tokens.caller(metadata, peer.map(|peer| peer.ip())).await.map_err(|error| {
            metrics::counter!("istiod_lite_discovery_streams_refused_total").increment(1);
            let who = Who::Claimed(claimed(metadata));
            if let Some(left_out) = self.refusals.line(peer, &who) {
                let (error, peer) = (short(&error.to_string()), peer.map(tracing::field::display));
                tracing::warn!(error, caller = %who, peer, left_out, "a discovery stream was refused");
            }
            error.status()
        })
    }

    async fn view(&self, caller: &Caller, node: &Node) -> Result<String, Status> {
        let refused = |reason: String| {
            metrics::counter!("istiod_lite_discovery_streams_refused_total").increment(1);
            let reason = short(&reason);
            if let Some(left_out) = self.refusals.line(None, &Who::Verified(caller.clone())) {
                let node = short(&node.id);
                tracing::warn!(%caller, node, reason, left_out, "a discovery stream was refused");
            }
            Err(Status::permission_denied(reason))
        };
        if node_string(node, "GENERATOR") == Some("grpc") {
            self.clients.enter(&self.mesh).await;
            return Ok(CLIENT_VIEW.to_owned());
        }
        match node.id.split('~').next().unwrap_or_default() {
            "ztunnel" if self.node_accounts.contains(&caller.account) => Ok(NODE_VIEW.to_owned()),
            "ztunnel" => refused(format!("service account {} is not a node account", caller.account)),
            "waypoint" => {
                let Some(gateway) = node_string(node, "GATEWAY_NAME").or_else(|| node_string(node, "NAME")) else {
                    return refused("the node's metadata names no GATEWAY_NAME".to_owned());
                };
                if self.runs(caller, gateway) {
                    let gateway = NamespacedName::new(caller.account.namespace.as_str(), gateway);
                    let place = place_of(&self.mesh.index(), caller);
                    let place = place.or_else(|| node.locality.as_ref().and_then(Place::told));
                    return Ok(match place {
                        Some(place) => self.waypoints.enter(&self.mesh, &gateway, place),
                        None => waypoint_view(&gateway),
                    });
                }
                refused(format!("service account {} does not run the waypoint {gateway}", caller.account))
            }
            kind => refused(format!("nodes of kind {kind:?} are not served")),
        }
    }

    /// A Gateway may have come to the edge of the mesh since, and its configuration to have private keys in it.
    fn may_see(&self, caller: &Caller, view: &str) -> bool {
        let Some(gateway) = gateway_of(view) else { return true };
        let index = self.mesh.index();
        index.ingress(&gateway).is_none() || is_its_own(&index, caller, &gateway)
    }

    /// The node of its pod may have another zone since, or be known only now.
    fn stands(&self, caller: &Caller, view: &str) -> bool {
        let Some(gateway) = gateway_of(view) else { return true };
        let Some(place) = place_of(&self.mesh.index(), caller) else { return true };
        let everywhere = waypoint_view(&gateway);
        view == seen_from(&everywhere, &place.key()) || (view == everywhere && !self.waypoints.has_room(&gateway))
    }
}
