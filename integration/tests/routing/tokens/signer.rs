//! Somebody who signs tokens with ES256.

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

pub struct Signer(EcdsaKeyPair);

pub fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub fn create() -> anyhow::Result<Self> {
        Ok(Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?))
    }

    /// The public key, as a set of one.
    pub fn jwks(&self) -> String {
        // 4, then both coordinates.
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "k", "alg": "ES256", "x": encoded(x), "y": encoded(y) }] })
            .to_string()
    }

    pub fn token(&self, claims: &Value) -> anyhow::Result<String> {
        let signed = self.signed(r#"{"alg":"ES256","kid":"k","typ":"JWT"}"#, claims);
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes())?;
        Ok(format!("{signed}.{}", encoded(signature)))
    }

    /// A token that says it is signed with a secret, for which the public key is taken.
    pub fn by_secret(&self, claims: &Value) -> String {
        let signed = self.signed(r#"{"alg":"HS256","kid":"k"}"#, claims);
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.public_key().as_ref());
        format!("{signed}.{}", encoded(hmac::sign(&key, signed.as_bytes())))
    }

    fn signed(&self, header: &str, claims: &Value) -> String {
        format!("{}.{}", encoded(header), encoded(claims.to_string()))
    }
}
