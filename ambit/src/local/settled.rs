//! Whether what runs is also what every proxy holds: a change travels from the API server's objects through the control plane to the
//! proxies, and only then is it in force.

use std::collections::BTreeSet;

use istiod_lite::source::NamespacedName;
use serde_json::Value;

use super::topology::Topology;

/// Whether a node proxy, by its `/config_dump`, does not send through a tunnel yet to some pod that is enrolled.
pub fn untunnelled_at_ztunnel(dump: &Value, topology: &Topology) -> bool {
    let workloads = dump.get("workloads").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let tunnelled = |name: &NamespacedName| {
        let uid = format!("Kubernetes//Pod/{name}");
        let is = |workload: &Value, field: &str, value: &str| workload.get(field).and_then(Value::as_str) == Some(value);
        workloads.iter().any(|workload| is(workload, "uid", &uid) && is(workload, "protocol", "HBONE"))
    };
    topology.pods.iter().any(|(name, facts)| facts.enrolled && !(facts.captured && tunnelled(name)))
}

/// What a node proxy does not hold yet, by its `/config_dump`; nothing if it holds all that runs.
pub fn missing_at_ztunnel(dump: &Value, node: &str, topology: &Topology) -> Option<String> {
    let list = |name: &str| dump.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
    for (name, facts) in &topology.pods {
        let uid = format!("Kubernetes//Pod/{name}");
        let Some(workload) = list("workloads").iter().find(|workload| text(workload, "uid").as_ref() == Some(&uid)) else {
            return Some(format!("{node} to know pod {name}"));
        };
        let addresses: BTreeSet<&str> = strings(workload.get("workloadIps")).collect();
        let at_home = facts.addresses.iter().all(|ip| addresses.contains(ip.to_string().as_str()));
        let healthy = text(workload, "status").map(|status| status == "Healthy") == Some(facts.ready);
        let tunnelled = text(workload, "protocol").as_deref() == Some("HBONE");
        // A proxy at the edge of the mesh has no Service before it, and takes no tunnels.
        let takes_tunnels = facts.captured || (facts.waypoint && topology.services.contains_key(name));
        if !at_home || !healthy || tunnelled != takes_tunnels {
            return Some(format!("{node} to know how pod {name} is now"));
        }
        let identity = text(workload, "identity");
        let certified = |held: &Value| text(held, "identity") == identity && held.pointer("/certChain/0").is_some();
        if facts.node == node && facts.captured && !list("certificates").iter().any(certified) {
            return Some(format!("the certificate of pod {name}"));
        }
    }
    for (name, addresses) in topology.services.iter().filter(|(_, addresses)| !addresses.is_empty()) {
        let key = service_key(name);
        let service = list("services").iter().find(|service| text(service, "key").as_ref() == Some(&key));
        let vips: BTreeSet<String> = service.map(|service| vips(service).collect()).unwrap_or_default();
        if !addresses.iter().all(|address| vips.contains(&address.to_string())) {
            return Some(format!("{node} to know service {name}"));
        }
    }
    None
}

/// The services that a node proxy sends through a waypoint, by its `/config_dump`.
pub fn services_through(dump: &Value, waypoint: &NamespacedName, topology: &Topology) -> Vec<NamespacedName> {
    let addresses: Vec<String> = topology.services.get(waypoint).into_iter().flatten().map(ToString::to_string).collect();
    let goes_there = |service: &Value| {
        let waypoints = service.get("waypoints").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let ip = |waypoint: &Value| waypoint.get("destination").and_then(Value::as_str).map(|address| ip_of(address).to_owned());
        waypoints.iter().filter_map(ip).any(|ip| addresses.contains(&ip))
    };
    let services = dump.get("services").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let keys: BTreeSet<&str> =
        services.iter().filter(|service| goes_there(service)).filter_map(|service| service.get("key")?.as_str()).collect();
    topology.services.keys().filter(|name| keys.contains(service_key(name).as_str())).cloned().collect()
}

/// What a waypoint does not hold yet, by everything it tells of its configuration: the addresses of the services that go through it,
/// and of the pods that serve these. Works for ours and for Envoy alike.
pub fn missing_at_waypoint(config: &str, services: &[NamespacedName], topology: &Topology) -> Option<String> {
    for service in services {
        let addresses = topology.services.get(service).into_iter().flatten();
        if !addresses.into_iter().all(|address| config.contains(&address.to_string())) {
            return Some(format!("the waypoint to know service {service}"));
        }
        let serving = topology.pods.iter().filter(|(_, facts)| facts.ready && facts.services.contains(service));
        for (pod, facts) in serving {
            if !facts.addresses.iter().any(|address| config.contains(&address.to_string())) {
                return Some(format!("the waypoint to know pod {pod}"));
            }
        }
    }
    None
}

fn service_key(NamespacedName { namespace, name }: &NamespacedName) -> String {
    format!("{namespace}/{name}.{namespace}.svc.cluster.local")
}

fn strings(list: Option<&Value>) -> impl Iterator<Item = &str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn vips(service: &Value) -> impl Iterator<Item = String> {
    let vips = service.get("vips").and_then(Value::as_array).into_iter().flatten();
    vips.filter_map(|vip| Some(ip_of(vip.as_str()?).to_owned()))
}

/// The address of `network/address`.
fn ip_of(address: &str) -> &str {
    address.rsplit_once('/').map_or(address, |(_, ip)| ip)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::local::topology::PodFacts;

    fn topology() -> Topology {
        let mut topology = Topology::default();
        let facts = PodFacts {
            workload: "web".into(),
            service_account: "web".into(),
            node: "node-1".into(),
            addresses: vec!["10.244.1.2".parse().unwrap()],
            stats: None,
            ready: true,
            enrolled: true,
            captured: true,
            guarded: true,
            waypoint: false,
            services: vec![NamespacedName::new("shop", "web")],
        };
        topology.pods.insert(NamespacedName::new("shop", "web-1"), facts);
        topology.services.insert(NamespacedName::new("shop", "web"), vec!["10.96.0.1".parse().unwrap()]);
        topology.services.insert(NamespacedName::new("shop", "waypoint"), vec!["10.96.0.2".parse().unwrap()]);
        topology
    }

    fn dump() -> Value {
        let id = "spiffe://cluster.local/ns/shop/sa/web";
        let waypoint = json!([{ "destination": "/10.96.0.2", "hboneMtlsPort": 15008, "weight": 1 }]);
        json!({
            "workloads": [{ "uid": "Kubernetes//Pod/shop/web-1", "workloadIps": ["10.244.1.2"], "status": "Healthy",
                            "protocol": "HBONE", "identity": id }],
            "certificates": [{ "identity": id, "state": "Available", "certChain": [{ "serialNumber": "1" }] }],
            "services": [
                { "key": "shop/web.shop.svc.cluster.local", "vips": ["/10.96.0.1"], "waypoints": waypoint },
                { "key": "shop/waypoint.shop.svc.cluster.local", "vips": ["/10.96.0.2"] },
            ],
        })
    }

    #[test]
    fn a_proxy_that_lacks_any_of_it_is_not_settled() {
        let topology = topology();
        assert_eq!(missing_at_ztunnel(&dump(), "node-1", &topology), None);
        let spoiled = |pointer: &str, value: Value| {
            let mut dump = dump();
            *dump.pointer_mut(pointer).unwrap() = value;
            missing_at_ztunnel(&dump, "node-1", &topology)
        };
        assert_eq!(spoiled("/workloads", json!([])).as_deref(), Some("node-1 to know pod shop/web-1"));
        for (pointer, value) in [
            ("/workloads/0/status", json!("Unhealthy")),
            ("/workloads/0/protocol", json!("TCP")),
            ("/workloads/0/workloadIps", json!([])),
        ] {
            assert_eq!(spoiled(pointer, value).as_deref(), Some("node-1 to know how pod shop/web-1 is now"), "{pointer}");
        }
        assert_eq!(spoiled("/certificates/0/certChain", json!([])).as_deref(), Some("the certificate of pod shop/web-1"));
        assert_eq!(spoiled("/services/0/vips", json!([])).as_deref(), Some("node-1 to know service shop/web"));
    }

    #[test]
    fn of_the_proxies_of_gateways_those_with_a_service_take_tunnels() {
        for (name, protocol) in [("waypoint", "HBONE"), ("edge", "TCP")] {
            let mut topology = topology();
            let web = topology.pods.remove(&NamespacedName::new("shop", "web-1")).unwrap();
            let proxy = PodFacts { enrolled: false, captured: false, waypoint: true, ..web };
            topology.pods.insert(NamespacedName::new("shop", name), proxy);
            for spoken in ["HBONE", "TCP"] {
                let mut dump = dump();
                dump["workloads"][0]["uid"] = json!(format!("Kubernetes//Pod/shop/{name}"));
                dump["workloads"][0]["protocol"] = json!(spoken);
                assert_eq!(missing_at_ztunnel(&dump, "node-1", &topology).is_none(), spoken == protocol, "{name} {spoken}");
            }
        }
    }

    #[test]
    fn a_waypoint_must_know_the_services_that_go_through_it_and_their_pods() {
        let topology = topology();
        let services = services_through(&dump(), &NamespacedName::new("shop", "waypoint"), &topology);
        assert_eq!(services, [NamespacedName::new("shop", "web")]);
        assert_eq!(missing_at_waypoint("10.96.0.1:80 10.244.1.2:80", &services, &topology), None);
        assert_eq!(
            missing_at_waypoint("10.96.0.1:80", &services, &topology).as_deref(),
            Some("the waypoint to know pod shop/web-1")
        );
        assert_eq!(missing_at_waypoint("", &services, &topology).as_deref(), Some("the waypoint to know service shop/web"));
    }
}
