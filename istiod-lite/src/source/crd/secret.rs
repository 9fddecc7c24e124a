//! Secrets of type `kubernetes.io/tls`, which Gateways at the edge of the mesh name: a certificate and its private key. Of other Secrets, and of
//! other keys of these, nothing is kept, and the private key is in no text that is made of one.

use std::fmt;

use ambit_tls::Served;
use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use crate::source::NamespacedName;

/// The type of the Secrets that are read.
pub const TYPE: &str = "kubernetes.io/tls";
/// The key of the certificate, with those that have issued it after it.
pub const CERTIFICATE: &str = "tls.crt";
/// The key of the private key.
pub const KEY: &str = "tls.key";

/// What is read of a Secret.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "Secret")]
pub struct TlsSecret {
    /// Namespace and name; nothing else is kept.
    pub metadata: ObjectMeta,
    /// What it holds, or why that cannot be used.
    pub pair: Result<Pair, String>,
}

impl TlsSecret {
    /// What stands for a Secret that cannot be read, and why.
    pub(crate) fn unread(name: &NamespacedName, why: String) -> Self {
        let (namespace, name) = (Some(name.namespace.to_string()), Some(name.name.to_string()));
        Self { metadata: ObjectMeta { namespace, name, ..ObjectMeta::default() }, pair: Err(why) }
    }
}

/// A certificate and its private key, both as PEM, which fit each other.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pair(..)")
    }
}

/// The object as the API server has it, or as it is written in a file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Secret {
    metadata: ObjectMeta,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    string_data: Value,
    #[serde(default, rename = "type")]
    _type: Option<Value>,
    #[serde(default, rename = "immutable")]
    _immutable: Option<Value>,
}

impl From<Secret> for TlsSecret {
    fn from(Secret { metadata, data, string_data, .. }: Secret) -> Self {
        let ObjectMeta { namespace, name, .. } = metadata;
        Self { metadata: ObjectMeta { namespace, name, ..ObjectMeta::default() }, pair: pair(&data, &string_data) }
    }
}

fn pair(data: &Value, string_data: &Value) -> Result<Pair, String> {
    let bytes = |key: &str| -> Result<Vec<u8>, String> {
        // As the API server has it, which puts these over those.
        if let Some(text) = string_data.get(key).and_then(Value::as_str) {
            return Ok(text.as_bytes().to_vec());
        }
        let encoded = data.get(key).ok_or_else(|| format!("it has no {key}"))?;
        let decoded: Result<ByteString, _> = serde_json::from_value(encoded.clone());
        // What is wrong with it would quote it.
        decoded.map(|bytes| bytes.0).map_err(|_| format!("its {key} is not base64"))
    };
    let pair = Pair { certificate: bytes(CERTIFICATE)?, key: bytes(KEY)? };
    Served::from_pem(&pair.certificate, &pair.key).map_err(|error| error.to_string())?;
    Ok(pair)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use serde_json::json;

    use super::*;

    fn read(data: &Value) -> TlsSecret {
        let metadata = json!({"namespace": "shop", "name": "cert", "annotations": {"a": "b"}});
        serde_json::from_value(json!({"metadata": metadata, "type": TYPE, "stringData": data})).unwrap()
    }

    #[test]
    fn of_a_secret_the_certificate_and_its_key_are_kept_and_no_text_has_the_key() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let secret = read(&json!({CERTIFICATE: certificate, KEY: key.serialize_pem(), "other": "x"}));
        assert_eq!(secret.metadata.annotations, None);
        assert_eq!(secret.pair.as_ref().unwrap().certificate, certificate.as_bytes());
        assert!(format!("{secret:?}").contains("Pair(..)") && !format!("{secret:?}").contains("PRIVATE"), "{secret:?}");
        let why = |data: &Value| read(data).pair.unwrap_err();
        assert_eq!(why(&json!({CERTIFICATE: certificate})), "it has no tls.key");
        assert_eq!(why(&json!({})), "it has no tls.crt");
        let other = KeyPair::generate().unwrap().serialize_pem();
        assert_eq!(why(&json!({CERTIFICATE: certificate, KEY: other})), "private key: it is not that of the certificate");
        let encoded: TlsSecret =
            serde_json::from_value(json!({"metadata": {"name": "c"}, "data": {CERTIFICATE: "%", KEY: "%"}})).unwrap();
        assert_eq!(encoded.pair.unwrap_err(), "its tls.crt is not base64");
    }
}
