//! One token: its parts, and what it says.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{Why, keys::Algorithm};

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// By how much clocks may differ, in seconds; Envoy's own default.
const LEEWAY: u64 = 60;

/// A token that can be read; whether it is to be believed is another question.
#[derive(Debug)]
pub(super) struct Token<'a> {
    /// What is signed.
    pub signed: &'a str,
    /// The payload as it was sent.
    pub encoded: &'a str,
    pub algorithm: Algorithm,
    pub kid: Option<String>,
    pub claims: Map<String, Value>,
    pub signature: Vec<u8>,
}

impl<'a> Token<'a> {
    pub fn read(text: &'a str) -> Result<Self, Why> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(Why::TooLarge);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Why::Format)?;
        let (header, encoded) = signed.split_once('.').ok_or(Why::Format)?;
        if header.is_empty() || encoded.is_empty() || signature.is_empty() || encoded.contains('.') {
            return Err(Why::Format);
        }
        let header = object(header, Why::HeaderEncoding, Why::HeaderJson)?;
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(Why::NoAlgorithm)?;
        let algorithm = Algorithm::named(algorithm).ok_or(Why::Algorithm)?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()).filter(|kid| !kid.is_empty()),
            Some(_) => return Err(Why::KeyId),
        };
        if header.contains_key("crit") {
            return Err(Why::Critical);
        }
        let claims = object(encoded, Why::PayloadEncoding, Why::PayloadJson)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Why::SignatureEncoding)?;
        let token = Self { signed, encoded, algorithm, kid, claims, signature };
        token.well_formed()?;
        Ok(token)
    }

    /// Registered claims are of the types that they have (RFC 7519, section 4.1).
    fn well_formed(&self) -> Result<(), Why> {
        for name in ["iss", "sub", "jti"] {
            if self.claims.get(name).is_some_and(|claim| !claim.is_string()) {
                return Err(Why::Claim);
            }
        }
        for name in ["iat", "nbf", "exp"] {
            self.time(name)?;
        }
        match self.claims.get("aud") {
            None | Some(Value::String(_)) => Ok(()),
            Some(Value::Array(all)) if all.iter().all(Value::is_string) => Ok(()),
            Some(_) => Err(Why::Claim),
        }
    }

    /// A time in seconds since 1970; parts of a second do not count.
    fn time(&self, name: &str) -> Result<Option<u64>, Why> {
        let Some(claim) = self.claims.get(name) else { return Ok(None) };
        if let Some(seconds) = claim.as_u64() {
            return Ok(Some(seconds));
        }
        match claim.as_f64() {
            // What is beyond the largest is the largest.
            Some(seconds) if seconds >= 0.0 => Ok(Some(seconds as u64)),
            _ => Err(Why::Claim),
        }
    }

    /// Who made it; empty when it does not say.
    pub fn issuer(&self) -> &str {
        self.claims.get("iss").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether it holds at `now`, in seconds since 1970.
    pub fn in_time(&self, now: u64) -> Result<(), Why> {
        if self.time("nbf")?.is_some_and(|from| now.saturating_add(LEEWAY) < from) {
            return Err(Why::NotYetValid);
        }
        if self.time("exp")?.is_some_and(|until| now > until.saturating_add(LEEWAY)) {
            return Err(Why::Expired);
        }
        Ok(())
    }

    /// Whether it is meant for one of these; for anybody when there are none.
    pub fn is_for(&self, audiences: &[String]) -> bool {
        let own: Vec<&str> = match self.claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        audiences.is_empty() || own.iter().any(|own| audiences.iter().any(|wanted| bare(wanted) == bare(own)))
    }
}

/// Audiences are compared without scheme and the slash at their end, as Envoy does.
fn bare(audience: &str) -> &str {
    let rest = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://")).unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}

fn object(part: &str, encoding: Why, json: Why) -> Result<Map<String, Value>, Why> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| encoding)?;
    serde_json::from_slice(&bytes).map_err(|_| json)
}
