use super::*;
use crate::{
    address::Network,
    test_support::{endpoint_of, key, service, workload},
};

fn at(ip: &str) -> NetworkAddress {
    NetworkAddress::new(Network::default(), ip.parse().unwrap())
}

fn names(state: &MeshState, service: &str) -> Vec<String> {
    state.endpoints(&key(service)).map(|workload| workload.name.to_string()).collect()
}

#[test]
fn a_workload_is_found_by_uid_and_by_each_address_until_it_is_removed() {
    let mut state = MeshState::new();
    state.insert_workload(workload("web", "10.0.0.1,fd00::1"));
    assert!(state.workload("Kubernetes//Pod/shop/web").is_some());
    assert!(state.workload_at(&at("10.0.0.1")).is_some() && state.workload_at(&at("fd00::1")).is_some());
    assert!(state.workload_at(&at("::ffff:10.0.0.1")).is_some());
    state.remove_address("Kubernetes//Pod/shop/web");
    assert!(state.workload_at(&at("10.0.0.1")).is_none() && state.workload("Kubernetes//Pod/shop/web").is_none());
    assert!(state.by_address.is_empty() && state.endpoints.is_empty());
}

#[test]
fn an_update_takes_the_old_addresses_and_services_away() {
    let mut state = MeshState::new();
    state.insert_workload(endpoint_of(workload("web", "10.0.0.1"), "one"));
    state.insert_workload(endpoint_of(workload("web", "10.0.0.2"), "two"));
    assert!(state.workload_at(&at("10.0.0.1")).is_none());
    assert_eq!((names(&state, "one"), names(&state, "two")), (vec![], vec!["web".to_owned()]));
}

#[test]
fn an_address_that_is_used_again_belongs_to_the_last_and_survives_the_removal_of_the_first() {
    let mut state = MeshState::new();
    state.insert_workload(workload("old", "10.0.0.1"));
    state.insert_workload(workload("new", "10.0.0.1"));
    assert_eq!(&*state.workload_at(&at("10.0.0.1")).unwrap().name, "new");
    state.remove_address("Kubernetes//Pod/shop/old");
    assert_eq!(&*state.workload_at(&at("10.0.0.1")).unwrap().name, "new");
}

#[test]
fn a_pod_of_its_own_address_comes_before_one_on_the_hosts_network() {
    let mut state = MeshState::new();
    state.insert_workload(workload("own", "10.0.0.1"));
    state.insert_workload(Workload { host_network: true, ..workload("host", "10.0.0.1") });
    assert_eq!(&*state.workload_at(&at("10.0.0.1")).unwrap().name, "own");
}

#[test]
fn a_service_may_come_before_or_after_its_endpoints_and_go() {
    for service_first in [true, false] {
        let mut state = MeshState::new();
        if service_first {
            state.insert_service(service("api", &["10.96.0.1"]));
        }
        state.insert_workload(endpoint_of(workload("a", "10.0.0.1"), "api"));
        state.insert_service(service("api", &["10.96.0.1"]));
        assert_eq!(names(&state, "api"), ["a"]);
        assert!(state.service_at(&at("10.96.0.1")).is_some());
        assert_eq!(state.services_named("api.shop.svc.cluster.local").count(), 1);
        state.remove_address("shop/api.shop.svc.cluster.local");
        assert!(state.service_at(&at("10.96.0.1")).is_none() && state.service(&key("api")).is_none());
        assert_eq!(names(&state, "api"), ["a"]);
    }
}

#[test]
fn the_canonical_service_of_an_address_comes_first() {
    let mut state = MeshState::new();
    state.insert_service(Service { canonical: false, ..service("entry", &["10.96.0.1"]) });
    state.insert_service(service("api", &["10.96.0.1"]));
    assert_eq!(state.service_at(&at("10.96.0.1")).unwrap().key, key("api"));
}

#[test]
fn of_an_address_that_several_say_is_theirs_clients_get_what_they_may_know_of_and_their_own_first() {
    let of = |namespace: &str, private| Service {
        key: ServiceKey { namespace: namespace.parse().unwrap(), hostname: "host.example.com".into() },
        canonical: false,
        private,
        ..service("host", &["240.0.0.1"])
    };
    let found = |state: &MeshState, client: &str| {
        let service = state.service_for(&client.parse().unwrap(), &at("240.0.0.1"))?;
        Some(service.key.namespace.to_string())
    };
    let mut state = MeshState::new();
    state.insert_service(of("b", true));
    assert_eq!(found(&state, "b").as_deref(), Some("b"));
    assert_eq!(found(&state, "shop"), None, "of what is another namespace's alone nobody else's connection goes there");
    state.insert_service(of("d", false));
    state.insert_service(of("c", false));
    let clients = ["b", "c", "d", "shop"].map(|client| found(&state, client));
    assert_eq!(clients.each_ref().map(|namespace| namespace.as_deref().unwrap()), ["b", "c", "d", "c"]);
    state.insert_service(service("api", &["240.0.0.1"]));
    assert_eq!(found(&state, "b").as_deref(), Some("shop"), "a Service before any entry");
}

#[test]
fn unknown_names_are_removed_without_effect() {
    let mut state = MeshState::new();
    state.insert_service(service("api", &["10.96.0.1"]));
    for name in ["", "/", "nobody", "shop/nobody", "other/api.shop.svc.cluster.local"] {
        state.remove_address(name);
    }
    assert!(state.service(&key("api")).is_some());
}

#[test]
fn a_pod_is_found_by_its_name_only_with_its_identity() {
    let mut state = MeshState::new();
    let web = workload("web", "10.0.0.1");
    let other = "spiffe://cluster.local/ns/shop/sa/other".parse().unwrap();
    state.insert_workload(web.clone());
    assert!(state.pod("shop", "web", &web.identity).is_some());
    assert!(state.pod("shop", "web", &other).is_none() && state.pod("other", "web", &web.identity).is_none());
}
