//! Which tokens of a request must be there and hold, and what is made of them.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, Method, header};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::{Keys, NotBelieved, Place, Verified, Why, token::Token};
use crate::route::RequestView;

/// The most tokens of a request that are looked at: each costs a signature.
const MAX_TOKENS: usize = 16;

/// Somebody who makes tokens, and what is done with one of his that is believed.
#[derive(Debug, Clone, Serialize)]
pub struct Provider {
    /// Its name, which refusals carry.
    pub name: String,
    /// The claim `iss` of its tokens; empty for any.
    pub issuer: String,
    /// The claim `aud` must have one of these; none means any.
    pub audiences: Vec<String>,
    /// Its keys.
    pub keys: Keys,
    /// Where its tokens are.
    pub places: Vec<Place>,
    /// The token stays in the request. (One in a cookie always does.)
    pub forward: bool,
    /// The header in which the service is given the payload, as it was sent.
    #[serde(serialize_with = "name_if_any")]
    pub payload_header: Option<HeaderName>,
    /// The payload is filled up with `=`.
    pub pad_payload: bool,
    /// Headers in which the service is given single claims.
    pub claim_headers: Vec<ClaimHeader>,
    /// Under which name rules find the payload.
    pub metadata: Option<String>,
    /// Claims whose text is a list, for rules.
    pub space_delimited: Vec<String>,
}

/// A header in which a service is given a claim.
#[derive(Debug, Clone, Serialize)]
pub struct ClaimHeader {
    /// Its name.
    #[serde(serialize_with = "name")]
    pub header: HeaderName,
    /// The claim; in one that is an object, what is behind a dot.
    pub claim: String,
}

/// What is required of a request. Providers are named by their places in [`JwtAuthentication::providers`].
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Requirement {
    /// A token of this provider, and where it looks for them no other.
    Provider(usize),
    /// No token where these look for them, or one that holds.
    AllowMissing(Vec<usize>),
    /// One of these.
    Any(Vec<Requirement>),
    /// All of these.
    All(Vec<Requirement>),
}

/// What is asked of all requests (`envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication`).
#[derive(Debug, Clone, Serialize)]
pub struct JwtAuthentication {
    /// Whose tokens there are.
    pub providers: Vec<Provider>,
    /// What is required.
    pub requirement: Requirement,
    /// A question of a browser whether it may ask needs no token: browsers send none with it.
    pub bypass_preflight: bool,
}

fn name<S: Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

fn name_if_any<S: Serializer>(name: &Option<HeaderName>, serializer: S) -> Result<S::Ok, S::Error> {
    name.as_ref().map(HeaderName::as_str).serialize(serializer)
}

impl JwtAuthentication {
    /// Looks at the tokens of a request at `now`, in seconds since 1970.
    ///
    /// Headers in which a service is told of tokens, and those it may take for them, are taken out of every request, for clients could write
    /// anything there.
    ///
    /// # Errors
    /// With what was wrong about the last token that was looked at. All tokens that a provider looks for must hold: a service may take
    /// another than the one that did.
    pub fn decide(&self, request: &RequestView<'_>, now: u64) -> Result<Verified, NotBelieved<'_>> {
        let mut verified = Verified::default();
        for told in self.providers.iter().flat_map(Provider::told_in) {
            for name in request.headers.keys().filter(|name| alike(name, told)) {
                verified.remove(name);
            }
        }
        if !(self.bypass_preflight && is_preflight(request)) {
            verified.join(self.meet(&self.requirement, request, now)?);
        }
        Ok(verified)
    }

    fn meet(&self, requirement: &Requirement, request: &RequestView<'_>, now: u64) -> Result<Verified, NotBelieved<'_>> {
        match requirement {
            Requirement::Provider(one) => self.tokens(std::slice::from_ref(one), request, now),
            Requirement::AllowMissing(of) => match self.tokens(of, request, now) {
                Err(NotBelieved { why: Why::Missing, .. }) => Ok(Verified::default()),
                other => other,
            },
            Requirement::Any(several) => {
                let mut last = NotBelieved { why: Why::Missing, provider: None };
                for one in several {
                    match self.meet(one, request, now) {
                        Ok(verified) => return Ok(verified),
                        Err(why) => last = why,
                    }
                }
                Err(last)
            }
            Requirement::All(several) => {
                let mut all = Verified::default();
                for one in several {
                    all.join(self.meet(one, request, now)?);
                }
                Ok(all)
            }
        }
    }

    /// Looks at all tokens where these providers look for them.
    fn tokens(&self, of: &[usize], request: &RequestView<'_>, now: u64) -> Result<Verified, NotBelieved<'_>> {
        let unknown = |why| NotBelieved { why, provider: None };
        let mut places: Vec<(&Place, Vec<&Provider>)> = Vec::new();
        for provider in of.iter().filter_map(|place| self.providers.get(*place)) {
            for place in &provider.places {
                match places.iter_mut().find(|(known, _)| *known == place) {
                    Some((_, of)) => of.push(provider),
                    None => places.push((place, vec![provider])),
                }
            }
        }
        let (mut verified, mut found) = (Verified::default(), 0);
        for (place, providers) in places {
            for text in place.tokens(request) {
                found += 1;
                if found > MAX_TOKENS {
                    return Err(unknown(Why::TooMany));
                }
                let token = Token::read(&text).map_err(unknown)?;
                let issuer = token.issuer();
                let mut believing = providers.iter().filter(|provider| provider.issuer.is_empty() || provider.issuer == issuer);
                let provider = believing.next().ok_or(unknown(Why::Issuer))?;
                provider.check(&token, now).map_err(|why| NotBelieved { why, provider: Some(&provider.name) })?;
                provider.tell(&token, place, &mut verified);
            }
        }
        if found == 0 { Err(unknown(Why::Missing)) } else { Ok(verified) }
    }
}

/// Whether a service may take one header for the other: there are those that tell no `_` from a `-` (CGI, RFC 3875, section 4.1.18).
fn alike(one: &HeaderName, other: &HeaderName) -> bool {
    let (one, other) = (one.as_str().as_bytes(), other.as_str().as_bytes());
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| a == b || matches!((a, b), (b'_', b'-') | (b'-', b'_')))
}

/// Cross-origin requests of a browser are preceded by one that says what is to be asked (Fetch, section 3.2.2).
fn is_preflight(request: &RequestView<'_>) -> bool {
    let says = |name: HeaderName| request.headers.get(name).is_some_and(|value| !value.is_empty());
    request.method == Method::OPTIONS.as_str() && says(header::ORIGIN) && says(header::ACCESS_CONTROL_REQUEST_METHOD)
}

impl Provider {
    /// The headers in which a service is told of its tokens.
    fn told_in(&self) -> impl Iterator<Item = &HeaderName> {
        self.payload_header.iter().chain(self.claim_headers.iter().map(|told| &told.header))
    }

    fn check(&self, token: &Token<'_>, now: u64) -> Result<(), Why> {
        token.in_time(now)?;
        if !token.is_for(&self.audiences) {
            return Err(Why::Audience);
        }
        self.keys.verify(token.algorithm, token.kid.as_deref(), token.signed, &token.signature)
    }

    /// What becomes of a request by a token that is believed.
    fn tell(&self, token: &Token<'_>, place: &Place, verified: &mut Verified) {
        if let Some(header) = &self.payload_header {
            let payload = match self.pad_payload {
                true => Cow::Owned(format!("{}{}", token.encoded, "=".repeat((4 - token.encoded.len() % 4) % 4))),
                false => Cow::Borrowed(token.encoded),
            };
            verified.add(header, &payload);
        }
        for told in &self.claim_headers {
            if let Some(text) = claim(&token.claims, &told.claim).and_then(text) {
                verified.add(&told.header, &text);
            }
        }
        match place {
            Place::Header(name, _) if !self.forward => verified.remove(name),
            Place::Parameter(name) if !self.forward => verified.parameters.push(name.clone()),
            _ => {}
        }
        if let Some(name) = &self.metadata {
            verified.put(name, Value::Object(split(token.claims.clone(), &self.space_delimited)));
        }
    }
}

impl Verified {
    /// Adds a header, if the value can be one.
    fn add(&mut self, name: &HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            self.added.push((name.clone(), value));
        }
    }
}

/// A claim by its name, with a dot before what is in it.
fn claim<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut names = path.split('.');
    let first = claims.get(names.next()?)?;
    names.try_fold(first, |value, name| value.get(name))
}

/// A claim as a header says it; `None` of one that is a list, an object or nothing.
fn text(claim: &Value) -> Option<String> {
    match claim {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => Some(whole.to_string()),
            (None, Some(number)) if number >= 0.0 && number.fract() == 0.0 && number < u64::MAX as f64 => {
                Some((number as u64).to_string())
            }
            (None, number) => number.map(|number| format!("{number:.6}")),
        },
        _ => None,
    }
}

/// Makes lists of the claims whose text is one.
fn split(mut claims: Map<String, Value>, listed: &[String]) -> Map<String, Value> {
    for name in listed {
        if let Some(claim) = claims.get_mut(name)
            && let Value::String(text) = claim
        {
            let parts = text.split(' ').filter(|part| !part.is_empty()).map(|part| Value::String(part.to_owned())).collect();
            *claim = Value::Array(parts);
        }
    }
    claims
}
