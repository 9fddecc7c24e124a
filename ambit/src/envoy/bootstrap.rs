//! Envoy's bootstrap: everything else comes over the socket.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::{Config, XdsMode};

const TYPE: &str = "type.googleapis.com/envoy";

/// The bootstrap of a waypoint whose local services are on `socket`.
pub fn render(config: &Config, socket: &Path) -> Value {
    let api_type = match config.xds_mode {
        XdsMode::Delta => "DELTA_GRPC",
        XdsMode::Sotw => "GRPC",
    };
    let ads = json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" });
    json!({
        "node": {
            "id": config.node_id(),
            "cluster": format!("{}.{}", config.name, config.namespace),
            "metadata": { "NAME": config.name, "NAMESPACE": config.namespace.to_string(), "GATEWAY_NAME": config.name },
        },
        "admin": { "address": address(config.admin) },
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.internal_listener",
            "typed_config": { "@type": format!("{TYPE}.extensions.bootstrap.internal_listener.v3.InternalListener") },
        }],
        "dynamic_resources": {
            "lds_config": ads, "cds_config": ads,
            "ads_config": {
                "api_type": api_type, "transport_api_version": "V3", "set_node_on_first_message_only": true,
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "xds-grpc" } }],
            },
        },
        "static_resources": {
            "clusters": [local("xds-grpc", socket), local("sds-grpc", socket), admin(config.admin)],
            "listeners": [
                page("metrics", config.metrics, &[("/metrics", "/stats/prometheus"), ("/stats/prometheus", "/stats/prometheus")]),
                page("readiness", config.ready, &[("/healthz/ready", "/ready")]),
            ],
        },
    })
}

/// A gRPC service of this process.
fn local(name: &str, socket: &Path) -> Value {
    let http2 = json!({ "explicit_http_config": { "http2_protocol_options": {} },
        "@type": format!("{TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions") });
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "5s",
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2 },
        "load_assignment": endpoints(name, &json!({ "pipe": { "path": socket } })),
    })
}

fn admin(to: SocketAddr) -> Value {
    json!({ "name": "admin", "type": "STATIC", "connect_timeout": "1s", "load_assignment": endpoints("admin", &address(to)) })
}

fn endpoints(name: &str, address: &Value) -> Value {
    json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }] })
}

/// Pages of the admin interface, which itself is on loopback only.
fn page(name: &str, at: SocketAddr, paths: &[(&str, &str)]) -> Value {
    let route =
        |(path, to): &(&str, &str)| json!({ "match": { "path": path }, "route": { "cluster": "admin", "prefix_rewrite": to } });
    let manager = json!({
        "@type": format!("{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": name,
        "route_config": {
            "virtual_hosts": [{ "name": name, "domains": ["*"], "routes": paths.iter().map(route).collect::<Vec<_>>() }],
        },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": format!("{TYPE}.extensions.filters.http.router.v3.Router") },
        }],
    });
    json!({
        "name": name, "address": address(at),
        "filter_chains": [{ "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }] }],
    })
}

fn address(address: SocketAddr) -> Value {
    let both = address.ip().is_unspecified() && address.is_ipv6();
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port(), "ipv4_compat": both } })
}
