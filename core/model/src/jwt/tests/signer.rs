//! Somebody who signs tokens.

use aws_lc_rs::{
    rand::SystemRandom,
    rsa,
    signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

enum Key {
    Elliptic(EcdsaKeyPair),
    Edwards(Ed25519KeyPair),
    Rsa(std::sync::Arc<rsa::KeyPair>, &'static dyn RsaEncoding),
}

pub struct Signer {
    pub alg: &'static str,
    key: Key,
}

pub fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    fn elliptic(alg: &'static str, by: &'static EcdsaSigningAlgorithm) -> Self {
        Self { alg, key: Key::Elliptic(EcdsaKeyPair::generate(by).unwrap()) }
    }

    pub fn p256() -> Self {
        Self::elliptic("ES256", &signature::ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    pub fn ed25519() -> Self {
        Self { alg: "EdDSA", key: Key::Edwards(Ed25519KeyPair::generate().unwrap()) }
    }

    /// One of each algorithm.
    pub fn all() -> Vec<Self> {
        let key = std::sync::Arc::new(rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap());
        let rsa: [(&str, &'static dyn RsaEncoding); 6] = [
            ("RS256", &signature::RSA_PKCS1_SHA256),
            ("RS384", &signature::RSA_PKCS1_SHA384),
            ("RS512", &signature::RSA_PKCS1_SHA512),
            ("PS256", &signature::RSA_PSS_SHA256),
            ("PS384", &signature::RSA_PSS_SHA384),
            ("PS512", &signature::RSA_PSS_SHA512),
        ];
        let mut all: Vec<_> = rsa.into_iter().map(|(alg, by)| Self { alg, key: Key::Rsa(key.clone(), by) }).collect();
        all.push(Self::p256());
        all.push(Self::elliptic("ES384", &signature::ECDSA_P384_SHA384_FIXED_SIGNING));
        all.push(Self::elliptic("ES512", &signature::ECDSA_P521_SHA512_FIXED_SIGNING));
        all.push(Self::ed25519());
        all
    }

    /// The public key.
    pub fn jwk(&self) -> Value {
        match &self.key {
            Key::Elliptic(key) => {
                // 4, then both coordinates.
                let (x, y) = key.public_key().as_ref()[1..].split_at(key.public_key().as_ref().len() / 2);
                let crv = match self.alg {
                    "ES256" => "P-256",
                    "ES384" => "P-384",
                    _ => "P-521",
                };
                json!({ "kty": "EC", "crv": crv, "kid": "k", "x": encoded(x), "y": encoded(y) })
            }
            Key::Edwards(key) => json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": encoded(key.public_key().as_ref()) }),
            Key::Rsa(key, _) => {
                // A sequence of the modulus and of 65537, three bytes long (RFC 8017, section A.1.1).
                let der = key.public_key().as_ref();
                let end = der.len() - 5;
                json!({ "kty": "RSA", "kid": "k", "n": encoded(&der[end - 257..end]), "e": encoded(&der[end + 2..]) })
            }
        }
    }

    pub fn jwks(&self) -> String {
        json!({ "keys": [self.jwk()] }).to_string()
    }

    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({ "alg": self.alg, "typ": "JWT", "kid": "k" }), claims)
    }

    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encoded(header.to_string().as_bytes()), encoded(claims.to_string().as_bytes()));
        let message = signed.as_bytes();
        let random = SystemRandom::new();
        let signature = match &self.key {
            Key::Elliptic(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Edwards(key) => key.sign(message).as_ref().to_vec(),
            Key::Rsa(key, by) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*by, &random, message, &mut signature).unwrap();
                signature
            }
        };
        format!("{signed}.{}", encoded(&signature))
    }
}
