//! Routes of all kinds, and hosts that are no Services, behind one waypoint: `golden/kinds/in.yaml`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Any, index, input, kinds, of_waypoint, render};
use crate::index::ServiceRef;
use crate::source::NamespacedName;

/// A resource of the fixture with routes of all kinds, as JSON.
fn of_all_kinds(kind: &str, name: &str) -> Value {
    let resources = of_waypoint(&input("kinds"));
    let (_, of_kind) = kinds(&resources).into_iter().find(|(known, _)| *known == kind).unwrap();
    let (_, resource) = of_kind.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name} among {kind}"));
    render(resource)
}

#[test]
fn grpc_routes_go_by_method_the_longest_service_first_and_before_http_routes() {
    let routes = of_all_kinds("routes", "inbound-vip|9000|http|calls.shop.svc.cluster.local");
    let routes = routes["virtual_hosts"][0]["routes"].as_array().unwrap();
    let shown: Vec<String> = routes
        .iter()
        .map(|route| {
            let matched = &route["match"];
            let path = matched.get("path").or(matched.get("path_separated_prefix")).or(matched.pointer("/safe_regex/regex"));
            let headers = matched["headers"].as_array().map_or(0, Vec::len);
            format!("{} {} {headers}", route["name"].as_str().unwrap(), path.and_then(Value::as_str).unwrap())
        })
        .collect();
    let expected = [
        "shop/methods/rule[0]/match[4] /(?:shop[.]v[0-9]+[.]Users)/(?:Get.*) 0",
        "shop/methods/rule[0]/match[2] /shop.v1.Orders/Create 1",
        "shop/methods/rule[0]/match[3] /shop.v1.Orders/Create 0",
        "shop/methods/rule[0]/match[1] /shop.v1.Orders 0",
        "shop/methods/rule[0]/match[0] /[^/]+/Watch 0",
    ];
    assert_eq!(shown, expected);
    let filtered = routes.iter().all(|route| route["request_headers_to_add"][0]["header"]["key"] == "x-seen");
    assert!(filtered, "{routes:?}");
}

#[test]
fn a_tcp_route_of_the_services_own_namespace_spreads_connections_and_what_is_invalid_keeps_its_share() {
    let listener = of_all_kinds("listeners", "main_internal");
    let chains = listener["filter_chains"].as_array().unwrap();
    let chain = chains.iter().find(|chain| chain["name"] == "inbound-vip|5432|tcp|db.shop.svc.cluster.local").unwrap();
    let filters = chain["filters"].as_array().unwrap();
    let clusters = filters.last().unwrap()["typed_config"]["weighted_clusters"]["clusters"].as_array().unwrap();
    let shown: Vec<(&str, u64)> =
        clusters.iter().map(|cluster| (cluster["name"].as_str().unwrap(), cluster["weight"].as_u64().unwrap())).collect();
    let expected = [
        ("inbound-vip|5432|tcp|db.shop.svc.cluster.local", 90),
        ("inbound-vip|5432|tcp|db-new.shop.svc.cluster.local", 9),
        ("invalid-backend", 1),
    ];
    assert_eq!(shown, expected);
    // Its endpoints are those of a slice, without the one that is not ready.
    let endpoints = of_all_kinds("endpoints", "inbound-vip|5432|tcp|db-new.shop.svc.cluster.local").to_string();
    assert!(endpoints.contains("192.0.2.1") && endpoints.contains("15432") && !endpoints.contains("192.0.2.2"), "{endpoints}");
    assert!(!listener.to_string().contains("trap"), "what another namespace says for its own clients holds for none");
}

#[test]
fn hosts_of_service_entries_have_chains_and_clusters_by_address_or_by_name() {
    let endpoints = of_all_kinds("endpoints", "inbound-vip|80|http|shop/fixed.example.com").to_string();
    assert!(endpoints.contains("192.0.2.7") && endpoints.contains("8080"), "{endpoints}");
    let named = of_all_kinds("clusters", "inbound-vip|443|tcp|shop/named.example.com");
    assert_eq!(named["type"], "STRICT_DNS", "{named}");
    assert!(named["load_assignment"].to_string().contains(r#""named.example.com""#), "{named}");
    let listener = of_all_kinds("listeners", "main_internal").to_string();
    for address in ["240.0.0.1", "240.0.0.2"] {
        assert!(listener.contains(address), "{address} leads nowhere");
    }
}

#[test]
fn calls_that_a_grpc_route_leads_nowhere_are_unavailable() {
    let routes = of_all_kinds("routes", "inbound-vip|9000|http|lost.shop.svc.cluster.local");
    let routes = routes["virtual_hosts"][0]["routes"].as_array().unwrap();
    let of = |rule: &str| routes.iter().find(|route| route["name"].as_str().unwrap().contains(rule)).unwrap();
    let missing = &of("rule[0]")["route"];
    assert_eq!(missing["cluster"], "invalid-backend", "{missing}");
    // It is the first of the enumeration, which is not written.
    assert_eq!(missing.get("cluster_not_found_response_code"), None, "{missing}");
    assert_eq!(of("rule[1]")["direct_response"]["status"], 503);
}

#[test]
fn an_entry_takes_no_address_of_a_service_or_a_pod_and_its_hosts_share_none() {
    let listener = of_all_kinds("listeners", "main_internal");
    let chains: Vec<&str> =
        listener["filter_chains"].as_array().unwrap().iter().map(|chain| chain["name"].as_str().unwrap()).collect();
    assert!(chains.contains(&"inbound-vip|80|http|shop/one.example.com"), "{chains:?}");
    assert!(!chains.iter().any(|chain| chain.contains("two.example.com")), "{chains:?}");
    let known = of_all_kinds("routes", "connect_terminate");
    let mut domains: Vec<&str> = known["virtual_hosts"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|host| host["domains"].as_array().unwrap())
        .map(|domain| domain.as_str().unwrap())
        .collect();
    assert!(domains.contains(&"240.0.0.3:80") && !domains.iter().any(|domain| domain.starts_with("10.244.")), "{domains:?}");
    let count = domains.len();
    domains.sort_unstable();
    domains.dedup();
    assert_eq!(count, domains.len(), "Envoy refuses a domain that is there twice: {domains:?}");
    let endpoints = of_all_kinds("endpoints", "inbound-vip|80|http|shop/one.example.com");
    let endpoints = endpoints["endpoints"][0]["lb_endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 1, "one of another network is not reached: {endpoints:?}");
    assert_eq!(endpoints[0]["load_balancing_weight"], 3, "{endpoints:?}");
}

#[test]
fn the_endpoints_of_a_service_alone_are_those_that_the_whole_has() {
    for name in ["whole", "routes", "policies", "kinds", "authorizers", "processors"] {
        let index = index(&input(name));
        let whole = super::super::translate(&index, &NamespacedName::new("shop", "waypoint")).unwrap();
        let services = index.objects().services.keys().cloned().map(ServiceRef::Kubernetes);
        let hosts = index.objects().service_entries.values().flat_map(|entry| index.hosts_of_entry(entry));
        let all = services.chain(hosts.map(ServiceRef::Host));
        let alone: BTreeMap<String, Any> = all.flat_map(|service| super::super::assignments(&index, &service)).collect();
        assert!(!whole.endpoints.is_empty(), "{name}");
        for (cluster, endpoints) in &whole.endpoints {
            assert_eq!(alone.get(cluster), Some(endpoints), "{name}: {cluster}");
        }
    }
}

#[test]
fn tls_routes_lead_by_server_name_the_whole_name_first_then_the_longest_wildcard_and_all_else_nowhere() {
    let listener = of_all_kinds("listeners", "main_internal");
    let filters = listener["listener_filters"].as_array().unwrap();
    let inspector = filters.iter().find(|filter| filter["name"] == "envoy.filters.listener.tls_inspector").unwrap();
    assert_eq!(inspector["filter_disabled"]["not_match"]["destination_port_range"]["start"], 443, "{inspector}");
    let of_address = |node: &Value| node["ranges"].to_string().contains("10.96.0.21");
    let tree = &listener["filter_chain_matcher"]["matcher_tree"]["custom_match"]["typed_config"]["range_matchers"];
    let ports = &tree.as_array().unwrap().iter().find(|node| of_address(node)).unwrap()["on_match"]["matcher"]["matcher_list"];
    let names = &ports["matchers"][0]["on_match"]["matcher"];
    let leads: Vec<(String, &str)> = names["matcher_list"]["matchers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|matcher| {
            let test = matcher["predicate"]["single_predicate"]["value_match"].to_string();
            (test, matcher["on_match"]["action"]["name"].as_str().unwrap())
        })
        .collect();
    let chain = |route: &str| format!("inbound-vip|443|tcp|shop/{route}|named.shop.svc.cluster.local");
    let (one, other) = (chain("names"), chain("others"));
    let expected = [
        (r#"{"exact":"a.example.com"}"#.to_owned(), one.as_str()),
        (r#"{"exact":"b.example.com"}"#.to_owned(), other.as_str()),
        (r#"{"suffix":".deep.example.com"}"#.to_owned(), one.as_str()),
        (r#"{"suffix":".example.com"}"#.to_owned(), one.as_str()),
    ];
    assert_eq!(leads, expected);
    assert_eq!(names["on_no_match"]["action"]["name"], "blocked");
    assert!(!listener.to_string().contains("stolen"), "what another namespace says for its own clients holds for none");
    let chains = listener["filter_chains"].as_array().unwrap();
    let proxy = |name: &str| {
        let chain = chains.iter().find(|chain| chain["name"] == name).unwrap_or_else(|| panic!("no chain {name}"));
        chain["filters"].as_array().unwrap().last().unwrap()["typed_config"].clone()
    };
    let weighted = proxy(&one)["weighted_clusters"]["clusters"].to_string();
    assert!(weighted.contains("db.shop") && weighted.contains("invalid-backend"), "{weighted}");
    assert_eq!(proxy(&other)["cluster"], "inbound-vip|5432|tcp|db-new.shop.svc.cluster.local");
    assert!(chains.iter().all(|chain| chain["name"] != "inbound-vip|443|tcp|named.shop.svc.cluster.local"));
    // The other port is as it was.
    assert!(chains.iter().any(|chain| chain["name"] == "inbound-vip|444|tcp|named.shop.svc.cluster.local"));
}
