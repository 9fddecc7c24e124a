//! What a random world is made of.

use ambit_api::{
    security::{Action, Authorization, Group, Match, Rules, Scope, StringMatch, string_match::MatchType},
    workload::{
        self, ApplicationTunnel, GatewayAddress, LoadBalancing, Locality, NamespacedHostname, gateway_address::Destination,
        load_balancing,
    },
};
use fastrand::Rng;

use super::GATEWAY;
use crate::mesh::{Mesh, network_address};

/// What another world may say of a workload.
pub fn change(random: &mut Rng, mesh: &Mesh, workload: &mut workload::Workload) {
    workload.services.clear();
    workload.status = i32::from(random.u8(..4) == 0);
    workload.capacity = Some([0, 1, 1, 3][random.usize(..4)]);
    let policies = [(random.u8(..8) == 0, "shop/p3"), (random.u8(..24) == 0, "shop/never-sent")];
    workload.authorization_policies =
        policies.into_iter().filter(|(named, _)| *named).map(|(_, policy)| policy.to_owned()).collect();
    let place = |random: &mut Rng| ["one", "two"][random.usize(..2)].to_owned();
    workload.locality = Some(Locality { region: place(random), zone: place(random), subzone: String::new() });
    workload.waypoint = which_waypoint(random, mesh).filter(|_| random.u8(..4) == 0);
    let tunnel = ApplicationTunnel { protocol: random.u8(..2).into(), port: 8080 };
    workload.application_tunnel = (random.u8(..16) == 0).then_some(tunnel);
}

pub fn which_waypoint(random: &mut Rng, mesh: &Mesh) -> Option<GatewayAddress> {
    let at = |number| Destination::Address(network_address(mesh.vips(number)[usize::from(number % 2)]));
    let destination = match random.u8(..8) {
        0 => at(GATEWAY),
        1 => at(99),
        2 => Destination::Hostname(NamespacedHostname { namespace: "shop".into(), hostname: "gw.shop.waypoint.invalid".into() }),
        _ => return None,
    };
    Some(GatewayAddress { destination: Some(destination), hbone_mtls_port: 15008 })
}

pub fn balancing(random: &mut Rng) -> Option<LoadBalancing> {
    use load_balancing::Scope;
    let mode: i32 = [0, 1, 2][random.usize(..3)];
    let scopes = [Scope::Network, Scope::Region, Scope::Zone, Scope::Node].map(i32::from);
    let routing_preference = if mode == 0 { Vec::new() } else { scopes[random.usize(..4)..].to_vec() };
    random.bool().then(|| LoadBalancing { routing_preference, mode, health_policy: random.u8(..2).into() })
}

pub fn policy(random: &mut Rng, name: &str) -> Authorization {
    let groups =
        (0..random.usize(..3)).map(|_| Group { rules: (0..random.usize(..3)).map(|_| rules(random)).collect() }).collect();
    // A policy that cannot be read denies where it would hold.
    let action = if random.u8(..16) == 0 { 9 } else { [Action::Allow, Action::Deny][random.usize(..2)].into() };
    let scope = match name {
        "p3" => Scope::WorkloadSelector,
        "p2" => Scope::Global,
        _ => Scope::Namespace,
    };
    let dry_run = random.u8(..4) == 0;
    Authorization {
        name: name.into(),
        namespace: "shop".into(),
        scope: scope.into(),
        action,
        groups,
        dry_run,
        ..Default::default()
    }
}

fn rules(random: &mut Rng) -> Rules {
    Rules { matches: (0..random.usize(..3)).map(|_| one_match(random)).collect() }
}

fn one_match(random: &mut Rng) -> Match {
    let text = |match_type| vec![StringMatch { match_type: Some(match_type) }];
    let principal = |random: &mut Rng| {
        let who = ["web", "near", "legacy"][random.usize(..3)];
        text(match random.u8(..3) {
            0 => MatchType::Exact(format!("cluster.local/ns/shop/sa/{who}")),
            1 => MatchType::Suffix(format!("/{who}")),
            _ => MatchType::Presence(()),
        })
    };
    let mut one = Match::default();
    match random.u8(..7) {
        0 => one.principals = principal(random),
        1 => one.not_principals = principal(random),
        2 => one.namespaces = text(MatchType::Exact(["shop", "other"][random.usize(..2)].to_owned())),
        3 => one.not_namespaces = text(MatchType::Prefix(["sh", "ot"][random.usize(..2)].to_owned())),
        4 => one.destination_ports = vec![[80, 8080][random.usize(..2)]],
        5 => one.not_destination_ports = vec![8080],
        // An empty match, which matches nothing.
        _ => {}
    }
    one
}
