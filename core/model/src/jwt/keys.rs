//! The public keys of an issuer (RFC 7517, 7518, 8037).

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Why;

/// The longest set of keys that is read, in bytes.
pub const MAX_JWKS_BYTES: usize = 256 * 1024;
/// The most keys that a set may have: a token without `kid` is tried with each.
const MAX_KEYS: usize = 64;
/// RSA moduli, in bytes: 2048 to 8192 bits.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// How a token may be signed. There is none with a secret and no `none`: whoever could verify with one of those could sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    /// By the name that `alg` has.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// By what an RSA key may have signed.
const RSA: [Algorithm; 6] =
    [Algorithm::Rs256, Algorithm::Rs384, Algorithm::Rs512, Algorithm::Ps256, Algorithm::Ps384, Algorithm::Ps512];

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::EdDsa => return None,
    })
}

/// Why a set of keys cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadJwks {
    /// It is longer than it may be.
    #[error("a set of keys of {0} bytes, more than {max}", max = MAX_JWKS_BYTES)]
    TooLarge(usize),
    /// It is no JSON object with a list `keys` of objects.
    #[error("no JSON object with a list of keys")]
    Form,
    /// It has more keys than it may have.
    #[error("{0} keys, more than {max}", max = MAX_KEYS)]
    TooMany(usize),
}

/// A key, ready to verify.
#[derive(Debug, Clone, Serialize)]
struct Key {
    /// Its name.
    kid: Option<String>,
    /// The algorithms that it may have signed by.
    algorithms: Vec<Algorithm>,
    #[serde(skip)]
    parsed: Vec<ParsedPublicKey>,
    /// What of it is public and means something here.
    #[serde(skip)]
    text: Map<String, Value>,
}

/// The keys of an issuer that can be used.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Keys {
    keys: Vec<Key>,
    /// Which of the set cannot be used, by their places, and why not.
    #[serde(skip)]
    unusable: Vec<(usize, &'static str)>,
}

impl Keys {
    /// Reads a JSON Web Key Set. Keys that cannot be used are left out (RFC 7517, section 5): see [`Keys::unusable`].
    ///
    /// # Errors
    /// When it is no such set, or too large.
    pub fn parse(jwks: &str) -> Result<Self, BadJwks> {
        if jwks.len() > MAX_JWKS_BYTES {
            return Err(BadJwks::TooLarge(jwks.len()));
        }
        let set: Value = serde_json::from_str(jwks).map_err(|_| BadJwks::Form)?;
        let listed = set.get("keys").and_then(Value::as_array).ok_or(BadJwks::Form)?;
        if listed.len() > MAX_KEYS {
            return Err(BadJwks::TooMany(listed.len()));
        }
        let mut read = Self::default();
        for (place, key) in listed.iter().enumerate() {
            match Key::read(key.as_object().ok_or(BadJwks::Form)?) {
                Ok(key) => read.keys.push(key),
                Err(why) => read.unusable.push((place, why)),
            }
        }
        Ok(read)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The places in the set of the keys that cannot be used, and why.
    #[must_use]
    pub fn unusable(&self) -> &[(usize, &'static str)] {
        &self.unusable
    }

    /// The same keys in an order that does not go by that of the set.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.keys.sort_by_cached_key(|key| Value::Object(key.text.clone()).to_string());
        self
    }

    /// A set of the keys that can be used, with nothing in it but what is public and needed to verify.
    #[must_use]
    pub fn to_jwks(&self) -> String {
        let keys = self.keys.iter().map(|key| Value::Object(key.text.clone())).collect();
        Value::Object(Map::from_iter([("keys".to_owned(), Value::Array(keys))])).to_string()
    }

    /// Whether `signature` is one of `message` by one of the keys. Those with another `kid` than the token's are not asked.
    pub(super) fn verify(&self, algorithm: Algorithm, kid: Option<&str>, message: &str, signature: &[u8]) -> Result<(), Why> {
        if self.keys.is_empty() {
            return Err(Why::NoKeys);
        }
        let mut asked = false;
        for key in &self.keys {
            if key.kid.as_deref().zip(kid).is_some_and(|(own, wanted)| own != wanted) {
                continue;
            }
            let by = key.algorithms.iter().zip(&key.parsed).find(|(by, _)| **by == algorithm);
            let Some((_, parsed)) = by else { continue };
            asked = true;
            if parsed.verify_sig(message.as_bytes(), signature).is_ok() {
                return Ok(());
            }
        }
        Err(if asked { Why::Signature } else { Why::NoSuchKey })
    }
}

impl Key {
    fn read(key: &Map<String, Value>) -> Result<Self, &'static str> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        if key.get("kid").is_some_and(|kid| !kid.is_string()) {
            return Err("kid is not text");
        }
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return Err("it is not for signatures");
        }
        if let Some(operations) = key.get("key_ops").and_then(Value::as_array)
            && !operations.iter().any(|operation| operation == "verify")
        {
            return Err("it is not to verify with");
        }
        let only = match key.get("alg") {
            None => None,
            Some(alg) => Some(alg.as_str().and_then(Algorithm::named).ok_or("its alg is none that is taken")?),
        };
        let (algorithms, parsed, public) = match text("kty") {
            Some("RSA") => Self::rsa(text("n"), text("e"), only)?,
            Some("EC") => Self::elliptic(text("crv"), text("x"), text("y"))?,
            Some("OKP") if text("crv") == Some("Ed25519") => Self::edwards(text("x"))?,
            Some("oct") => return Err("it is a secret"),
            _ => return Err("it is of no kind that is taken: RSA, EC, OKP with Ed25519"),
        };
        if only.is_some_and(|only| !algorithms.contains(&only)) {
            return Err("its alg is not one of its kind");
        }
        let kept = ["kty", "kid", "alg"].into_iter().chain(public.iter().copied());
        let text = kept.filter_map(|name| Some((name.to_owned(), key.get(name)?.clone()))).collect();
        let kid = key.get("kid").and_then(Value::as_str).filter(|kid| !kid.is_empty()).map(str::to_owned);
        Ok(Self { kid, algorithms, parsed, text })
    }

    fn rsa(n: Option<&str>, e: Option<&str>, only: Option<Algorithm>) -> Result<Parts, &'static str> {
        let (n, e) = (number(n).ok_or("n is no number")?, number(e).ok_or("e is no number")?);
        if !MODULUS.contains(&n.len()) {
            return Err("its modulus has not 2048 to 8192 bits");
        }
        let components = RsaPublicKeyComponents { n, e };
        let (mut algorithms, mut parsed) = (Vec::new(), Vec::new());
        for algorithm in RSA.into_iter().filter(|algorithm| only.is_none_or(|only| only == *algorithm)) {
            let Some(parameters) = rsa_parameters(algorithm) else { continue };
            parsed.push(components.to_parsed_public_key(parameters).map_err(|_| "it is no RSA key")?);
            algorithms.push(algorithm);
        }
        Ok((algorithms, parsed, RSA_MEMBERS))
    }

    fn elliptic(curve: Option<&str>, x: Option<&str>, y: Option<&str>) -> Result<Parts, &'static str> {
        let (algorithm, by, size) = match curve {
            Some("P-256") => (Algorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED, 32),
            Some("P-384") => (Algorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED, 48),
            Some("P-521") => (Algorithm::Es512, &signature::ECDSA_P521_SHA512_FIXED, 66),
            _ => return Err("its crv is none that is taken: P-256, P-384, P-521"),
        };
        // The point as it is, not compressed (SEC 1, section 2.3.3).
        let mut point = vec![4];
        for coordinate in [x, y] {
            let coordinate = coordinate.and_then(bytes).filter(|bytes| bytes.len() == size).ok_or("x or y is no coordinate")?;
            point.extend(coordinate);
        }
        let parsed = ParsedPublicKey::new(by, point).map_err(|_| "its point is not on the curve")?;
        Ok((vec![algorithm], vec![parsed], EC_MEMBERS))
    }

    fn edwards(x: Option<&str>) -> Result<Parts, &'static str> {
        let point = x.and_then(bytes).filter(|bytes| bytes.len() == 32).ok_or("x is no point")?;
        let parsed = ParsedPublicKey::new(&signature::ED25519, point).map_err(|_| "x is no point")?;
        Ok((vec![Algorithm::EdDsa], vec![parsed], OKP_MEMBERS))
    }
}

const RSA_MEMBERS: &[&str] = &["n", "e"];
const EC_MEMBERS: &[&str] = &["crv", "x", "y"];
const OKP_MEMBERS: &[&str] = &["crv", "x"];

/// The algorithms of a key, it for each of them, and its members that are to be kept.
type Parts = (Vec<Algorithm>, Vec<ParsedPublicKey>, &'static [&'static str]);

/// Base64url; there are issuers that fill it up.
fn bytes(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

/// A number without the zeros that some issuers begin it with.
fn number(text: Option<&str>) -> Option<Vec<u8>> {
    let mut bytes = bytes(text?)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.drain(..zeros);
    (!bytes.is_empty()).then_some(bytes)
}
