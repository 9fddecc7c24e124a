//! Resources of the control plane: what is read is decided by, and what is not is refused alone and opens nothing.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ambit_api::{security, type_url, workload};
use ambit_fuzz::{Corpus, Target};
use ambit_model::{
    authorize::{Connection, authorize},
    convert::{Entry, claimed_addresses},
    plan::{Plan, Request, Unobserved, plan},
    resolve::{Client, Family, resolve},
    state::MeshState,
};
use ambit_xds::{Any, Rejected, Resource, client::Handler};
use fastrand::Rng;
use prost::Message;
use ztunnel::state::{self, Shared};

use crate::corpus;

/// The policy that is put to the test, and a workload that it may hold for.
const POLICY: &str = "shop/tried";

fn resource(type_url: &str, name: &str, value: Vec<u8>) -> Resource {
    let body = Any { type_url: type_url.to_owned(), value };
    Resource { name: name.to_owned(), version: String::new(), body }
}

fn tell_address(shared: &Arc<Shared>, name: &str, value: Vec<u8>) -> Vec<Rejected> {
    state::addresses(Arc::clone(shared)).apply(vec![resource(type_url::ADDRESS, name, value)], Vec::new())
}

fn tell_policy(shared: &Arc<Shared>, name: &str, value: Vec<u8>) -> Vec<Rejected> {
    state::policies(Arc::clone(shared)).apply(vec![resource(type_url::AUTHORIZATION, name, value)], Vec::new())
}

fn web() -> workload::Workload {
    workload::Workload {
        uid: "Kubernetes//Pod/shop/web".to_owned(),
        name: "web".to_owned(),
        namespace: "shop".to_owned(),
        addresses: vec![vec![10, 0, 0, 5].into(), [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5].to_vec().into()],
        service_account: "web".to_owned(),
        tunnel_protocol: workload::TunnelProtocol::Hbone.into(),
        authorization_policies: vec![POLICY.to_owned()],
        node: "node-1".to_owned(),
        cluster_id: "Kubernetes".to_owned(),
        locality: Some(workload::Locality { region: "eu".to_owned(), zone: "eu-1".to_owned(), subzone: "a".to_owned() }),
        services: [("shop/api.shop.svc.cluster.local".to_owned(), workload::PortList { ports: vec![port()] })].into(),
        capacity: Some(3),
        ..Default::default()
    }
}

fn port() -> workload::Port {
    workload::Port { service_port: 80, target_port: 8080, app_protocol: 1 }
}

fn vip() -> workload::NetworkAddress {
    workload::NetworkAddress { address: vec![10, 96, 0, 1].into(), length: Some(32), ..Default::default() }
}

fn service() -> workload::Service {
    let gateway = workload::gateway_address::Destination::Address(vip());
    workload::Service {
        name: "api".to_owned(),
        namespace: "shop".to_owned(),
        hostname: "api.shop.svc.cluster.local".to_owned(),
        addresses: vec![vip()],
        ports: vec![port()],
        waypoint: Some(workload::GatewayAddress { destination: Some(gateway), hbone_mtls_port: 15008 }),
        load_balancing: Some(workload::LoadBalancing { routing_preference: vec![4, 2], mode: 2, health_policy: 0 }),
        canonical: true,
        ..Default::default()
    }
}

fn address(entry: workload::address::Type) -> Vec<u8> {
    workload::Address { r#type: Some(entry) }.encode_to_vec()
}

/// Decides everything that there is to decide, for some connection.
fn decide(mesh: &MeshState, dice: &mut Rng) {
    for source in mesh.workloads() {
        let ips = mesh.workloads().flat_map(|workload| workload.addresses.iter().copied());
        let vips = mesh.services().flat_map(|service| service.vips.iter().map(|vip| vip.ip));
        for ip in ips.chain(vips).chain([IpAddr::from([10, 96, 0, 1])]) {
            let destination = SocketAddr::new(ip, [80, 8080, 15008, dice.u16(..)][dice.usize(..4)]);
            let request = Request { source, destination, random: dice.u64(..), avoid: &[], observed: &Unobserved };
            drop(plan(mesh, request));
            let client = dice.bool().then(|| source.identity.clone());
            let _either_way = authorize(mesh, source, &Connection { source: client, source_ip: ip, destination });
        }
        let client = Client { namespace: &source.namespace, network: &source.network, domain: "cluster.local" };
        for name in ["api", "api.shop.svc.cluster.local.", "web.api.shop", "*.a.b"] {
            let family = if dice.bool() { Family::V4 } else { Family::V6 };
            drop(resolve(mesh, client, name, family));
        }
    }
}

pub fn addresses() {
    let mut external = service();
    external.addresses.clear();
    external.hostname = "*.example.com".to_owned();
    let corpus = Corpus::read(corpus("addresses.txt"))
        .with("a workload", address(workload::address::Type::Workload(web())))
        .with("a service", address(workload::address::Type::Service(service())))
        .with("a service without address", address(workload::address::Type::Service(external)));
    let tokens: [&[u8]; 8] = [
        b"\x08\x01",
        b"\x12\x00",
        b"\x1a\x04\x0a\x00\x00\x01",
        b"\x22\x00",
        b"\x50\x01",
        b"\xff\xff\xff\xff\x0f",
        b"*",
        b"\xfa\x01",
    ];
    Target::new("addresses", corpus).least_read(0.01).tokens(tokens).run(|bytes, dice| {
        let shared = Arc::new(Shared::default());
        assert!(tell_address(&shared, &web().uid, address(workload::address::Type::Workload(web()))).is_empty());
        let name = match workload::Address::decode(bytes).ok().and_then(|address| address.r#type) {
            Some(workload::address::Type::Workload(it)) => it.uid,
            Some(workload::address::Type::Service(it)) => format!("{}/{}", it.namespace, it.hostname),
            None => "what".to_owned(),
        };
        let rejected = tell_address(&shared, &name, bytes.to_vec());
        assert_eq!(rejected.is_empty(), Entry::decode(&name, bytes).is_ok());
        shared.read(|mesh| {
            decide(mesh, dice);
            let Some(source) = mesh.workload(&web().uid).filter(|_| !rejected.is_empty()) else { return };
            // What cannot be read is not taken for the world outside.
            for (network, net) in claimed_addresses(bytes) {
                let destination = SocketAddr::new(net.addr(), 80);
                let request = Request { source, destination, random: 0, avoid: &[], observed: &Unobserved };
                let outside = matches!(plan(mesh, request), Plan::Passthrough(plan) if plan.target.workload.is_none());
                assert!(network != source.network || !outside, "{destination} is passed through");
            }
        });
        rejected.is_empty()
    });
}

pub fn policies() {
    let matches = security::Match {
        namespaces: vec![text("shop")],
        not_principals: vec![security::StringMatch {
            match_type: Some(security::string_match::MatchType::Prefix("evil".to_owned())),
        }],
        source_ips: vec![security::Address { address: vec![10, 0, 0, 0].into(), length: 8 }],
        destination_ports: vec![8080],
        ..Default::default()
    };
    let policy = |action: security::Action, scope: security::Scope| security::Authorization {
        name: "tried".to_owned(),
        namespace: "shop".to_owned(),
        scope: scope.into(),
        action: action.into(),
        groups: vec![security::Group { rules: vec![security::Rules { matches: vec![matches.clone()] }] }],
        ..Default::default()
    };
    let corpus = Corpus::read(corpus("policies.txt"))
        .with("an ALLOW", policy(security::Action::Allow, security::Scope::WorkloadSelector).encode_to_vec())
        .with("a DENY", policy(security::Action::Deny, security::Scope::Namespace).encode_to_vec());
    let tokens: [&[u8]; 8] = [
        b"\x0a\x05tried",
        b"\x12\x04shop",
        b"\x18\x01",
        b"\x18\x02",
        b"\x20\x01",
        b"\x2a\x00",
        b"\x1a\x00",
        b"\xff\xff\xff\xff\x0f",
    ];
    let denies =
        security::Authorization { name: "none".to_owned(), ..policy(security::Action::Allow, security::Scope::Namespace) };
    let denies = security::Authorization { groups: Vec::new(), ..denies }.encode_to_vec();
    let connection = Connection {
        source: Some("spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()),
        source_ip: IpAddr::from([10, 0, 0, 5]),
        destination: SocketAddr::from(([10, 0, 0, 5], 8080)),
    };
    Target::new("policies", corpus).least_read(0.005).tokens(tokens).run(|bytes, dice| {
        let shared = Arc::new(Shared::default());
        assert!(tell_address(&shared, &web().uid, address(workload::address::Type::Workload(web()))).is_empty());
        if dice.bool() {
            // An ALLOW that matches nobody.
            assert!(tell_policy(&shared, "shop/none", denies.clone()).is_empty());
        }
        let rejected = tell_policy(&shared, POLICY, bytes.to_vec());
        shared.read(|mesh| {
            decide(mesh, dice);
            let web = mesh.workload(&web().uid).unwrap();
            if !rejected.is_empty() {
                authorize(mesh, web, &connection).expect_err("a policy that cannot be read opens the pod that names it");
            }
        });
        rejected.is_empty()
    });
}

fn text(exact: &str) -> security::StringMatch {
    security::StringMatch { match_type: Some(security::string_match::MatchType::Exact(exact.to_owned())) }
}
