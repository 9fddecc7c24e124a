//! What the state of a large mesh takes in a node proxy: its workloads, services and policies, by the way they come from the control plane.

use std::sync::Arc;

use ambit_api::{security, type_url, workload as wire};
use ambit_xds::{Any, Resource, client::Handler};
use prost::Message;
use ztunnel::state::{Shared, addresses, policies};

use crate::{ONE_AT_A_TIME, count::Held};

const NAMESPACES: usize = 200;
/// Services of a namespace, and the pods of each.
const APPS: usize = 5;
const REPLICAS: usize = 10;
const NODES: usize = 250;
/// Resources in one response.
const AT_ONCE: usize = 500;

/// The most that a workload may take, bytes, with its part of all indexes and with what the allocator adds.
const WORKLOAD: f64 = 1024.0;
/// The same of a service, and of a policy with two rules.
const SERVICE: f64 = 1024.0;
const POLICY: f64 = 2048.0;
/// What may be left of each workload when all are gone: room in tables that were large once.
const LEFT: f64 = 512.0;

/// An app of a namespace, by its number in the mesh.
#[derive(Clone, Copy)]
struct App(usize);

impl App {
    fn all() -> impl Iterator<Item = Self> {
        (0..NAMESPACES * APPS).map(Self)
    }

    fn namespace(self) -> String {
        format!("team-{:03}", self.0 / APPS)
    }

    fn name(self) -> String {
        format!("checkout-service-{}", self.0 % APPS)
    }

    fn hostname(self) -> String {
        format!("{}.{}.svc.cluster.local", self.name(), self.namespace())
    }

    fn port() -> wire::Port {
        wire::Port { service_port: 80, target_port: 8080, app_protocol: 0 }
    }

    fn ip(self, replica: usize) -> Vec<u8> {
        let number = self.0 * REPLICAS + replica;
        vec![10, 64 + (number >> 16) as u8, (number >> 8) as u8, number as u8]
    }

    fn pod(self, replica: usize, version: usize) -> Resource {
        let number = self.0 * REPLICAS + replica;
        let name = format!("{}-7c9d8f6b5{version}-{:05x}", self.name(), number * 7919);
        let namespace = self.namespace();
        let pod = wire::Workload {
            uid: format!("cluster-1//Pod/{namespace}/{name}"),
            name,
            namespace: namespace.clone(),
            addresses: vec![self.ip(replica).into()],
            tunnel_protocol: wire::TunnelProtocol::Hbone.into(),
            service_account: self.name(),
            node: format!("ip-10-0-{}-{}.eu-central-1.compute.internal", number % NODES / 16, number % 16),
            canonical_name: self.name(),
            canonical_revision: "v1".to_owned(),
            workload_name: self.name(),
            services: [(format!("{namespace}/{}", self.hostname()), wire::PortList { ports: vec![Self::port()] })].into(),
            authorization_policies: vec![format!("{namespace}/{}-clients", self.name())],
            cluster_id: "cluster-1".to_owned(),
            locality: Some(wire::Locality {
                region: "eu-central-1".to_owned(),
                zone: format!("eu-central-1{}", ["a", "b", "c"][number % NODES % 3]),
                ..Default::default()
            }),
            ..Default::default()
        };
        let name = pod.uid.clone();
        resource(type_url::ADDRESS, name, &wire::Address { r#type: Some(wire::address::Type::Workload(pod)) })
    }

    fn service(self) -> Resource {
        let address = vec![10, 96, (self.0 >> 8) as u8, self.0 as u8];
        let service = wire::Service {
            name: self.name(),
            namespace: self.namespace(),
            hostname: self.hostname(),
            addresses: vec![wire::NetworkAddress { address: address.into(), ..Default::default() }],
            ports: vec![Self::port()],
            canonical: true,
            ..Default::default()
        };
        let name = format!("{}/{}", service.namespace, service.hostname);
        resource(type_url::ADDRESS, name, &wire::Address { r#type: Some(wire::address::Type::Service(service)) })
    }

    fn policy(self) -> Resource {
        let exact = |text: String| security::StringMatch { match_type: Some(security::string_match::MatchType::Exact(text)) };
        let rule = |account: &str| security::Group {
            rules: vec![security::Rules {
                matches: vec![security::Match {
                    principals: vec![exact(format!("cluster.local/ns/{}/sa/{account}", self.namespace()))],
                    destination_ports: vec![8080],
                    ..Default::default()
                }],
            }],
        };
        let policy = security::Authorization {
            name: format!("{}-clients", self.name()),
            namespace: self.namespace(),
            scope: security::Scope::WorkloadSelector.into(),
            action: security::Action::Allow.into(),
            groups: vec![rule("web"), rule("batch")],
            ..Default::default()
        };
        let name = format!("{}/{}", policy.namespace, policy.name);
        resource(type_url::AUTHORIZATION, name, &policy)
    }
}

pub fn resource(type_url: &str, name: String, message: &impl Message) -> Resource {
    let body = Any { type_url: type_url.to_owned(), value: message.encode_to_vec() };
    Resource { name, version: "1".to_owned(), body }
}

/// What is held for each of these resources once they are in force.
fn each(what: &str, handler: &mut impl Handler, resources: impl Iterator<Item = Resource>) -> f64 {
    let before = Held::now();
    let (mut resources, mut count) = (resources.peekable(), 0);
    while resources.peek().is_some() {
        let batch: Vec<Resource> = resources.by_ref().take(AT_ONCE).collect();
        count += batch.len();
        let rejected = handler.apply(batch, Vec::new());
        assert!(rejected.is_empty(), "{rejected:?}");
    }
    let held = Held::now() - before;
    let each = held.with_overhead() / count as f64;
    let (bytes, pieces) = (held.bytes / count as f64, held.pieces / count as f64);
    println!("{count} {what}: {each:.0} bytes each ({bytes:.0} in {pieces:.1} pieces)");
    each
}

#[test]
fn ten_thousand_workloads_take_no_more_than_a_kilobyte_each() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let shared = Arc::new(Shared::default());
    let (mut places, mut rules) = (addresses(Arc::clone(&shared)), policies(Arc::clone(&shared)));
    let pods = |version| App::all().flat_map(move |app| (0..REPLICAS).map(move |replica| app.pod(replica, version)));
    let services = each("services", &mut places, App::all().map(App::service));
    let before = Held::now();
    let workloads = each("workloads", &mut places, pods(1));
    assert_eq!(shared.read(|mesh| mesh.workloads().count()), NAMESPACES * APPS * REPLICAS);
    let policies = each("policies", &mut rules, App::all().map(App::policy));
    assert!(workloads <= WORKLOAD, "{workloads:.0} bytes for each workload, at most {WORKLOAD} are allowed");
    assert!(services <= SERVICE, "{services:.0} bytes for each service, at most {SERVICE} are allowed");
    assert!(policies <= POLICY, "{policies:.0} bytes for each policy, at most {POLICY} are allowed");
    let names = |resources: Vec<Resource>| resources.into_iter().map(|resource| resource.name).collect::<Vec<_>>();
    let gone = |handler: &mut dyn Handler, names: Vec<String>| assert!(handler.apply(Vec::new(), names).is_empty());
    gone(&mut rules, names(App::all().map(App::policy).collect()));
    // All pods are replaced by others of the same apps, one rollout after the other.
    for version in 2..5 {
        each("workloads of a rollout", &mut places, pods(version));
        gone(&mut places, names(pods(version - 1).collect()));
    }
    gone(&mut places, names(pods(4).collect()));
    let left = (Held::now() - before).with_overhead() / (NAMESPACES * APPS * REPLICAS) as f64;
    println!("{left:.0} bytes are left of each workload that is gone");
    assert!(left <= LEFT, "{left:.0} bytes are left of each workload that is gone, at most {LEFT} are allowed");
}
