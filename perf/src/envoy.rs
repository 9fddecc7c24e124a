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

/// Where the client's Envoy listens in the client's pod: for the first server, then for the second.
pub const CLIENT_PORTS: [u16; 2] = [15200, 15210];
/// Where the server's Envoy listens in the server's pod.
const TLS_PORTS: [u16; 2] = [15201, 15211];

/// A pair of Envoys, one in the client's pod and one in the server's.
#[derive(Debug)]
pub struct Pair {
    /// The one beside the client, then the one beside the server.
    pub processes: [Process; 2],
}

/// Starts the pair: what connects to one of [`CLIENT_PORTS`] on the client's loopback reaches that of `servers` on the server's.
///
/// # Errors
/// When Envoy is not to be found or a certificate cannot be made.
pub fn start(envoy: &Path, dir: &Path, client: &Place, server: &Place, servers: [u16; 2]) -> anyhow::Result<Pair> {
    fs::create_dir_all(dir)?;
    let authority = Authority::create(&"cluster.local".parse()?)?;
    fs::write(dir.join("root.pem"), authority.root_pem())?;
    let client_id = "spiffe://cluster.local/ns/perf/sa/client".parse()?;
    let server_id = "spiffe://cluster.local/ns/perf/sa/server".parse()?;
    let client_context = tls_context(dir, &authority, "client", &client_id, &server_id)?;
    let server_context = tls_context(dir, &authority, "server", &server_id, &client_id)?;
    let near = [0, 1].map(|at| Way {
        listen: SocketAddr::from(([127, 0, 0, 1], CLIENT_PORTS[at])),
        accept: None,
        to: SocketAddr::new(server.ip(), TLS_PORTS[at]),
        connect: Some(upstream_tls(&client_context)),
    });
    let far = [0, 1].map(|at| Way {
        listen: SocketAddr::new(IpAddr::from([0, 0, 0, 0]), TLS_PORTS[at]),
        accept: Some(downstream_tls(&server_context)),
        to: SocketAddr::from(([127, 0, 0, 1], servers[at])),
        connect: None,
    });
    let (near, far) = (bootstrap(&near), bootstrap(&far));
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

fn downstream_tls(context: &Value) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": context,
            "require_client_certificate": true
        }
    })
}

fn upstream_tls(context: &Value) -> Value {
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

/// From a port to a port, with TLS on one of the sides.
struct Way {
    listen: SocketAddr,
    accept: Option<Value>,
    to: SocketAddr,
    connect: Option<Value>,
}

fn listener(number: usize, way: &Way) -> Value {
    let mut chain = json!({
        "filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": format!("perf{number}"),
                "cluster": format!("upstream{number}")
            }
        }]
    });
    if let Some(accept) = &way.accept {
        chain["transport_socket"] = accept.clone();
    }
    json!({"name": format!("perf{number}"), "address": address(way.listen), "filter_chains": [chain], "tcp_backlog_size": 4096})
}

fn cluster(number: usize, way: &Way) -> Value {
    let name = format!("upstream{number}");
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000}]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(way.to)}}]}]
        }
    });
    if let Some(connect) = &way.connect {
        cluster["transport_socket"] = connect.clone();
    }
    cluster
}

fn bootstrap(ways: &[Way]) -> Value {
    json!({
        "static_resources": {
            "listeners": ways.iter().enumerate().map(|(number, way)| listener(number, way)).collect::<Vec<_>>(),
            "clusters": ways.iter().enumerate().map(|(number, way)| cluster(number, way)).collect::<Vec<_>>()
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
