//! Responses of delta sessions, of which the resources are encoded already.

use std::{fmt, sync::Arc};

use ambit_api::envoy::pb::envoy::config::cluster::v3::Cluster;
#[cfg(test)]
use ambit_api::envoy::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};

use super::{Entry, order::TypeUrl};

/// A `DeltaDiscoveryResponse`.
#[derive(Debug, Clone)]
pub struct DeltaResponse {
    pub(super) head: Head,
    pub(super) resources: Resources,
}

/// All of a response but the resources. It is told a thousand peers at once, so it becomes bytes without being texts before.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// `system_version_info`: the generation of the view that the response reflects.
    pub(super) generation: u64,
    pub(super) type_url: TypeUrl,
    pub(super) removed: Vec<String>,
    pub(super) nonce: u64,
}

/// Of `DeltaDiscoveryResponse`.
const SYSTEM_VERSION_INFO: u32 = 1;
const TYPE_URL: u32 = 4;
const NONCE: u32 = 5;
const REMOVED_RESOURCES: u32 = 6;

impl Head {
    /// How many bytes [`Self::put`] adds.
    pub(super) fn encoded_len(&self) -> usize {
        let texts = text_len(self.type_url.len()) + text_len(digits(self.generation)) + text_len(digits(self.nonce));
        texts + self.removed.iter().map(|name| text_len(name.len())).sum::<usize>()
    }

    /// Adds it to a response.
    pub(super) fn put(&self, response: &mut Vec<u8>) {
        put_number(SYSTEM_VERSION_INFO, self.generation, response);
        put_text(TYPE_URL, self.type_url.as_bytes(), response);
        put_number(NONCE, self.nonce, response);
        self.removed.iter().for_each(|name| put_text(REMOVED_RESOURCES, name.as_bytes(), response));
    }
}

/// Of a field with a text of so many bytes. The numbers of the fields are all below 16.
fn text_len(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

fn put_text(field: u32, text: &[u8], response: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, response);
    encode_varint(text.len() as u64, response);
    response.extend_from_slice(text);
}

/// How many digits a number has in decimal.
fn digits(number: u64) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// Adds a text that is a number in decimal.
fn put_number(field: u32, mut number: u64, response: &mut Vec<u8>) {
    let mut decimal = [b'0'; 20];
    let count = digits(number);
    for digit in decimal.iter_mut().take(count).rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    put_text(field, decimal.get(..count).unwrap_or_default(), response);
}

/// Resources of a response.
#[derive(Clone)]
pub(super) enum Resources {
    /// These.
    Some(Vec<Arc<Entry>>),
    /// Those of the whole view, or those that changed last in it, as fields of the response.
    Fields(Arc<Vec<u8>>),
}

impl fmt::Debug for Resources {
    /// Without the bytes, which may be those of private keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Some(entries) => f.debug_tuple("Some").field(entries).finish(),
            Self::Fields(fields) => f.debug_tuple("Fields").field(&fields.len()).finish(),
        }
    }
}

impl Default for Resources {
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

impl Resources {
    /// By which names the endpoints of these clusters are asked for; none of a whole view, before which nothing was. What changes of clusters
    /// is never in fields: their removal is put off.
    pub(super) fn names_of_endpoints(&self) -> Vec<String> {
        let Self::Some(clusters) = self else { return Vec::new() };
        let name = |entry: &Arc<Entry>| {
            let config = Cluster::decode(entry.body().value.as_slice()).ok().and_then(|cluster| cluster.eds_cluster_config);
            let named = config.map(|config| config.service_name).filter(|name| !name.is_empty());
            named.unwrap_or_else(|| entry.name.to_string())
        };
        clusters.iter().map(name).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Some(entries) => entries.is_empty(),
            Self::Fields(fields) => fields.is_empty(),
        }
    }
}

#[cfg(test)]
impl DeltaResponse {
    /// The message, decoded.
    pub(super) fn message(&self) -> DeltaDiscoveryResponse {
        let resources = match &self.resources {
            Resources::Some(entries) => entries.iter().map(|entry| entry.encoded.resource()).collect(),
            // They were encoded here, so they can be decoded.
            Resources::Fields(fields) => DeltaDiscoveryResponse::decode(fields.as_slice()).unwrap_or_default().resources,
        };
        let mut head = Vec::new();
        self.head.put(&mut head);
        assert_eq!(head.len(), self.head.encoded_len());
        DeltaDiscoveryResponse { resources, ..DeltaDiscoveryResponse::decode(head.as_slice()).unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_what_the_message_without_resources_would_be() {
        for number in [0, 9, 10, 99, 100, 4_096, u64::from(u32::MAX), 10_u64.pow(19) - 1, 10_u64.pow(19), u64::MAX] {
            let head = Head {
                generation: number,
                type_url: "type/any".into(),
                removed: vec!["a".to_owned(), "b".repeat(200)],
                nonce: number / 7,
            };
            let expected = DeltaDiscoveryResponse {
                system_version_info: number.to_string(),
                type_url: "type/any".to_owned(),
                removed_resources: head.removed.clone(),
                nonce: (number / 7).to_string(),
                ..DeltaDiscoveryResponse::default()
            };
            assert_eq!(DeltaResponse { head, resources: Resources::default() }.message(), expected);
        }
    }
}
