//! Resources as bytes: most of what is sent is the same for all who are sent it, so it is encoded once.

use std::fmt;

use ambit_api::envoy::pb::envoy::service::discovery::v3::Resource;
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};

use crate::Any;

/// `Resource.resource`.
const BODY: u32 = 2;
/// `DeltaDiscoveryResponse.resources`.
pub(super) const RESOURCES: u32 = 2;

/// A `Resource` of a delta response, encoded.
pub(super) struct EncodedResource {
    bytes: Box<[u8]>,
    /// Where the encoded body begins, which is last.
    body: usize,
}

impl fmt::Debug for EncodedResource {
    /// Without the bytes, which may be those of a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodedResource").field("length", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl EncodedResource {
    pub(super) fn new(name: &str, version: &str, aliases: &[String], body: &Any) -> Self {
        let head =
            Resource { name: name.to_owned(), version: version.to_owned(), aliases: aliases.to_vec(), ..Resource::default() };
        let length = body.encoded_len();
        let mut bytes = Vec::with_capacity(head.encoded_len() + 1 + encoded_len_varint(length as u64) + length);
        head.encode_raw(&mut bytes);
        encode_key(BODY, WireType::LengthDelimited, &mut bytes);
        encode_varint(length as u64, &mut bytes);
        let at = bytes.len();
        body.encode_raw(&mut bytes);
        Self { bytes: bytes.into(), body: at }
    }

    /// What it is the resource of.
    pub(super) fn body(&self) -> Any {
        // It was encoded here, so it can be decoded.
        self.bytes.get(self.body..).and_then(|body| Any::decode(body).ok()).unwrap_or_default()
    }

    /// The resource, decoded.
    #[cfg(test)]
    pub(super) fn resource(&self) -> Resource {
        Resource::decode(&*self.bytes).unwrap_or_default()
    }

    /// How many bytes it takes in a response.
    pub(super) fn field_len(&self) -> usize {
        1 + encoded_len_varint(self.bytes.len() as u64) + self.bytes.len()
    }

    /// Adds it to a response.
    pub(super) fn put_field(&self, response: &mut Vec<u8>) {
        encode_key(RESOURCES, WireType::LengthDelimited, response);
        encode_varint(self.bytes.len() as u64, response);
        response.extend_from_slice(&self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use ambit_api::envoy::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;

    use super::*;

    #[test]
    fn what_is_encoded_is_the_resource_with_its_body() {
        for value in [Vec::new(), vec![7; 3], vec![7; 300]] {
            let body = Any { type_url: "type/any".to_owned(), value };
            let resource = EncodedResource::new("a", "1", &["b".to_owned(), "c".to_owned()], &body);
            assert_eq!(resource.body(), body);
            let mut response = Vec::new();
            resource.put_field(&mut response);
            assert_eq!(response.len(), resource.field_len());
            let [decoded] = DeltaDiscoveryResponse::decode(response.as_slice()).unwrap().resources.try_into().unwrap();
            let expected = Resource {
                name: "a".to_owned(),
                version: "1".to_owned(),
                aliases: vec!["b".to_owned(), "c".to_owned()],
                resource: Some(body),
                ..Resource::default()
            };
            assert_eq!(decoded, expected);
        }
    }
}
