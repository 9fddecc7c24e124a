//! How endpoints are spoken to: the protocol of a cluster (`envoy.extensions.upstreams.http.v3`), and its transport sockets.
//!
//! The cluster that opens `tunnels` is ours to speak: HTTP/2 in mutual TLS, by the rules of HBONE. Of any other one each option would change what
//! its endpoints see, so that hardly one is taken.

use std::mem::take;

use ambit_api::envoy::pb::{
    envoy::{
        config::{
            cluster::v3::cluster::TransportSocketMatch,
            core::v3::{Http2ProtocolOptions, TransportSocket, transport_socket::ConfigType},
        },
        extensions::{
            transport_sockets::internal_upstream::v3::InternalUpstreamTransport,
            upstreams::http::v3::{HttpProtocolOptions, http_protocol_options as options},
        },
        r#type::metadata::v3::metadata_kind::Kind as Of,
    },
    google::protobuf::Any,
};

use super::{
    read::{Compiled, Problem, Under, finish, required, type_of, unpack},
    tls,
};
use crate::compiled::Protocol;

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
const INTERNAL: &str = "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport";
/// What of an endpoint's metadata the listeners within are told: where it is, and who.
const PASSED: [&str; 2] = ["envoy.filters.listener.original_dst", "io.ambit"];

/// The protocol that endpoints are spoken to in, as options under this name say.
pub fn protocol(name: &str, any: &Any, tunnels: bool) -> Compiled<Protocol> {
    use options::{UpstreamProtocolOptions as Kind, explicit_http_config::ProtocolConfig};
    // Envoy goes by the name; of two that say the same kind of thing none would be the last.
    if name != HTTP_OPTIONS {
        return Err(Problem::new("options under this name are not implemented"));
    }
    let mut config: HttpProtocolOptions = unpack(any, HTTP_OPTIONS)?;
    if let Some(mut common) = config.common_http_protocol_options.take() {
        if tunnels {
            // For how long a tunnel that nobody uses is kept is our own.
            common.idle_timeout = None;
        }
        finish(&common).under("common_http_protocol_options")?;
    }
    let protocol = match required(config.upstream_protocol_options.take(), "a protocol")? {
        Kind::ExplicitHttpConfig(explicit) => match explicit.protocol_config {
            Some(ProtocolConfig::Http2ProtocolOptions(said)) => {
                http2(said, tunnels).under("explicit_http_config.http2_protocol_options")?;
                Protocol::Http2
            }
            Some(ProtocolConfig::HttpProtocolOptions(said)) => {
                finish(&said).under("explicit_http_config.http_protocol_options")?;
                Protocol::Http1
            }
            None => Protocol::Http1,
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => return Err(Problem::new("HTTP/3 is not implemented")),
        },
        Kind::UseDownstreamProtocolConfig(said) => {
            downstream(said, tunnels).under("use_downstream_protocol_config")?;
            Protocol::Downstream
        }
        Kind::AutoConfig(_) => return Err(Problem::new("auto_config is not implemented")),
    };
    finish(&config)?;
    Ok(protocol)
}

/// The options of each protocol that a client may speak.
fn downstream(mut said: options::UseDownstreamHttpConfig, tunnels: bool) -> Compiled<()> {
    if let Some(http1) = said.http_protocol_options.take() {
        finish(&http1).under("http_protocol_options")?;
    }
    said.http2_protocol_options.take().map_or(Ok(()), |said| http2(said, tunnels)).under("http2_protocol_options")?;
    finish(&said)
}

/// The options of HTTP/2. How large windows are bounds what waits here and changes nothing of what is said. In `tunnels` the wire contract says
/// the rest: CONNECT is what they are for, and how many share a connection, and how it is known to be dead, is ours.
pub fn http2(mut said: Http2ProtocolOptions, tunnels: bool) -> Compiled<()> {
    said.initial_stream_window_size = None;
    said.initial_connection_window_size = None;
    if tunnels {
        said.allow_connect = false;
        said.max_concurrent_streams = None;
        if let Some(mut keepalive) = said.connection_keepalive.take() {
            keepalive.interval = None;
            keepalive.timeout = None;
            finish(&keepalive).under("connection_keepalive")?;
        }
    }
    finish(&said)
}

/// How endpoints are reached follows from each endpoint's address; the sockets must be the ones that go with that. TLS is the cluster's
/// that `tunnels` are opened by, which has no other: the endpoints of any other one would be sent in clear what Envoy would encrypt.
pub fn sockets(matches: Vec<TransportSocketMatch>, own: Option<TransportSocket>, tunnels: bool) -> Compiled<()> {
    if tunnels {
        if !matches.is_empty() {
            return Err(Problem::new("transport_socket_matches is not implemented where tunnels are opened"));
        }
        return required(own, "transport_socket").and_then(|own| tls::upstream(own).under("transport_socket"));
    }
    for said in matches {
        let at = format!("transport_socket_matches[{}].transport_socket", said.name);
        said.transport_socket.map_or(Ok(()), clear).under(at)?;
    }
    own.map_or(Ok(()), clear).under("transport_socket")
}

/// A socket that encrypts nothing.
fn clear(socket: TransportSocket) -> Compiled<()> {
    let ConfigType::TypedConfig(any) = required(socket.config_type, "typed_config")?;
    match type_of(&any) {
        RAW_BUFFER => Ok(()),
        INTERNAL => internal(unpack(&any, INTERNAL)?),
        other => Err(Problem::new(format!("{other} is not implemented"))),
    }
}

/// A socket to a listener within. What it wraps would go through the tunnel: of TLS there nothing is known here, and what is sent would be in clear.
fn internal(mut said: InternalUpstreamTransport) -> Compiled<()> {
    for source in take(&mut said.passthrough_metadata) {
        let of_host = matches!(source.kind.and_then(|kind| kind.kind), Some(Of::Host(_)));
        if !of_host || !PASSED.contains(&source.name.as_str()) {
            return Err(Problem::new(format!("{:?} is not implemented", source.name)).under("passthrough_metadata"));
        }
    }
    let wrapped = required(said.transport_socket.take(), "transport_socket")?;
    finish(&said)?;
    let ConfigType::TypedConfig(any) = required(wrapped.config_type, "typed_config").under("transport_socket")?;
    match type_of(&any) {
        RAW_BUFFER => Ok(()),
        other => Err(Problem::new(format!("{other} is not implemented")).under("transport_socket")),
    }
}
