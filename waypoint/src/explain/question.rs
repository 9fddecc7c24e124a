//! Which request is meant, and the tunnel that it comes through.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ambit_identity::SpiffeId;
use ambit_runtime::drain;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};

use crate::{
    compiled::AppProtocol,
    terminate::{Peer, Tunnel},
};

/// The port of clients, which no decision looks at.
const ANY_PORT: u16 = 0;

/// A request, and the tunnel that it comes through.
#[derive(Debug, Clone)]
pub struct Question {
    /// The identity that the client proves.
    pub identity: SpiffeId,
    /// The address that it comes from.
    pub address: IpAddr,
    /// The authority of its CONNECT.
    pub destination: SocketAddr,
    /// The request.
    pub request: Request<()>,
}

/// A request as a client of this version writes it.
///
/// # Errors
/// With what of it cannot be said in HTTP.
pub fn request(
    method: &str,
    host: &str,
    path_and_query: &str,
    headers: &[(String, String)],
    http2: bool,
) -> Result<Request<()>, String> {
    let bad = |what: &str, text: &str| format!("{text:?} is no {what}");
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let key: HeaderName = name.parse().map_err(|_| bad("name of a header", name))?;
        // Letters beyond ASCII may be in it as well (RFC 9110, section 5.5, `obs-text`).
        map.append(key, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| bad("value of a header", value))?);
    }
    let host = map.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or(host).to_owned();
    let uri = if http2 {
        map.remove(header::HOST);
        Uri::builder().scheme("http").authority(host.as_str()).path_and_query(path_and_query).build()
    } else {
        map.insert(header::HOST, HeaderValue::from_str(&host).map_err(|_| bad("host", &host))?);
        Uri::builder().path_and_query(path_and_query).build()
    };
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| bad("method", method))?;
    *request.uri_mut() = uri.map_err(|error| format!("{host}{path_and_query}: {error}"))?;
    *request.version_mut() = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    *request.headers_mut() = map;
    Ok(request)
}

impl Question {
    pub(super) fn protocol(&self) -> AppProtocol {
        if self.request.version() == Version::HTTP_2 { AppProtocol::Http2 } else { AppProtocol::Http1 }
    }

    pub(super) fn tunnel(&self) -> Tunnel {
        // By whom it was seen is of no configuration, and not known here.
        let peer = Peer::new(SocketAddr::new(self.address, ANY_PORT), Some(self.identity.clone())).seen();
        // Nothing waits for the end of the program here.
        let (_, drain) = drain::channel();
        Tunnel {
            peer: Arc::new(peer),
            destination: self.destination,
            passed_on: HeaderMap::new(),
            drain,
            edge: None,
            secure: None,
        }
    }
}
