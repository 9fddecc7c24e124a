//! What was received, as it was received, for whoever looks at it: what a resource is compiled to does not say what it was compiled from.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use ambit_api::{
    envoy::pb::{
        envoy::{
            config::core::v3::{DataSource, data_source::Specifier},
            extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, secret::Type},
        },
        google::protobuf::StringValue,
    },
    type_url,
};
use ambit_xds::Resource;
use bytes::Bytes;
use prost::Message;

/// What stands in the place of what nobody is to read, as in Envoy.
pub const REDACTED: &[u8] = b"[redacted]";

/// A resource as it was sent once.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// The version that the server gave it.
    pub version: String,
    /// When it was received.
    pub at: SystemTime,
    /// The encoded message; of a secret, without its key.
    pub body: Bytes,
}

/// What is known of a resource.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    /// What is in force.
    pub held: Option<Sent>,
    /// What was refused since then, and why.
    pub refused: Option<(Sent, String)>,
}

/// What is known of the resources of one type.
#[derive(Debug, Clone, Default)]
pub struct Kind {
    /// By name.
    pub resources: BTreeMap<String, Known>,
    /// Responses that were taken whole.
    pub taken: u64,
    /// Responses of which something was refused.
    pub refused: u64,
}

/// What was received of each type.
#[derive(Debug, Clone, Default)]
pub struct Received(BTreeMap<String, Kind>);

impl Received {
    /// What is known of the resources of a type.
    #[must_use]
    pub fn of(&self, type_url: &str) -> Option<&Kind> {
        self.0.get(type_url)
    }

    /// A response: its resources, with why they were refused if they were, and the names of those that are gone.
    pub(super) fn take(&mut self, type_url: &str, upserts: Vec<(Resource, Option<String>)>, removals: &[String]) {
        let kind = self.0.entry(type_url.to_owned()).or_default();
        match upserts.iter().any(|(_, refused)| refused.is_some()) {
            true => kind.refused += 1,
            false => kind.taken += 1,
        }
        for name in removals {
            kind.resources.remove(name);
        }
        let at = SystemTime::now();
        for (Resource { name, version, body }, refused) in upserts {
            let sent = Sent { version, at, body: Bytes::from(body.value) };
            let known = kind.resources.entry(name).or_default();
            match refused {
                None => *known = Known { held: Some(sent), refused: None },
                Some(why) => known.refused = Some((sent, why)),
            }
        }
    }

    /// Lets go of what nobody wants any more.
    pub(super) fn retain(&mut self, type_url: &str, wanted: &BTreeSet<String>) {
        if let Some(kind) = self.0.get_mut(type_url) {
            kind.resources.retain(|name, _| wanted.contains(name));
        }
    }
}

/// The resource without what nobody is to read.
pub(super) fn readable(type_url: &str, mut resource: Resource) -> Resource {
    match type_url {
        type_url::SECRET => {
            let secret = Secret::decode(resource.body.value.as_slice()).map(redacted);
            resource.body.value = secret.unwrap_or_default().encode_to_vec();
        }
        // They have keys from secrets, and are refused with one of their own.
        type_url::LISTENER | type_url::CLUSTER if has_key(&resource.body.value) => resource.body.value = named(&resource.name),
        _ => {}
    }
    resource
}

/// Whether there is a key somewhere, in PEM (RFC 7468, section 2).
fn has_key(bytes: &[u8]) -> bool {
    bytes.split(|byte| *byte == b'-').any(|part| part.ends_with(b"PRIVATE KEY"))
}

/// A resource that has nothing but its name, which is the first field of each type, and a string.
pub fn named(name: &str) -> Vec<u8> {
    StringValue { value: name.to_owned() }.encode_to_vec()
}

/// A certificate without its key. Of any other secret only the name is left, as not all is known of what may be in it.
fn redacted(mut secret: Secret) -> Secret {
    secret.r#type = match secret.r#type.take() {
        Some(Type::TlsCertificate(pair)) => Some(Type::TlsCertificate(TlsCertificate {
            certificate_chain: pair.certificate_chain,
            private_key: pair.private_key.map(|key| hidden(&key)),
            ..TlsCertificate::default()
        })),
        _ => None,
    };
    secret
}

/// Says that there was something, in the form that it had.
fn hidden(source: &DataSource) -> DataSource {
    let specifier = source.specifier.as_ref().map(|specifier| match specifier {
        Specifier::InlineString(_) => Specifier::InlineString(String::from_utf8_lossy(REDACTED).into_owned()),
        _ => Specifier::InlineBytes(REDACTED.to_vec()),
    });
    DataSource { specifier, ..DataSource::default() }
}

#[cfg(test)]
mod tests {
    use ambit_xds::Any;

    use super::*;

    fn resource(name: &str, version: &str, body: Vec<u8>) -> Resource {
        Resource { name: name.into(), version: version.into(), body: Any { type_url: String::new(), value: body } }
    }

    #[test]
    fn what_is_in_force_stays_beside_what_was_refused_since() {
        let mut received = Received::default();
        received.take("t", vec![(resource("a", "1", vec![1]), None), (resource("b", "1", vec![2]), None)], &[]);
        received.take("t", vec![(resource("a", "2", vec![3]), Some("no good".into()))], &["b".into()]);
        let kind = received.of("t").unwrap();
        assert_eq!((kind.taken, kind.refused, kind.resources.len()), (1, 1, 1));
        let known = &kind.resources["a"];
        let (held, (refused, why)) = (known.held.as_ref().unwrap(), known.refused.as_ref().unwrap());
        assert_eq!((held.version.as_str(), &held.body[..]), ("1", &[1][..]));
        assert_eq!((refused.version.as_str(), &refused.body[..], why.as_str()), ("2", &[3][..], "no good"));
        received.take("t", vec![(resource("a", "3", vec![4]), None)], &[]);
        assert_eq!(received.of("t").unwrap().resources["a"].refused, None);
        received.retain("t", &BTreeSet::new());
        assert!(received.of("t").unwrap().resources.is_empty());
    }

    #[test]
    fn keys_are_not_kept() {
        let source =
            |text: &str| Some(DataSource { specifier: Some(Specifier::InlineString(text.into())), ..DataSource::default() });
        let pair = TlsCertificate {
            certificate_chain: source("the chain"),
            private_key: source("the key"),
            password: source("the password"),
            ..TlsCertificate::default()
        };
        let secret = Secret { name: "edge".into(), r#type: Some(Type::TlsCertificate(pair)) };
        let kept = readable(type_url::SECRET, resource("edge", "1", secret.encode_to_vec())).body.value;
        let text = String::from_utf8_lossy(&kept);
        assert!(text.contains("the chain") && text.contains("[redacted]"), "{text}");
        assert!(!text.contains("the key") && !text.contains("password"), "{text}");

        let listener = |text: &str| resource("inner", "1", [b"\x0a\x05inner\x12".as_slice(), text.as_bytes()].concat());
        let kept = |text: &str| readable(type_url::LISTENER, listener(text)).body.value;
        for text in ["-----BEGIN PRIVATE KEY-----\nMII", "-----BEGIN RSA PRIVATE KEY-----\nMII"] {
            assert_eq!(kept(text), b"\x0a\x05inner");
        }
        let text = "-----BEGIN CERTIFICATE-----\nMII";
        assert_eq!(kept(text), listener(text).body.value);
    }
}
