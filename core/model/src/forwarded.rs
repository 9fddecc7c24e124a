//! Whom a waypoint says it carries a connection for: `x-forwarded-client-cert` of its CONNECT, in Envoy's form
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#x-forwarded-client-cert>).
//!
//! Whoever has a certificate of the mesh can write a header, and a claim is as good as who makes it. So it is believed of a peer that has proven
//! to be a waypoint that connections to the destination have to pass, and of nobody else. No policy goes by it.

use ambit_identity::SpiffeId;

use crate::{
    address::{GatewayAddress, GatewayDestination, ServiceKey},
    state::MeshState,
    workload::Workload,
};

/// The header.
pub const HEADER: &str = "x-forwarded-client-cert";

/// Room for two identities of the greatest length that they may have, and what is written around them.
const LONGEST: usize = 2048;

/// The client on whose behalf `peer`, who has proven to be this, opens a tunnel to `workload`, by what it says in the header; nothing when
/// it is none of the waypoints of `workload` or of its services, or says something else than such a waypoint does.
#[must_use]
pub fn client(state: &MeshState, workload: &Workload, peer: &SpiffeId, said: &str) -> Option<SpiffeId> {
    let client = read(said, peer)?;
    is_waypoint_of(state, workload, peer).then_some(client)
}

/// Reads `By=<the peer>;URI=<the client>`, of which the first may be missing. Only identities come out of it, and these have no characters that
/// could do harm in a log. What has more in it, or something twice, is not understood, and nothing of it is taken.
fn read(said: &str, peer: &SpiffeId) -> Option<SpiffeId> {
    if said.len() > LONGEST {
        return None;
    }
    let (mut by, mut client): (Option<SpiffeId>, Option<SpiffeId>) = (None, None);
    for pair in said.split(';') {
        let (key, id) = pair.split_once('=')?;
        let known = match key {
            "By" => &mut by,
            "URI" => &mut client,
            _ => return None,
        };
        if known.replace(id.parse().ok()?).is_some() {
            return None;
        }
    }
    // Whom somebody else has seen is not for this peer to say.
    client.filter(|_| by.is_none_or(|by| by == *peer))
}

/// Whether `peer` is a waypoint of `workload`, or of a service that it is an endpoint of.
fn is_waypoint_of(state: &MeshState, workload: &Workload, peer: &SpiffeId) -> bool {
    let services = workload.services.keys().filter_map(|key| state.service(key));
    let of_services = services.flat_map(|service| service.waypoints.iter().map(|weighted| &weighted.waypoint));
    workload.waypoint.as_deref().into_iter().chain(of_services).any(|waypoint| has_replica(state, waypoint, peer))
}

/// Whether `peer` is the identity of a replica of `waypoint`.
fn has_replica(state: &MeshState, waypoint: &GatewayAddress, peer: &SpiffeId) -> bool {
    let has = |service: &ServiceKey| state.endpoints(service).any(|replica| replica.identity == *peer);
    match &waypoint.destination {
        GatewayDestination::Service(key) => has(key),
        GatewayDestination::Address(address) => match state.service_at(address) {
            Some(service) => has(&service.key),
            None => state.workload_at(address).is_some_and(|replica| replica.identity == *peer),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        address::{Network, NetworkAddress},
        service::WeightedWaypoint,
        test_support::{endpoint_of, key, service, workload},
    };

    fn id(name: &str) -> SpiffeId {
        format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap()
    }

    fn waypoint(destination: GatewayDestination) -> GatewayAddress {
        GatewayAddress { destination, port: 15008 }
    }

    fn at(ip: &str) -> GatewayAddress {
        waypoint(GatewayDestination::Address(NetworkAddress::new(Network::default(), ip.parse().unwrap())))
    }

    /// `api`, behind a service that asks for this waypoint, or asking for it itself; a waypoint `gw`, and another one that nobody asks for.
    fn mesh(of_service: Option<GatewayAddress>, of_pod: Option<GatewayAddress>) -> (MeshState, Workload) {
        let mut state = MeshState::new();
        let waypoints = of_service.map(|waypoint| WeightedWaypoint { waypoint, weight: 1 }).into_iter().collect();
        let mut api = endpoint_of(workload("api", "10.0.0.2"), "api");
        api.waypoint = of_pod.map(Arc::new);
        state.insert_service(crate::service::Service { waypoints, ..service("api", &["10.96.0.1"]) });
        state.insert_service(service("gw", &["10.96.0.9"]));
        state.insert_service(service("other", &["10.96.0.8"]));
        state.insert_workload(endpoint_of(workload("gw", "10.0.0.9"), "gw"));
        state.insert_workload(endpoint_of(workload("other", "10.0.0.8"), "other"));
        state.insert_workload(api.clone());
        (state, api)
    }

    fn by_gw() -> String {
        format!("By={};URI={}", id("gw"), id("web"))
    }

    #[test]
    fn a_waypoint_of_the_service_or_of_the_pod_says_whom_it_carries_for() {
        let by_key = waypoint(GatewayDestination::Service(key("gw")));
        for asked in [at("10.96.0.9"), at("10.0.0.9"), by_key] {
            for (of_service, of_pod) in [(Some(asked.clone()), None), (None, Some(asked.clone()))] {
                let (state, api) = mesh(of_service, of_pod);
                let said = |peer, said: &str| client(&state, &api, &id(peer), said);
                assert_eq!(said("gw", &by_gw()), Some(id("web")), "{asked}");
                assert_eq!(said("gw", &format!("URI={}", id("web"))), Some(id("web")), "{asked}");
                // The same from others: another waypoint, a client, the pod itself.
                for peer in ["other", "web", "api"] {
                    let own = format!("By={};URI={}", id(peer), id("admin"));
                    assert_eq!((said(peer, &own), said(peer, &by_gw())), (None, None), "{peer} at {asked}");
                }
            }
        }
        let (state, api) = mesh(None, None);
        assert_eq!(client(&state, &api, &id("gw"), &by_gw()), None, "nobody asks for a waypoint");
    }

    #[test]
    fn what_a_waypoint_does_not_write_is_not_taken() {
        let (state, api) = mesh(Some(at("10.96.0.9")), None);
        let (gw, web) = (id("gw"), id("web"));
        for said in [
            String::new(),
            "URI=".to_owned(),
            "web".to_owned(),
            format!("By={gw}"),
            format!("By={};URI={web}", id("other")),
            format!("By={gw};By={gw};URI={web}"),
            format!("URI={web};URI={web}"),
            format!("By={gw};URI={web};Hash=1"),
            format!("By={gw};URI={web},By={gw};URI={web}"),
            format!("By={gw};URI=\"{web}\""),
            format!("By={gw};URI={web} reason=ok"),
            format!("By={gw};URI={web}\nreason=ok"),
            format!("By={gw};URI={web}\u{7f}"),
            format!("By={gw};URI={web}é"),
            format!("By={gw};URI={web}{}", "a".repeat(LONGEST)),
        ] {
            assert_eq!(client(&state, &api, &gw, &said), None, "{said:?}");
        }
    }

    #[test]
    fn two_identities_as_long_as_they_may_be_have_room() {
        let longest = format!("spiffe://{}/ns/{}/sa/{}", "d".repeat(255), "n".repeat(63), "a".repeat(253));
        let gw: SpiffeId = longest.parse().unwrap();
        let client = read(&format!("By={gw};URI={gw}"), &gw);
        assert_eq!(client, Some(gw));
    }
}
