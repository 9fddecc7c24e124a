//! Wire messages as trees of values without default fields, for golden files.

use ambit_api::security::string_match::MatchType;
use ambit_api::security::{Action, Authorization, Match, Scope, StringMatch};
use ambit_api::workload::address::Type;
use ambit_api::workload::gateway_address::Destination;
use ambit_api::workload::load_balancing::{HealthPolicy, Mode, Scope as Preference};
use ambit_api::workload::{
    Address, AppProtocol, GatewayAddress, IpFamilies, NetworkMode, Port, Service, TunnelProtocol, Visibility, Workload,
    WorkloadStatus, WorkloadType,
};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// A mapping without the fields that say nothing.
fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let says = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    let fields = fields.into_iter().filter(|(_, value)| says(value));
    Value::Object(fields.map(|(key, value)| (key.to_owned(), value)).collect())
}

fn ip(bytes: &[u8]) -> String {
    let address = <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    address.expect("4 or 16 bytes").to_string()
}

pub fn address(address: &Address) -> Value {
    match address.r#type.as_ref().expect("an address has a type") {
        Type::Workload(message) => workload(message),
        Type::Service(message) => service(message),
    }
}

fn workload(message: &Workload) -> Value {
    let status = WorkloadStatus::try_from(message.status).unwrap();
    let kind = WorkloadType::try_from(message.workload_type).unwrap();
    let tunnel = TunnelProtocol::try_from(message.tunnel_protocol).unwrap();
    let services: Map<String, Value> =
        message.services.iter().map(|(key, list)| (key.clone(), list.ports.iter().map(port).collect())).collect();
    object([
        ("uid", json!(message.uid)),
        ("name", json!(message.name)),
        ("namespace", json!(message.namespace)),
        ("addresses", message.addresses.iter().map(|bytes| ip(bytes)).collect()),
        ("network", json!(message.network)),
        ("tunnel_protocol", json!(tunnel.as_str_name())),
        ("native_tunnel", json!(message.native_tunnel)),
        ("host_network", json!(message.network_mode == i32::from(NetworkMode::HostNetwork))),
        ("trust_domain", json!(message.trust_domain)),
        ("service_account", json!(message.service_account)),
        ("waypoint", message.waypoint.as_ref().map(gateway).unwrap_or_default()),
        ("node", json!(message.node)),
        ("locality", message.locality.as_ref().map(|at| json!([at.region, at.zone, at.subzone])).unwrap_or_default()),
        ("canonical", json!([message.canonical_name, message.canonical_revision])),
        ("workload", json!([kind.as_str_name(), message.workload_name])),
        ("services", Value::Object(services)),
        ("authorization_policies", json!(message.authorization_policies)),
        ("status", json!(status.as_str_name())),
        ("cluster_id", json!(message.cluster_id)),
        ("hostname", json!(message.hostname)),
        ("capacity", json!(message.capacity)),
    ])
}

fn service(message: &Service) -> Value {
    let families = IpFamilies::try_from(message.ip_families).unwrap();
    let balancing = message.load_balancing.as_ref().map(|balancing| {
        let preference = |scope: &i32| json!(Preference::try_from(*scope).unwrap().as_str_name());
        object([
            ("mode", json!(Mode::try_from(balancing.mode).unwrap().as_str_name())),
            ("routing_preference", balancing.routing_preference.iter().map(preference).collect()),
            ("health_policy", json!(HealthPolicy::try_from(balancing.health_policy).unwrap().as_str_name())),
        ])
    });
    object([
        ("name", json!(message.name)),
        ("namespace", json!(message.namespace)),
        ("hostname", json!(message.hostname)),
        ("addresses", message.addresses.iter().map(|address| ip(&address.address)).collect()),
        ("ip_families", json!(families.as_str_name())),
        ("ports", message.ports.iter().map(port).collect()),
        ("waypoint", message.waypoint.as_ref().map(gateway).unwrap_or_default()),
        ("load_balancing", balancing.unwrap_or_default()),
        ("canonical", json!(message.canonical)),
        ("ingress_use_waypoint", json!(message.ingress_use_waypoint)),
        ("subject_alt_names", json!(message.subject_alt_names)),
        ("private", json!(message.visibility == i32::from(Visibility::Namespace))),
    ])
}

fn port(port: &Port) -> Value {
    let protocol = AppProtocol::try_from(port.app_protocol).unwrap();
    json!(format!("{} -> {} {}", port.service_port, port.target_port, protocol.as_str_name()))
}

fn gateway(address: &GatewayAddress) -> Value {
    let destination = match address.destination.as_ref().expect("a gateway has a destination") {
        Destination::Address(address) => format!("{}/{}", address.network, ip(&address.address)),
        Destination::Hostname(name) => format!("{}/{}", name.namespace, name.hostname),
    };
    json!(format!("{destination} port {}", address.hbone_mtls_port))
}

pub fn authorization(message: &Authorization) -> Value {
    let groups: Vec<Value> = message
        .groups
        .iter()
        .map(|group| group.rules.iter().map(|rules| rules.matches.iter().map(entry).collect::<Value>()).collect())
        .collect();
    let mut value = object([
        ("name", json!(message.name)),
        ("namespace", json!(message.namespace)),
        ("scope", json!(Scope::try_from(message.scope).unwrap().as_str_name())),
        ("action", json!(Action::try_from(message.action).unwrap().as_str_name())),
        ("dry_run", json!(message.dry_run)),
    ]);
    value["groups"] = json!(groups);
    value
}

fn entry(entry: &Match) -> Value {
    let strings = |values: &[StringMatch]| values.iter().map(string).collect();
    let networks = |values: &[ambit_api::security::Address]| {
        values.iter().map(|address| json!(format!("{}/{}", ip(&address.address), address.length))).collect()
    };
    let accounts = |values: &[ambit_api::security::ServiceAccountMatch]| {
        values.iter().map(|account| json!(format!("{}/{}", account.namespace, account.service_account))).collect()
    };
    object([
        ("principals", strings(&entry.principals)),
        ("not_principals", strings(&entry.not_principals)),
        ("namespaces", strings(&entry.namespaces)),
        ("not_namespaces", strings(&entry.not_namespaces)),
        ("service_accounts", accounts(&entry.service_accounts)),
        ("not_service_accounts", accounts(&entry.not_service_accounts)),
        ("source_ips", networks(&entry.source_ips)),
        ("not_source_ips", networks(&entry.not_source_ips)),
        ("destination_ips", networks(&entry.destination_ips)),
        ("not_destination_ips", networks(&entry.not_destination_ips)),
        ("destination_ports", json!(entry.destination_ports)),
        ("not_destination_ports", json!(entry.not_destination_ports)),
    ])
}

fn string(text: &StringMatch) -> Value {
    match text.match_type.as_ref().expect("a string match has a type") {
        MatchType::Exact(text) => json!(format!("exact {text}")),
        MatchType::Prefix(text) => json!(format!("prefix {text}")),
        MatchType::Suffix(text) => json!(format!("suffix {text}")),
        MatchType::Presence(()) => json!("present"),
    }
}
