use super::*;
use crate::{
    address::{NetworkAddress, ServiceKey},
    service::{Families, LoadBalancing},
    test_support::{endpoint_of, service, workload},
};

fn of(namespace: &str, hostname: &str, vips: &[&str]) -> Service {
    let key = ServiceKey { namespace: namespace.parse().unwrap(), hostname: hostname.into() };
    Service { key, canonical: false, ..service("x", vips) }
}

fn world() -> MeshState {
    let mut state = MeshState::new();
    let all = LoadBalancing { allow_unhealthy: true, ..Default::default() };
    let private = Service { private: true, ..of("data", "secret.data.svc.cluster.local", &["10.96.0.5"]) };
    let v4 = Service { families: Families::Ipv4, ..service("v4", &["10.96.0.6", "fd96::6"]) };
    let far = NetworkAddress::new(Network::from("far"), "10.96.0.8".parse().unwrap());
    for service in [
        service("api", &["10.96.0.1", "fd96::1"]),
        of("data", "storage.data.svc.cluster.local", &["10.96.0.2"]),
        of("shop", "www.example.com", &["240.0.0.1"]),
        of("shop", "*.example.com", &["240.0.0.2"]),
        of("shop", "above.example.com", &["240.0.0.4"]),
        of("shop", "*.deep.example.com", &["240.0.0.3"]),
        service("headless", &[]),
        Service { load_balancing: all, ..service("starting", &[]) },
        service("external", &[]),
        private,
        v4,
        Service { vips: vec![far], ..service("far", &[]) },
        of("data", "both.example.org", &["240.0.1.1"]),
        of("shop", "both.example.org", &["240.0.1.2"]),
        of("other", "third.example.org", &["240.0.1.3"]),
        Service { canonical: true, ..of("third", "third.example.org", &["240.0.1.4"]) },
    ] {
        state.insert_service(service);
    }
    let pod = |name: &str, address: &str, healthy: bool| {
        let pod = endpoint_of(endpoint_of(workload(name, address), "headless"), "starting");
        Workload { hostname: name.into(), healthy, ..pod }
    };
    state.insert_workload(pod("pod-1", "10.0.0.2,fd00::2", true));
    state.insert_workload(pod("pod-0", "10.0.0.1", true));
    state.insert_workload(pod("pod-2", "10.0.0.3", false));
    state.insert_workload(Workload { network: Network::from("far"), ..pod("pod-3", "10.0.0.4", true) });
    state
}

/// What a client in `shop` gets: addresses, `nodata` or `forward`.
fn ask(state: &MeshState, name: &str, family: Family) -> String {
    let (namespace, network) = ("shop".parse().unwrap(), Network::default());
    let client = Client { namespace: &namespace, network: &network, domain: "cluster.local" };
    match resolve(state, client, name, family) {
        Answer::Addresses(addresses) => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        Answer::NoData => "nodata".to_owned(),
        Answer::Forward => "forward".to_owned(),
    }
}

fn check(cases: &[(&str, &str)]) {
    let state = world();
    for (name, expected) in cases {
        assert_eq!(ask(&state, name, Family::V4), *expected, "{name}");
    }
}

#[test]
fn a_service_is_known_by_each_of_its_kubernetes_names() {
    check(&[
        ("api.shop.svc.cluster.local", "10.96.0.1"),
        ("api.shop.svc.cluster.local.", "10.96.0.1"),
        ("API.Shop.svc.Cluster.Local", "10.96.0.1"),
        ("api.shop.svc", "10.96.0.1"),
        ("api.shop", "10.96.0.1"),
        ("api", "10.96.0.1"),
        ("storage.data", "10.96.0.2"),
        ("storage.data.svc", "10.96.0.2"),
        ("storage", "forward"),
        ("api.data", "forward"),
        ("nobody.shop.svc.cluster.local", "forward"),
        ("api.shop.svc.other.domain", "forward"),
    ]);
}

#[test]
fn the_search_domains_that_a_resolver_puts_behind_a_name_are_understood() {
    check(&[
        ("storage.data.shop.svc.cluster.local", "10.96.0.2"),
        ("storage.data.svc.cluster.local", "10.96.0.2"),
        ("storage.data.svc.svc.cluster.local", "10.96.0.2"),
        ("storage.data.cluster.local", "10.96.0.2"),
        ("api.shop.svc.cluster.local.shop.svc.cluster.local", "10.96.0.1"),
        ("www.example.com.shop.svc.cluster.local", "240.0.0.1"),
        ("www.example.com.svc.cluster.local", "240.0.0.1"),
        ("other.example.com.cluster.local", "240.0.0.2"),
        ("www.elsewhere.com.shop.svc.cluster.local", "forward"),
    ]);
}

#[test]
fn the_nearest_wildcard_stands_for_what_is_below_it_and_not_for_itself() {
    check(&[
        ("www.example.com", "240.0.0.1"),
        ("any.example.com", "240.0.0.2"),
        ("a.b.example.com", "240.0.0.2"),
        ("a.deep.example.com", "240.0.0.3"),
        ("above.example.com", "240.0.0.4"),
        ("below.above.example.com", "240.0.0.2"),
        ("example.com", "forward"),
        ("example.org", "forward"),
        ("www.example.com.evil.org", "forward"),
    ]);
}

#[test]
fn a_headless_service_is_its_healthy_endpoints_of_the_clients_network_or_all_when_it_publishes_them() {
    check(&[
        ("headless", "10.0.0.1 10.0.0.2"),
        ("starting.shop", "10.0.0.1 10.0.0.2 10.0.0.3"),
        ("pod-1.headless.shop.svc.cluster.local", "10.0.0.2"),
        ("pod-2.headless.shop.svc.cluster.local", "nodata"),
        ("pod-2.starting.shop.svc.cluster.local", "10.0.0.3"),
        ("pod-3.headless.shop.svc.cluster.local", "forward"),
        ("nobody.headless.shop.svc.cluster.local", "forward"),
    ]);
    let state = world();
    assert_eq!(ask(&state, "headless", Family::V6), "fd00::2");
    assert_eq!(ask(&state, "pod-0.headless.shop.svc.cluster.local", Family::V6), "nodata");
}

#[test]
fn what_the_mesh_has_no_address_for_is_forwarded() {
    check(&[
        // An ExternalName, or a headless service without any endpoint.
        ("external.shop.svc.cluster.local", "forward"),
        ("far.shop.svc.cluster.local", "forward"),
        ("_http._tcp.api.shop.svc.cluster.local", "forward"),
        ("10-0-0-1.api.shop.svc.cluster.local", "forward"),
    ]);
}

#[test]
fn a_service_without_addresses_of_the_family_is_no_data_and_never_forwarded() {
    let state = world();
    assert_eq!(ask(&state, "api", Family::V6), "fd96::1");
    assert_eq!(ask(&state, "storage.data", Family::V6), "nodata");
    assert_eq!(ask(&state, "v4", Family::V6), "nodata");
    assert_eq!(ask(&state, "v4", Family::V4), "10.96.0.6");
}

#[test]
fn of_several_services_with_one_name_the_clients_own_comes_first_then_the_authority_and_hidden_ones_never() {
    check(&[("both.example.org", "240.0.1.2"), ("third.example.org", "240.0.1.4"), ("secret.data.svc.cluster.local", "forward")]);
    let (namespace, network) = ("data".parse().unwrap(), Network::default());
    let client = Client { namespace: &namespace, network: &network, domain: "cluster.local" };
    let of = |name| resolve(&world(), client, name, Family::V4);
    assert_eq!(of("secret"), Answer::Addresses(vec!["10.96.0.5".parse().unwrap()]));
    assert_eq!(of("both.example.org"), Answer::Addresses(vec!["240.0.1.1".parse().unwrap()]));
}

#[test]
fn no_name_makes_it_panic_and_none_that_a_service_cannot_have_is_answered() {
    let state = world();
    for name in [
        "",
        ".",
        "..",
        "*",
        "*.",
        "*.example.com",
        "a..b",
        ".api",
        "api..",
        "a b.example.com",
        "é.example.com",
        "a/b.example.com",
    ] {
        assert_eq!(ask(&state, name, Family::V4), "forward", "{name:?}");
    }
    let (long, whole) = (format!("{}.example.com", "a".repeat(64)), format!("{}example.com", "a.".repeat(130)));
    assert_eq!(ask(&state, &long, Family::V4), "forward");
    assert_eq!(ask(&state, &whole, Family::V4), "forward");
    // Names put together of the parts that matter, by a small generator that needs no dice.
    let parts = [
        "api", "shop", "svc", "cluster", "local", "data", "headless", "pod-1", "example", "com", "*", "", "É", "_tcp", "a\\.b",
        "\0", "www",
    ];
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..200_000 {
        let mut name = String::new();
        for at in 0..seed % 9 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let part = usize::try_from((seed >> 11) % 17).unwrap();
            name.push_str(parts[part]);
            name.push_str(if (seed >> (40 + at)).is_multiple_of(7) { "" } else { "." });
        }
        seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
        let lower = ask(&state, &name, Family::V4);
        assert_eq!(ask(&state, &name.to_ascii_uppercase(), Family::V4), lower, "{name:?}");
    }
}
