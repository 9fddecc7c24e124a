//! Service-account tokens of the local mesh: JWTs signed with ES256, of the form Kubernetes gives to pods.

mod claimed;

pub use claimed::Claimed;

use std::{
    fmt,
    path::Path,
    time::{Duration, SystemTime},
};

use ambit_identity::{Namespace, ServiceAccount};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::{Deserialize, Serialize};

use crate::{TlsError, files};

/// The audience that the certificate authority and xDS ask for (wire contract, section 3).
pub const AUDIENCE: &str = "istio-ca";
/// The issuer of tokens that the local mesh signs.
pub const ISSUER: &str = "https://ambit.local";
/// File of the private key in the state directory.
pub const KEY_FILE: &str = "token-key.pem";
/// File of the public key in the state directory.
pub const PUBLIC_KEY_FILE: &str = "token-key.pub.pem";
/// Clocks of one mesh may differ by this much.
const LEEWAY: Duration = Duration::from_secs(10);

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who signed it.
    pub iss: String,
    /// `system:serviceaccount:<namespace>:<service account>`.
    pub sub: String,
    /// Whom it is meant for.
    #[serde(deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// End of validity, seconds since 1970.
    pub exp: u64,
    /// Start of validity, seconds since 1970.
    #[serde(default)]
    pub nbf: u64,
    /// When it was signed, seconds since 1970.
    #[serde(default)]
    pub iat: u64,
    /// The objects it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
}

/// The Kubernetes objects a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The namespace of all of them.
    pub namespace: Namespace,
    /// The pod it was given to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectReference>,
    /// The service account it speaks for.
    pub serviceaccount: ObjectReference,
    /// The node the pod runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<ObjectReference>,
}

/// Name and uid of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectReference {
    /// Its name.
    pub name: String,
    /// Its uid; empty when not known.
    #[serde(default)]
    pub uid: String,
}

impl ObjectReference {
    /// A reference by name and uid.
    #[must_use]
    pub fn new(name: impl Into<String>, uid: impl Into<String>) -> Self {
        Self { name: name.into(), uid: uid.into() }
    }
}

impl Claims {
    /// A token for `pod` that is valid for `lifetime` from now.
    #[must_use]
    pub fn new(audiences: &[&str], kubernetes: Bound, lifetime: Duration) -> Self {
        let now = unix_now();
        Self {
            iss: ISSUER.to_owned(),
            sub: format!("system:serviceaccount:{}:{}", kubernetes.namespace, kubernetes.serviceaccount.name),
            aud: audiences.iter().map(ToString::to_string).collect(),
            exp: now + lifetime.as_secs(),
            nbf: now,
            iat: now,
            kubernetes,
        }
    }

    /// The namespace and service account the token speaks for.
    ///
    /// # Errors
    /// When the subject has another form, or contradicts the bound service account.
    pub fn service_account(&self) -> Result<(Namespace, ServiceAccount), TlsError> {
        let wrong = || TlsError::Token(format!("the subject {:?} is not its service account", self.sub));
        let mut parts = self.sub.strip_prefix("system:serviceaccount:").ok_or_else(wrong)?.split(':');
        let (Some(namespace), Some(name), None) = (parts.next(), parts.next(), parts.next()) else { return Err(wrong()) };
        if namespace != self.kubernetes.namespace.as_str() || name != self.kubernetes.serviceaccount.name {
            return Err(wrong());
        }
        let name = ServiceAccount::new(name).map_err(|e| TlsError::Token(e.to_string()))?;
        Ok((self.kubernetes.namespace.clone(), name))
    }
}

/// Signs tokens.
pub struct Signer {
    key: EncodingKey,
    public_pem: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

impl Signer {
    /// A new key in memory.
    ///
    /// # Errors
    /// When a key cannot be generated.
    pub fn create() -> Result<Self, TlsError> {
        Self::from_key(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
    }

    /// The key kept in `directory` (`token-key.pem`, readable by the owner only); made when it is not there. The public half is
    /// written beside it for verifiers (`token-key.pub.pem`). Several processes may do this at once.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub fn load_or_create(directory: &Path) -> Result<Self, TlsError> {
        let pem = files::create_or_read(&directory.join(KEY_FILE), files::SECRET, || {
            Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem())
        })?;
        let signer = Self::from_key(&KeyPair::from_pem(&pem)?)?;
        files::replace(&directory.join(PUBLIC_KEY_FILE), files::PUBLIC, &signer.public_pem)?;
        Ok(signer)
    }

    fn from_key(key: &KeyPair) -> Result<Self, TlsError> {
        let encoding = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).map_err(token_error)?;
        Ok(Self { key: encoding, public_pem: key.public_key_pem() })
    }

    /// The public key, PEM.
    #[must_use]
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// Signs `claims`.
    ///
    /// # Errors
    /// When the claims cannot be encoded.
    pub fn sign(&self, claims: &Claims) -> Result<String, TlsError> {
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), claims, &self.key).map_err(token_error)
    }

    /// A verifier of what this signer signs.
    ///
    /// # Errors
    /// When the key is not usable, which does not happen for one that signs.
    pub fn verifier(&self) -> Result<Verifier, TlsError> {
        Verifier::from_pem(&self.public_pem)
    }
}

/// Verifies tokens.
#[derive(Clone)]
pub struct Verifier {
    key: DecodingKey,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Verifier {
    /// From a public key, PEM.
    ///
    /// # Errors
    /// When the text is not a P-256 public key.
    pub fn from_pem(public_key: &str) -> Result<Self, TlsError> {
        Ok(Self { key: DecodingKey::from_ec_pem(public_key.as_bytes()).map_err(token_error)? })
    }

    /// From the file of a public key.
    ///
    /// # Errors
    /// When the file cannot be read or is not a P-256 public key.
    pub fn load(path: &Path) -> Result<Self, TlsError> {
        Self::from_pem(&files::read(path)?)
    }

    /// Checks signature (ES256 only), time, issuer, audience (one of `audiences`) and form, and returns what the token says.
    ///
    /// # Errors
    /// With the first check that fails, in words.
    pub fn verify(&self, token: &str, audiences: &[&str]) -> Result<Claims, TlsError> {
        let mut checks = Validation::new(Algorithm::ES256);
        checks.leeway = LEEWAY.as_secs();
        checks.validate_nbf = true;
        checks.set_audience(audiences);
        checks.set_issuer(&[ISSUER]);
        checks.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &checks).map_err(token_error)?.claims;
        claims.service_account()?;
        Ok(claims)
    }
}

fn token_error(error: jsonwebtoken::errors::Error) -> TlsError {
    use jsonwebtoken::errors::ErrorKind;
    TlsError::Token(match error.kind() {
        ErrorKind::ExpiredSignature => "it has expired".to_owned(),
        ErrorKind::ImmatureSignature => "it is not valid yet".to_owned(),
        ErrorKind::InvalidAudience => "it is for another audience".to_owned(),
        ErrorKind::InvalidIssuer => "it is from another issuer".to_owned(),
        ErrorKind::InvalidSignature => "its signature is wrong".to_owned(),
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => "it is not signed with ES256".to_owned(),
        _ => error.to_string(),
    })
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// RFC 7519, section 4.1.3: an audience is a string or a list of them.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}
