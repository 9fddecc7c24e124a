//! Endpoints that are known by a host name only.

use std::{net::IpAddr, time::Instant};

use super::*;

/// What the one host name stands for.
#[derive(Debug)]
struct Resolved(Name);

impl Observed for Resolved {
    fn open(&self, _: &Uid) -> u32 {
        0
    }

    fn rested(&self, _: &Uid, _: u16) -> Option<Instant> {
        None
    }

    fn resolved(&self, hostname: &str) -> Name {
        assert_eq!(hostname, "db.example");
        self.0.clone()
    }
}

fn decide(name: Name, endpoints: Vec<Workload>) -> Plan {
    let state = state(endpoints, vec![service("db", &["10.96.0.1", "fd96::1"])]);
    let request = Request {
        source: &web(),
        destination: "10.96.0.1:80".parse().unwrap(),
        random: 0,
        avoid: &[],
        observed: &Resolved(name),
    };
    plan(&state, request)
}

fn db() -> Workload {
    let named =
        Workload { addresses: Vec::new(), hostname: "db.example".into(), tunnel: Tunnel::None, ..workload("db", "10.0.0.1") };
    endpoint_of(named, "db")
}

fn addresses(ips: &[&str]) -> Name {
    Name::Addresses(ips.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect())
}

#[test]
fn a_host_name_is_resolved_and_then_dialled_in_the_clients_family() {
    let Plan::Resolve(resolve) = decide(Name::Unknown, vec![db()]) else { panic!("it is not to be resolved") };
    assert_eq!((&*resolve.hostname, resolve.target.service.unwrap().key.clone()), ("db.example", key("db")));
    assert_eq!(passthrough(decide(addresses(&["2001:db8::1", "192.0.2.1"]), vec![db()])).dial, "192.0.2.1:8080".parse().unwrap());
    assert_eq!(passthrough(decide(addresses(&["2001:db8::1"]), vec![db()])).dial, "[2001:db8::1]:8080".parse().unwrap());
}

#[test]
fn a_host_name_that_does_not_resolve_is_a_refusal_of_its_own_unless_another_endpoint_takes_it() {
    assert_eq!(denied(decide(Name::Failed, vec![db()])), Reason::DestinationUnresolved);
    let other = endpoint_of(workload("other", "10.0.0.3"), "db");
    assert_eq!(hbone(decide(Name::Failed, vec![db(), other])).authority, "10.0.0.3:8080".parse().unwrap());
}

#[test]
fn a_host_name_that_stands_for_the_proxy_itself_is_refused() {
    let mut loops = db();
    loops.services = loops.services.with(key("db"), vec![port(80, 15001)]);
    for ip in ["127.0.0.1", "10.0.0.1"] {
        assert_eq!(denied(decide(addresses(&[ip]), vec![loops.clone()])), Reason::LoopGuard);
    }
}

#[test]
fn a_host_name_that_stands_for_a_pod_of_the_mesh_leads_around_nothing_that_the_pod_asks() {
    let pod = || workload("pod", "10.0.0.3");
    let plan = hbone(decide(addresses(&["10.0.0.3"]), vec![db(), pod()]));
    check(&plan, "10.0.0.3:15008", "10.0.0.3:8080", &["pod"], Hop::Endpoint);
    assert!(!plan.chosen, "there is no other that could be tried");
    let guarded = Workload { waypoint: Some(at_ip("10.96.0.77").into()), ..pod() };
    assert_eq!(denied(decide(addresses(&["10.0.0.3"]), vec![db(), guarded])), Reason::WaypointMissing);
    assert_eq!(denied(decide(addresses(&["10.96.0.1"]), vec![db()])), Reason::LoopGuard, "the service itself");
}
