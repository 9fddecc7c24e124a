//! Tokens of requests (JWTs, RFC 7519) as a pure decision: which of them is believed, and what is known of a request afterwards.
//!
//! The types mean what `envoy.extensions.filters.http.jwt_authn.v3` means, from which the waypoint compiles them. Keys are read when that
//! is done, never for a request. Nothing here reads a clock or asks anybody for keys.

mod authentication;
mod keys;
mod place;
mod token;

#[cfg(test)]
mod tests;

pub use authentication::{ClaimHeader, JwtAuthentication, Provider, Requirement};
pub use keys::{Algorithm, BadJwks, Keys, MAX_JWKS_BYTES};
pub use place::Place;
pub use token::MAX_TOKEN_BYTES;

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::Value;

use crate::route::RequestView;

/// Where the payload of a token that is believed is found by rules, as the metadata of this filter.
pub const METADATA: &str = "envoy.filters.http.jwt_authn";

macro_rules! whys {
    ($($(#[doc = $doc:literal])* $name:ident => $text:literal,)*) => {
        /// Why a token is not believed. The texts are Envoy's where it has one, as clients get them in the body of the answer.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Why {
            $($(#[doc = $doc])* $name,)*
        }

        impl Why {
            /// Every one there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// What clients and the log are told: the same words for the same cause, and nothing of the token.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

whys! {
    /// There is no token where one is required.
    Missing => "Jwt is missing",
    /// More tokens than anybody needs.
    TooMany => "Jwt is given too often",
    /// The token is longer than it may be.
    TooLarge => "Jwt is too large",
    /// Not three parts.
    Format => "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
    /// The first part is not Base64url.
    HeaderEncoding => "Jwt header is an invalid Base64url encoded",
    /// The first part is not a JSON object.
    HeaderJson => "Jwt header is an invalid JSON",
    /// `alg` is not there, or not text.
    NoAlgorithm => "Jwt header [alg] field is required and must be a string",
    /// `alg` is one that is never taken: `none`, those with a secret, and unknown ones.
    Algorithm => "Jwt header [alg] is not supported",
    /// `kid` is not text.
    KeyId => "Jwt header [kid] field is not a string",
    /// `crit` names extensions that must be understood (RFC 7515, section 4.1.11), of which none is.
    Critical => "Jwt header [crit] is not supported",
    /// The second part is not Base64url.
    PayloadEncoding => "Jwt payload is an invalid Base64url encoded",
    /// The second part is not a JSON object.
    PayloadJson => "Jwt payload is an invalid JSON",
    /// A registered claim has a value of another type.
    Claim => "Jwt payload has a registered claim of another type than it may have",
    /// The third part is not Base64url.
    SignatureEncoding => "Jwt signature is an invalid Base64url encoded",
    /// Nobody looks for tokens of this issuer at this place.
    Issuer => "Jwt issuer is not configured",
    /// Its time has not begun.
    NotYetValid => "Jwt not yet valid",
    /// Its time is over.
    Expired => "Jwt is expired",
    /// It is meant for others.
    Audience => "Audiences in Jwt are not allowed",
    /// No key of the issuer is known.
    NoKeys => "Jwks doesn't have any valid public key",
    /// None of the issuer's keys has this `kid`, or none is for this `alg`.
    NoSuchKey => "Jwks doesn't have key to match kid or alg from Jwt",
    /// The signature is of none of the keys.
    Signature => "Jwt verification fails",
}

impl Why {
    /// The status of the answer, which is Envoy's.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Audience => 403,
            _ => 401,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A request that is refused for its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotBelieved<'a> {
    /// Why.
    pub why: Why,
    /// The name of the provider that does not believe it, where one was found for it.
    pub provider: Option<&'a str>,
}

/// What is known of a request after its tokens were looked at, and what becomes of the request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verified {
    /// What rules may look at, by the name under which a provider puts it; `Null` when there is nothing.
    metadata: Value,
    /// Headers that are taken out first.
    removed: Vec<HeaderName>,
    /// Headers that are added then.
    added: Vec<(HeaderName, HeaderValue)>,
    /// Parameters of the query that are taken out.
    parameters: Vec<String>,
}

/// The parts of a request that are others afterwards.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// All header fields.
    pub headers: HeaderMap,
    /// The path with its query.
    pub path_and_query: String,
}

impl Verified {
    /// What rules may look at; `None` when no token told anything.
    #[must_use]
    pub fn metadata(&self) -> Option<&Value> {
        (!self.metadata.is_null()).then_some(&self.metadata)
    }

    /// The request as rules and the service see it; `None` when that is as it came.
    #[must_use]
    pub fn changed(&self, request: &RequestView<'_>) -> Option<Changed> {
        if self.removed.is_empty() && self.added.is_empty() && self.parameters.is_empty() {
            return None;
        }
        let mut headers = request.headers.clone();
        for name in &self.removed {
            headers.remove(name);
        }
        if headers.contains_key(header::CONNECTION) {
            keep(&self.added, &mut headers);
        }
        for (name, value) in &self.added {
            headers.append(name, value.clone());
        }
        let path_and_query = place::without_parameters(request.path_and_query, &self.parameters);
        Some(Changed { headers, path_and_query })
    }

    fn put(&mut self, name: &str, payload: Value) {
        if !self.metadata.is_object() {
            self.metadata = Value::Object(serde_json::Map::new());
        }
        if let Some(all) = self.metadata.as_object_mut() {
            all.insert(name.to_owned(), payload);
        }
    }

    fn remove(&mut self, name: &HeaderName) {
        if !self.removed.contains(name) {
            self.removed.push(name.clone());
        }
    }

    /// Takes over what another looked at.
    fn join(&mut self, other: Self) {
        if let Value::Object(all) = other.metadata {
            for (name, payload) in all {
                self.put(&name, payload);
            }
        }
        for name in &other.removed {
            self.remove(name);
        }
        self.added.extend(other.added);
        self.parameters.extend(other.parameters);
    }
}

/// Takes the names of what is told out of `Connection`: a client that writes them there wants it taken away again on the way to the service
/// (RFC 9110, section 7.6.1).
fn keep(told: &[(HeaderName, HeaderValue)], headers: &mut HeaderMap) {
    let is_told = |name: &&str| told.iter().any(|(told, _)| told.as_str().eq_ignore_ascii_case(name));
    let lines = headers.get_all(header::CONNECTION).iter().filter_map(|line| line.to_str().ok());
    let (of_told, others): (Vec<&str>, Vec<&str>) = lines.flat_map(|line| line.split(',')).map(str::trim).partition(is_told);
    if of_told.is_empty() {
        return;
    }
    let others = HeaderValue::from_str(&others.join(", "));
    headers.remove(header::CONNECTION);
    if let Ok(others) = others
        && !others.is_empty()
    {
        headers.insert(header::CONNECTION, others);
    }
}
