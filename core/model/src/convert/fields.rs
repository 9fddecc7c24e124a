//! No field of a workload or of a service gets lost on the way in.
//!
//! The patterns name every field of the generated messages, so that a new one does not compile until it has a line here.

use ambit_api::workload as wire;

use super::*;

fn base_workload() -> wire::Workload {
    wire::Workload { uid: "Kubernetes//Pod/shop/web".into(), name: "web".into(), namespace: "shop".into(), ..Default::default() }
}

fn gateway() -> Option<wire::GatewayAddress> {
    let address = wire::NetworkAddress { address: vec![10, 0, 0, 9].into(), ..Default::default() };
    Some(wire::GatewayAddress { destination: Some(wire::gateway_address::Destination::Address(address)), hbone_mtls_port: 0 })
}

fn extension() -> Vec<wire::Extension> {
    vec![wire::Extension { name: "example.com/x".into(), config: None }]
}

#[test]
fn every_field_of_a_workload_makes_a_difference() {
    let changed = wire::Workload {
        uid: "Kubernetes//Pod/shop/other".into(),
        name: "other".into(),
        namespace: "other".into(),
        addresses: vec![vec![10, 0, 0, 1].into()],
        hostname: "example.com".into(),
        network: "far".into(),
        tunnel_protocol: 1,
        trust_domain: "mesh.example".into(),
        service_account: "web".into(),
        waypoint: gateway(),
        network_gateway: gateway(),
        node: "node-1".into(),
        canonical_name: "web".into(),
        canonical_revision: "v1".into(),
        workload_type: 2,
        workload_name: "web".into(),
        native_tunnel: true,
        application_tunnel: Some(wire::ApplicationTunnel { protocol: 0, port: 1 }),
        services: [("shop/web".to_owned(), wire::PortList::default())].into(),
        authorization_policies: vec!["shop/p".into()],
        status: 1,
        cluster_id: "other".into(),
        locality: Some(wire::Locality { region: "r".into(), ..Default::default() }),
        network_mode: 1,
        extensions: extension(),
        capacity: Some(7),
    };
    macro_rules! check {
        ($($field:ident)*) => {
            let wire::Workload { $($field),* } = changed;
            $(
                let one = wire::Workload { $field, ..base_workload() };
                let (before, after) = (Workload::try_from(base_workload()), Workload::try_from(one));
                assert_ne!(before.unwrap(), after.unwrap(), stringify!($field));
            )*
        };
    }
    check!(uid name namespace addresses hostname network tunnel_protocol trust_domain service_account waypoint network_gateway node
        canonical_name canonical_revision workload_type workload_name native_tunnel application_tunnel services
        authorization_policies status cluster_id locality network_mode extensions capacity);
}

#[test]
fn every_field_of_a_service_makes_a_difference() {
    let base = || wire::Service { namespace: "shop".into(), hostname: "web.shop".into(), ..Default::default() };
    let port = wire::Port { service_port: 80, target_port: 8080, app_protocol: 0 };
    let address = wire::NetworkAddress { address: vec![10, 96, 0, 1].into(), ..Default::default() };
    let changed = wire::Service {
        name: "web".into(),
        namespace: "other".into(),
        hostname: "other.shop".into(),
        addresses: vec![address],
        ports: vec![port],
        subject_alt_names: vec!["spiffe://cluster.local/ns/shop/sa/web".into()],
        waypoint: gateway(),
        load_balancing: Some(wire::LoadBalancing { mode: 1, ..Default::default() }),
        ip_families: 1,
        extensions: extension(),
        canonical: true,
        ingress_use_waypoint: true,
        weighted_waypoints: vec![wire::WeightedWaypoint { destination: gateway(), weight: 1 }],
        visibility: 1,
    };
    // Of ingress gateways, which a node proxy is not.
    let not_used = ["ingress_use_waypoint"];
    macro_rules! check {
        ($($field:ident)*) => {
            let wire::Service { $($field),* } = changed;
            $(
                let one = wire::Service { $field, ..base() };
                let (before, after) = (Service::try_from(base()), Service::try_from(one));
                assert_eq!(before.unwrap() == after.unwrap(), not_used.contains(&stringify!($field)), stringify!($field));
            )*
        };
    }
    check!(name namespace hostname addresses ports subject_alt_names waypoint load_balancing ip_families extensions canonical
        ingress_use_waypoint weighted_waypoints visibility);
}
