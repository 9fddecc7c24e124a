//! The peer: an unmodified Envoy at both ends, TCP over mutual TLS 1.3.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use ambit_identity::SpiffeId;
use ambit_testbed::{Command, Output, Place, Process};
use ambit_tls::authority::Authority;
use anyhow::Context;
use serde_json::{Value, json};

/// Where the client's Envoy listens in the client's pod.
pub const CLIENT_PORT: u16 = 15200;
/// Where the server's Envoy listens in the server's pod.
const TLS_PORT: u16 = 15201;

/// A pair of Envoys, one in the client's pod and one in the server's.
#[derive(Debug)]
pub struct Pair {
    /// The one beside the client, then the one beside the server.
    pub processes: [Process; 2],
}

/// Starts the pair: what connects to [`CLIENT_PORT`] on the client's loopback reaches `server_port` on the server's.
///
/// # Errors
/// When Envoy is not to be found or a certificate cannot be made.
pub fn start(envoy: &Path, dir: &Path, client: &Place, server: &Place, server_port: u16) -> anyhow::Result<Pair> {
    fs::create_dir_all(dir)?;
    let authority = Authority::create(&"cluster.local".parse()?)?;
    fs::write(dir.join("root.pem"), authority.root_pem())?;
    let client_id = "spiffe://cluster.local/ns/perf/sa/client".parse()?;
    let server_id = "spiffe://cluster.local/ns/perf/sa/server".parse()?;
    let client_context = tls_context(dir, &authority, "client", &client_id, &server_id)?;
    let server_context = tls_context(dir, &authority, "server", &server_id, &client_id)?;
    let near = bootstrap(
        SocketAddr::from(([127, 0, 0, 1], CLIENT_PORT)),
        None,
        SocketAddr::new(server.ip(), TLS_PORT),
        Some(upstream_tls(client_context)),
    );
    let far = bootstrap(
        SocketAddr::new(IpAddr::from([0, 0, 0, 0]), TLS_PORT),
        Some(downstream_tls(server_context)),
        SocketAddr::from(([127, 0, 0, 1], server_port)),
        None,
    );
    let far = spawn(envoy, dir, "envoy-far", &far, server)?;
    let near = spawn(envoy, dir, "envoy-near", &near, client)?;
    Ok(Pair { processes: [near, far] })
}

fn spawn(envoy: &Path, dir: &Path, name: &str, bootstrap: &Value, place: &Place) -> anyhow::Result<Process> {
    let config = dir.join(format!("{name}.json"));
    fs::write(&config, serde_json::to_vec_pretty(bootstrap)?)?;
    let command = Command::new(envoy)
        .name(name)
        .args(["--concurrency", "2", "--disable-hot-restart", "--log-level", "warning", "--config-path"])
        .arg(&config)
        .output(Output::File(dir.join(format!("{name}.log"))));
    place.spawn(command).with_context(|| format!("{} does not start", envoy.display()))
}

fn tls_context(dir: &Path, authority: &Authority, name: &str, own: &SpiffeId, peer: &SpiffeId) -> anyhow::Result<Value> {
    let private = rcgen::KeyPair::generate()?;
    let request = rcgen::CertificateParams::default().serialize_request(&private)?.pem()?;
    let chain = authority.sign(&request, own, None)?;
    let leaf = chain.first().context("the authority gives a certificate")?;
    let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    fs::write(&certificate, leaf)?;
    fs::write(&key, private.serialize_pem())?;
    let file = |path: &PathBuf| json!({"filename": path});
    Ok(json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": file(&certificate), "private_key": file(&key)}],
        "validation_context": {
            "trusted_ca": file(&dir.join("root.pem")),
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer.to_string()}}]
        }
    }))
}

fn downstream_tls(context: Value) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": context,
            "require_client_certificate": true
        }
    })
}

fn upstream_tls(context: Value) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": context
        }
    })
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}

fn bootstrap(listen: SocketAddr, accept: Option<Value>, to: SocketAddr, connect: Option<Value>) -> Value {
    let mut chain = json!({
        "filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "perf",
                "cluster": "upstream"
            }
        }]
    });
    let mut cluster = json!({
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000}]},
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(to)}}]}]
        }
    });
    if let Some(accept) = accept {
        chain["transport_socket"] = accept;
    }
    if let Some(connect) = connect {
        cluster["transport_socket"] = connect;
    }
    json!({
        "static_resources": {
            "listeners": [{"name": "perf", "address": address(listen), "filter_chains": [chain], "tcp_backlog_size": 4096}],
            "clusters": [cluster]
        },
        "overload_manager": {
            "resource_monitors": [{
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": 100_000
                }
            }]
        }
    })
}
