use ambit_api::security;
use prost::Message;

use super::*;
use crate::{
    policy::{Action, Scope as PolicyScope, StringMatch},
    service::{Mode, Scope},
    workload::{ApplicationTunnel, Tunnel},
};

fn workload() -> wire::Workload {
    wire::Workload {
        uid: "Kubernetes//Pod/shop/web".into(),
        name: "web".into(),
        namespace: "shop".into(),
        addresses: vec![vec![10, 0, 0, 1].into(), vec![0xfd; 16].into()],
        ..Default::default()
    }
}

fn service() -> wire::Service {
    wire::Service {
        name: "api".into(),
        namespace: "shop".into(),
        hostname: "api.shop.svc.cluster.local".into(),
        ..Default::default()
    }
}

fn gateway_at(address: &[u8], port: u32) -> wire::GatewayAddress {
    let address = wire::NetworkAddress { address: address.to_vec().into(), ..Default::default() };
    wire::GatewayAddress { destination: Some(wire::gateway_address::Destination::Address(address)), hbone_mtls_port: port }
}

#[test]
fn defaults_of_a_workload_are_those_of_the_contract() {
    let workload = Workload::try_from(workload()).unwrap();
    assert_eq!(workload.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/default");
    assert_eq!((workload.tunnel, workload.healthy, workload.capacity), (Tunnel::None, true, 1));
    assert_eq!(workload.addresses.len(), 2);
}

#[test]
fn a_workload_reads_in_full() {
    let ports = wire::PortList { ports: vec![wire::Port { service_port: 80, target_port: 8080, app_protocol: 2 }] };
    let wire = wire::Workload {
        trust_domain: "mesh.example".into(),
        service_account: "web".into(),
        tunnel_protocol: wire::TunnelProtocol::Hbone.into(),
        waypoint: Some(gateway_at(&[10, 96, 0, 9], 0)),
        services: [("shop/web.shop.svc.cluster.local".to_owned(), ports)].into(),
        authorization_policies: vec!["shop/p".into()],
        status: 1,
        capacity: Some(7),
        application_tunnel: Some(wire::ApplicationTunnel { protocol: 1, port: 15088 }),
        network_mode: 1,
        ..workload()
    };
    let workload = Workload::try_from(wire).unwrap();
    assert_eq!(workload.identity.to_string(), "spiffe://mesh.example/ns/shop/sa/web");
    assert_eq!((workload.tunnel, workload.healthy, workload.capacity, workload.host_network), (Tunnel::Hbone, false, 7, true));
    assert_eq!(workload.waypoint.unwrap().port, 15008);
    assert_eq!(workload.policies, [PolicyKey::new("shop", "p")]);
    assert_eq!(workload.application_tunnel, Some(ApplicationTunnel { proxy_protocol: true, port: 15088 }));
    let (key, ports) = workload.services.iter().next().unwrap();
    assert_eq!((key.to_string().as_str(), ports[0].target_port), ("shop/web.shop.svc.cluster.local", 8080));
}

#[test]
fn a_workload_that_cannot_be_understood_is_refused() {
    let with = |change: fn(&mut wire::Workload)| {
        let mut wire = workload();
        change(&mut wire);
        Workload::try_from(wire).unwrap_err().to_string()
    };
    assert_eq!(with(|w| w.uid.clear()), "uid is missing");
    assert_eq!(with(|w| w.addresses = vec![vec![1, 2, 3].into()]), "addresses has 3 bytes, which is no IP address");
    assert_eq!(with(|w| w.namespace = "Shop".into()), "namespace: namespace has the character 'S', which is not allowed there");
    assert_eq!(with(|w| w.tunnel_protocol = 9), "tunnel_protocol has the unknown value 9");
    assert_eq!(with(|w| w.tunnel_protocol = 2), "the legacy tunnel protocol is not supported");
    assert_eq!(with(|w| w.status = 5), "status has the unknown value 5");
    assert_eq!(with(|w| w.workload_type = 5), "workload_type has the unknown value 5");
    assert_eq!(with(|w| w.network_mode = 5), "network_mode has the unknown value 5");
    assert_eq!(with(|w| w.authorization_policies = vec!["p".into()]), "\"p\" is not of the form namespace/name");
    assert_eq!(
        with(|w| drop(w.services.insert("shop".into(), wire::PortList::default()))),
        "\"shop\" is not of the form namespace/hostname"
    );
    assert_eq!(with(|w| w.waypoint = Some(wire::GatewayAddress::default())), "destination of a gateway is missing");
    assert_eq!(with(|w| w.waypoint = Some(gateway_at(&[1, 2, 3, 4], 70000))), "hbone_mtls_port is 70000, which is no port");
    assert_eq!(with(|w| w.application_tunnel = Some(wire::ApplicationTunnel::default())), "application_tunnel.port is missing");
}

#[test]
fn a_service_reads_with_its_waypoints_and_preferences() {
    let weighted = |last: u8, weight| wire::WeightedWaypoint { destination: Some(gateway_at(&[10, 96, 0, last], 15008)), weight };
    let one = Service::try_from(wire::Service { waypoint: Some(gateway_at(&[10, 96, 0, 1], 15008)), ..service() }).unwrap();
    assert_eq!(one.waypoints.iter().map(|w| w.weight).collect::<Vec<_>>(), [1]);
    let two = wire::Service {
        waypoint: Some(gateway_at(&[10, 96, 0, 1], 15008)),
        weighted_waypoints: vec![weighted(2, 90), weighted(3, 10)],
        load_balancing: Some(wire::LoadBalancing { routing_preference: vec![6, 1, 2], mode: 2, health_policy: 1 }),
        ..service()
    };
    let two = Service::try_from(two).unwrap();
    assert_eq!(two.waypoints.iter().map(|w| w.weight).collect::<Vec<_>>(), [90, 10]);
    assert_eq!(two.load_balancing.preferences, [Scope::Network, Scope::Region, Scope::Zone]);
    assert!(two.load_balancing.mode == Mode::Failover && two.load_balancing.allow_unhealthy);
}

#[test]
fn a_service_that_cannot_be_understood_is_refused() {
    let with = |change: fn(&mut wire::Service)| {
        let mut wire = service();
        change(&mut wire);
        Service::try_from(wire).unwrap_err().to_string()
    };
    assert_eq!(with(|s| s.hostname.clear()), "hostname is missing");
    assert_eq!(
        with(|s| s.subject_alt_names = vec!["web".into()]),
        "subject_alt_names: not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
    );
    let range = wire::NetworkAddress { address: vec![10, 0, 0, 0].into(), length: Some(8), ..Default::default() };
    let mut ranged = service();
    ranged.addresses = vec![range];
    assert_eq!(Service::try_from(ranged).unwrap_err(), ConvertError::Unsupported("a virtual address that is a range"));
    assert_eq!(
        with(|s| s.weighted_waypoints = vec![wire::WeightedWaypoint::default()]),
        "weighted_waypoints.destination is missing"
    );
    let scope = |s: &mut wire::Service| {
        s.load_balancing = Some(wire::LoadBalancing { routing_preference: vec![0], ..Default::default() })
    };
    assert_eq!(with(scope), "load_balancing.routing_preference has the unknown value 0");
    let with_balancing = |load_balancing| Service::try_from(wire::Service { load_balancing: Some(load_balancing), ..service() });
    for (load_balancing, field) in [
        (wire::LoadBalancing { mode: 9, ..Default::default() }, "load_balancing.mode"),
        (wire::LoadBalancing { health_policy: 9, ..Default::default() }, "load_balancing.health_policy"),
    ] {
        assert_eq!(with_balancing(load_balancing).unwrap_err(), ConvertError::Enumeration { field, value: 9 });
    }
}

fn authorization() -> security::Authorization {
    let text = |match_type| security::StringMatch { match_type: Some(match_type) };
    use security::string_match::MatchType;
    let m = security::Match {
        principals: vec![
            text(MatchType::Exact("a".into())),
            text(MatchType::Prefix("b".into())),
            text(MatchType::Suffix("c".into())),
        ],
        not_principals: vec![text(MatchType::Presence(()))],
        source_ips: vec![security::Address { address: vec![10, 0, 0, 0].into(), length: 8 }],
        not_destination_ports: vec![443],
        service_accounts: vec![security::ServiceAccountMatch { namespace: "shop".into(), service_account: "web".into() }],
        ..Default::default()
    };
    security::Authorization {
        name: "p".into(),
        namespace: "shop".into(),
        scope: 2,
        action: 1,
        groups: vec![security::Group { rules: vec![security::Rules { matches: vec![m] }] }],
        ..Default::default()
    }
}

#[test]
fn a_policy_reads_in_full() {
    let policy = decode_policy("shop/p", &authorization().encode_to_vec()).unwrap();
    assert_eq!((policy.scope, policy.action, policy.dry_run), (PolicyScope::Selector, Action::Deny, false));
    let m = &policy.groups[0].clauses[0].matches[0];
    assert_eq!(m.principals, [StringMatch::Exact("a".into()), StringMatch::Prefix("b".into()), StringMatch::Suffix("c".into())]);
    assert_eq!(m.not_principals, [StringMatch::Presence]);
    assert_eq!(m.source_ips, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!((m.not_destination_ports.as_slice(), &*m.service_accounts[0].service_account), (&[443][..], "web"));
}

#[test]
fn a_policy_that_cannot_be_read_in_full_keeps_its_name_and_scope() {
    let with = |change: fn(&mut security::Match)| {
        let mut wire = authorization();
        change(&mut wire.groups[0].rules[0].matches[0]);
        *decode_policy("shop/p", &wire.encode_to_vec()).unwrap_err()
    };
    let bad = with(|m| m.source_ips[0].length = 33);
    assert_eq!((bad.key, bad.scope), (PolicyKey::new("shop", "p"), PolicyScope::Selector));
    assert_eq!(bad.error.to_string(), "source_ips has a prefix of 33 bits, longer than the address");
    assert_eq!(with(|m| m.principals[0].match_type = None).error, ConvertError::Missing("principals"));
    assert_eq!(
        with(|m| m.destination_ports = vec![65536]).error,
        ConvertError::Port { field: "destination_ports", value: 65536 }
    );
    let renamed = decode_policy("shop/q", &authorization().encode_to_vec()).unwrap_err();
    assert_eq!(renamed.key, PolicyKey::new("shop", "q"));
    let broken = decode_policy("shop/p", &[0xff, 0xff]).unwrap_err();
    assert_eq!(broken.scope, PolicyScope::Global, "whom it holds for is not to be told");
    let later = security::Authorization { scope: 9, ..authorization() };
    assert_eq!(decode_policy("shop/p", &later.encode_to_vec()).unwrap_err().scope, PolicyScope::Namespace);
    // What it says is no text, but whom it holds for can be read.
    let mut no_text = security::Authorization { scope: 2, ..Default::default() }.encode_to_vec();
    no_text.extend([0x0a, 1, 0xff]);
    assert_eq!(decode_policy("shop/p", &no_text).unwrap_err().scope, PolicyScope::Selector);
}

#[test]
fn a_condition_of_a_later_version_is_not_left_out() {
    let known = authorization();
    let field = |number: u8, inside: &[u8]| [&[number << 3 | 2, u8::try_from(inside.len()).unwrap()][..], inside].concat();
    // The policy around the bytes of a second match, which are put together by hand.
    let around = |matching: Vec<u8>| {
        let group = field(1, &field(2, &matching));
        [known.encode_to_vec(), field(5, &group)].concat()
    };
    let second =
        |bytes: &[u8]| decode_policy("shop/p", bytes).map(|policy| policy.groups[1].clauses[0].matches[0].not_understood);
    let port = security::Match { destination_ports: vec![80], ..Default::default() }.encode_to_vec();
    assert_eq!(second(&around(port.clone())), Ok(false));
    let more: [&[u8]; 4] = [
        // A field 14, an extension, a part of a text and one of a network that nobody knows.
        &[14 << 3, 1],
        &[13 << 3 | 2, 0],
        &field(3, &[&field(1, b"a")[..], &[9 << 3, 1][..]].concat()),
        &field(5, &[&field(1, &[10, 0, 0, 1])[..], &[2 << 3, 32, 3 << 3, 1][..]].concat()),
    ];
    for more in more {
        let bytes = around([&port, more].concat());
        assert_eq!(second(&bytes), Ok(true), "{more:?}");
        let policy = decode_policy("shop/p", &bytes).unwrap();
        assert!(!policy.not_understood && !policy.groups[0].clauses[0].matches[0].not_understood);
    }
    for more in [vec![8 << 3, 1], field(7, &[]), field(5, &[2 << 3, 1]), field(5, &field(1, &[3 << 3, 1]))] {
        let policy = decode_policy("shop/p", &[known.encode_to_vec(), more.clone()].concat()).unwrap();
        assert!(policy.not_understood, "{more:?}");
    }
    assert!(!decode_policy("shop/p", &known.encode_to_vec()).unwrap().not_understood);
    // Whom a DENY without rules denies is said in a way that is not known.
    let bare = security::Authorization { groups: Vec::new(), ..authorization() };
    let bytes = [bare.encode_to_vec(), vec![8 << 3, 1]].concat();
    assert_eq!(decode_policy("shop/p", &bytes).unwrap().groups.len(), 1);
}

#[test]
fn networks_are_read_in_every_form() {
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 0];
    let v6 = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let read = |address: &[u8], length| {
        let mut wire = authorization();
        wire.groups[0].rules[0].matches[0].source_ips = vec![security::Address { address: address.to_vec().into(), length }];
        let policy = decode_policy("shop/p", &wire.encode_to_vec());
        policy.map(|policy| policy.groups[0].clauses[0].matches[0].source_ips[0].to_string()).map_err(|bad| bad.error)
    };
    for (address, length, text) in [
        (&[10, 0, 0, 0][..], 8, "10.0.0.0/8"),
        (&[10, 0, 0, 0][..], 0, "10.0.0.0/0"),
        (&[10, 0, 0, 1][..], 32, "10.0.0.1/32"),
        (&mapped[..], 104, "10.0.0.0/8"),
        (&mapped[..], 128, "10.0.0.0/32"),
        (&mapped[..], 96, "10.0.0.0/0"),
        (&mapped[..], 95, "::ffff:10.0.0.0/95"),
        (&v6[..], 0, "fd00::/0"),
        (&v6[..], 128, "fd00::/128"),
    ] {
        assert_eq!(read(address, length), Ok(text.to_owned()));
    }
    for (address, length) in
        [(&[10, 0, 0, 0][..], 33), (&v6[..], 129), (&mapped[..], 129), (&v6[..], 256), (&[10, 0, 0, 0][..], u32::MAX)]
    {
        assert_eq!(read(address, length), Err(ConvertError::Prefix { field: "source_ips", length }));
    }
    for length in [0, 3, 5, 17] {
        assert_eq!(read(&vec![1; length], 1), Err(ConvertError::IpAddress { field: "source_ips", length }));
    }
}

#[test]
fn an_address_under_another_name_is_refused() {
    let address = wire::Address { r#type: Some(wire::address::Type::Service(service())) };
    assert!(Entry::decode("shop/api.shop.svc.cluster.local", &address.encode_to_vec()).is_ok());
    assert!(matches!(Entry::decode("shop/web", &address.encode_to_vec()), Err(ConvertError::Name { .. })));
    assert_eq!(Entry::decode("x", &[]), Err(ConvertError::Missing("type")));
    assert!(matches!(Entry::decode("x", &[0xff]), Err(ConvertError::Decode(_))));
}
