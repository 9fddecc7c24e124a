//! Which endpoint a request of a session goes to, as its client says (`envoy.extensions.filters.http.stateful_session.v3`).
//!
//! A client is told which endpoint has answered it, in a cookie or a header, and says so with its further requests. What it says is looked up
//! among the endpoints of the request's cluster and nowhere else: what somebody makes up leads to none of them, or to one that they may ask
//! anyway.

use std::{fmt, net::SocketAddr, str, time::Duration};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use prost::Message;
use serde::Serialize;

use super::RequestView;

/// How requests of a session find their endpoint.
#[derive(Debug, Clone, Serialize)]
pub struct Session {
    /// Where it is said.
    pub carrier: Carrier,
    /// A request that names an endpoint goes to that one or nowhere.
    pub strict: bool,
}

/// Where the endpoint of a session is said.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    /// In a cookie.
    Cookie(Cookie),
    /// In a header of this name.
    Header(String),
}

/// A cookie.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cookie {
    /// Its name.
    pub name: String,
    /// Where it holds: for this path and those below it, for all where it is empty.
    pub path: String,
    /// How long a session lasts; none for as long as the client keeps the cookie. Whole seconds count.
    pub ttl: Option<Duration>,
    /// What else the client is told of it, each with its value, which may be empty.
    pub attributes: Vec<(String, String)>,
}

/// What an endpoint is called in a session: Envoy's text for its address, so that a session outlives a change from one to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EndpointName {
    /// Its address.
    pub address: SocketAddr,
    /// It is reached through a tunnel.
    pub tunnelled: bool,
}

/// What is before the address of an endpoint behind the internal listener that opens tunnels.
const TUNNELLED: &str = "envoy://connect_originate/";

/// What a request says of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nothing, or its time is over.
    Nothing,
    /// It goes on with this endpoint.
    Endpoint(EndpointName),
    /// What nobody was ever told.
    Nonsense,
}

/// What a cookie says (Envoy's `source/extensions/http/stateful_session/cookie/cookie.proto`).
#[derive(Clone, PartialEq, Message)]
struct Told {
    #[prost(string, tag = "1")]
    address: String,
    /// In seconds since 1970; 0 for never.
    #[prost(uint64, tag = "2")]
    expires: u64,
}

impl Session {
    /// What a request says at `now`, in seconds since 1970; `None` where it is none of those that have a session.
    #[must_use]
    pub fn claim(&self, request: &RequestView<'_>, now: u64) -> Option<Claim> {
        match &self.carrier {
            Carrier::Cookie(cookie) => cookie.holds_for(request.path_and_query).then(|| cookie.claim(request.headers, now)),
            Carrier::Header(name) => {
                let said = request.headers.get(name.as_str()).filter(|value| !value.is_empty());
                Some(said.map_or(Claim::Nothing, |value| Claim::of(BASE64_STANDARD.decode(value).ok().as_deref())))
            }
        }
    }

    /// Tells the client of an answer which endpoint has given it, at `now`, unless its request has said so.
    pub fn tell(&self, answer: &mut HeaderMap, claim: Claim, endpoint: EndpointName, now: u64) {
        if claim == Claim::Endpoint(endpoint) {
            return;
        }
        match &self.carrier {
            Carrier::Cookie(cookie) => {
                if let Ok(value) = HeaderValue::from_bytes(cookie.text(endpoint, now).as_bytes()) {
                    answer.append(header::SET_COOKIE, value);
                }
            }
            Carrier::Header(name) => {
                let value = HeaderValue::try_from(BASE64_STANDARD.encode(endpoint.to_string()));
                if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), value) {
                    answer.insert(name, value);
                }
            }
        }
    }

    /// Where the endpoint is said, in words.
    #[must_use]
    pub fn in_words(&self) -> String {
        match &self.carrier {
            Carrier::Cookie(cookie) => format!("the cookie {}", cookie.name),
            Carrier::Header(name) => format!("the header {name}"),
        }
    }
}

impl Cookie {
    /// Whether it is the cookie of requests for this path.
    fn holds_for(&self, path_and_query: &str) -> bool {
        if self.path.is_empty() || self.path == "/" {
            return true;
        }
        let Some(below) = path_and_query.strip_prefix(self.path.as_str()) else { return false };
        self.path.ends_with('/') || below.is_empty() || below.starts_with(['/', '?', '#'])
    }

    fn claim(&self, headers: &HeaderMap, now: u64) -> Claim {
        let Some(value) = value(headers, &self.name).filter(|value| !value.is_empty()) else { return Claim::Nothing };
        let told = BASE64_STANDARD.decode(value).ok().and_then(|bytes| Told::decode(bytes.as_slice()).ok());
        let Some(Told { address, expires }) = told else { return Claim::Nonsense };
        // One that does not end where sessions do is of another time, or made up.
        let over = if expires == 0 { self.ttl.is_some() } else { now > expires };
        if over || address.is_empty() { Claim::Nothing } else { Claim::of(Some(address.as_bytes())) }
    }

    fn text(&self, endpoint: EndpointName, now: u64) -> String {
        let expires = self.ttl.map_or(0, |ttl| now.saturating_add(ttl.as_secs()));
        let told = Told { address: endpoint.to_string(), expires };
        self.line(&BASE64_STANDARD.encode(told.encode_to_vec()))
    }

    /// What tells a client to keep it, with this value.
    pub(super) fn line(&self, value: &str) -> String {
        let mut parts = vec![format!("{}=\"{value}\"", self.name)];
        let lasts = self.ttl.map(|ttl| ttl.as_secs()).filter(|seconds| *seconds > 0);
        parts.extend(lasts.map(|seconds| format!("Max-Age={seconds}")));
        parts.extend((!self.path.is_empty()).then(|| format!("Path={}", self.path)));
        let attribute = |(name, value): &(String, String)| match value.as_str() {
            "" => name.clone(),
            value => format!("{name}={value}"),
        };
        parts.extend(self.attributes.iter().map(attribute));
        parts.push("HttpOnly".to_owned());
        parts.join("; ")
    }
}

/// The value of the first cookie of this name.
pub(super) fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut pairs = headers.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let value = pairs.find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    Some(bare.unwrap_or(value))
}

impl Claim {
    /// What is claimed by this text.
    fn of(text: Option<&[u8]>) -> Self {
        let name = text.and_then(|text| EndpointName::parse(str::from_utf8(text).ok()?));
        name.map_or(Self::Nonsense, Self::Endpoint)
    }
}

impl EndpointName {
    /// Reads what [`fmt::Display`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let behind = text.strip_prefix(TUNNELLED);
        let address = behind.unwrap_or(text).parse().ok()?;
        Some(Self { address, tunnelled: behind.is_some() })
    }
}

impl fmt::Display for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tunnelled {
            f.write_str(TUNNELLED)?;
        }
        self.address.fmt(f)
    }
}

#[cfg(test)]
mod tests;
