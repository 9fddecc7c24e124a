//! What an authorizer is told of a request (`envoy.service.auth.v3.CheckRequest`).

use std::{collections::HashMap, net::SocketAddr, time::SystemTime};

use ambit_api::envoy::pb::{
    envoy::{
        config::core::v3::{Address, SocketAddress, address, socket_address::PortSpecifier},
        service::auth::v3::{
            AttributeContext, CheckRequest,
            attribute_context::{HttpRequest, Peer, Request},
        },
    },
    google::protobuf::Timestamp,
};
use ambit_model::route::{RequestView, StringMatch};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Version, header};

use crate::{compiled::Buffered, terminate::Tunnel};

/// Tells whether an authorizer has the whole body.
const PARTIAL: &str = "x-envoy-auth-partial-body";
/// Headers that Envoy knows by other names.
const PSEUDO: [&str; 4] = [":authority", ":method", ":path", ":scheme"];

/// What is known of a request besides its head.
#[derive(Debug)]
pub struct Told {
    /// What it has of the body, if it is to have any.
    pub body: Option<Bytes>,
    /// The body is said as bytes.
    as_bytes: bool,
    /// There is more of it.
    partial: bool,
    /// How long the body is, if that is known.
    length: Option<u64>,
    version: Version,
}

impl Told {
    /// With what was read of a body of this `length`.
    pub fn new(wanted: Option<Buffered>, body: Option<Bytes>, length: Option<u64>, version: Version) -> Self {
        let partial = body.as_ref().is_some_and(|body| length != Some(body.len() as u64));
        Self { body, as_bytes: wanted.is_some_and(|wanted| wanted.as_bytes), partial, length, version }
    }

    /// The header that says whether the body is whole.
    pub fn partial(&self) -> Option<(&'static str, &'static str)> {
        self.body.as_ref().map(|_| (PARTIAL, if self.partial { "true" } else { "false" }))
    }
}

/// All attributes of a request; of its headers those that are `allowed`, or all.
pub fn request(tunnel: &Tunnel, view: RequestView<'_>, allowed: Option<&[StringMatch]>, told: &Told) -> CheckRequest {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time = Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(now.subsec_nanos()).unwrap_or(0),
    };
    let mut http = HttpRequest {
        id: fastrand::u64(..).to_string(),
        method: view.method.to_owned(),
        headers: headers(view, allowed),
        path: view.path_and_query.to_owned(),
        host: view.authority.to_owned(),
        scheme: view.scheme.to_owned(),
        size: told.length.and_then(|length| i64::try_from(length).ok()).unwrap_or(-1),
        protocol: protocol(told.version).to_owned(),
        ..Default::default()
    };
    if let Some((name, value)) = told.partial() {
        http.headers.insert(name.to_owned(), value.to_owned());
    }
    match &told.body {
        Some(body) if told.as_bytes => http.raw_body = body.to_vec(),
        Some(body) => http.body = text(body),
        None => {}
    }
    let source = Peer {
        address: Some(address(tunnel.peer.address)),
        principal: tunnel.peer.uri.as_deref().unwrap_or_default().to_owned(),
        ..Default::default()
    };
    let destination = Peer { address: Some(address(tunnel.destination)), ..Default::default() };
    let attributes = AttributeContext {
        source: Some(source),
        destination: Some(destination),
        request: Some(Request { time: Some(time), http: Some(http) }),
        ..Default::default()
    };
    CheckRequest { attributes: Some(attributes) }
}

fn address(of: SocketAddr) -> Address {
    let port_specifier = Some(PortSpecifier::PortValue(of.port().into()));
    let address = SocketAddress { address: of.ip().to_string(), port_specifier, ..Default::default() };
    Address { address: Some(address::Address::SocketAddress(address)) }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// Headers with the pseudo headers among them, each once.
fn headers(view: RequestView<'_>, allowed: Option<&[StringMatch]>) -> HashMap<String, String> {
    let is_allowed = |name: &str| allowed.is_none_or(|allowed| allowed.iter().any(|test| test.matches(name)));
    let pseudo = PSEUDO.into_iter().filter(|name| is_allowed(name));
    let mut told: HashMap<String, String> =
        pseudo.filter_map(|name| Some((name.to_owned(), view.header(name)?.into_owned()))).collect();
    // The host is among them.
    for name in view.headers.keys().filter(|name| *name != header::HOST && is_allowed(name.as_str())) {
        told.insert(name.as_str().to_owned(), joined(view.headers, name));
    }
    told
}

/// All values of a header as one.
fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    headers.get_all(name).iter().map(|value| text(value.as_bytes())).collect::<Vec<_>>().join(separator(name))
}

/// What is between the values of a header where they are one.
pub fn separator(name: &HeaderName) -> &'static str {
    if *name == header::COOKIE { "; " } else { "," }
}

/// Text, with `!` for what is none (so does Envoy).
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.utf8_chunks().flat_map(|chunk| [chunk.valid().to_owned(), "!".repeat(chunk.invalid().len())]).collect(),
    }
}
