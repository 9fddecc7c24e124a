//! Requests of delta sessions, and what a peer that comes back says it has: megabytes, that are looked at once.

use ambit_api::envoy::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use prost::{
    DecodeError, Message,
    bytes::{Buf, Bytes},
    encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_varint, skip_field, string},
};

/// `DeltaDiscoveryRequest.initial_resource_versions`.
const VERSIONS: u32 = 5;
/// The key and the value of an entry of a map.
const KEY: u32 = 1;
const VALUE: u32 = 2;

/// A `DeltaDiscoveryRequest`.
#[derive(Debug, Clone, Default)]
pub struct DeltaRequest {
    /// All of it but the versions of what the peer has.
    pub(super) message: DeltaDiscoveryRequest,
    pub(super) told: Told,
}

/// The names and versions of what a peer has, encoded as they came: a map of them takes four times as much memory, and most of the time
/// that it takes to answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// Entries of the map, each after its length.
    entries: Bytes,
    count: usize,
}

impl From<DeltaDiscoveryRequest> for DeltaRequest {
    fn from(mut message: DeltaDiscoveryRequest) -> Self {
        let mut entries = Vec::new();
        let versions = std::mem::take(&mut message.initial_resource_versions);
        let count = versions.len();
        for (name, version) in versions {
            let mut entry = Vec::new();
            string::encode(KEY, &name, &mut entry);
            string::encode(VALUE, &version, &mut entry);
            encode_varint(entry.len() as u64, &mut entries);
            entries.extend_from_slice(&entry);
        }
        Self { message, told: Told { entries: entries.into(), count } }
    }
}

impl DeltaRequest {
    /// # Errors
    /// When it is none.
    pub(super) fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        if !tells(&bytes)? {
            return Ok(Self { message: DeltaDiscoveryRequest::decode(bytes)?, told: Told::default() });
        }
        let mut rest = Vec::new();
        let mut entries = Vec::new();
        let mut count = 0;
        while bytes.has_remaining() {
            let mut after = bytes.clone();
            let (tag, wire_type) = decode_key(&mut after)?;
            let is_version = (tag, wire_type) == (VERSIONS, WireType::LengthDelimited);
            let key = bytes.len() - after.len();
            skip_field(wire_type, tag, &mut after, DecodeContext::default())?;
            let mut field = bytes.split_to(bytes.len() - after.len());
            if is_version {
                field.advance(key);
                entries.extend_from_slice(&field);
                count += 1;
            } else {
                rest.extend_from_slice(&field);
            }
        }
        let message = DeltaDiscoveryRequest::decode(rest.as_slice())?;
        Ok(Self { message, told: Told { entries: entries.into(), count } })
    }
}

impl Told {
    /// How many.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Names with their versions, as bytes: tens of thousands are compared with those of resources.
    pub(super) fn bytes(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut left: &[u8] = &self.entries;
        std::iter::from_fn(move || (!left.is_empty()).then(|| delimited(&mut left)).flatten()).filter_map(entry)
    }

    /// Names with their versions; without those that are not texts, which no resource has.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.bytes().filter_map(|(name, version)| Some((str::from_utf8(name).ok()?, str::from_utf8(version).ok()?)))
    }
}

/// Whether a peer says in its request what it has, as it does in the first one for a type alone: most requests are answers.
fn tells(mut fields: &[u8]) -> Result<bool, DecodeError> {
    while !fields.is_empty() {
        let (tag, wire_type) = decode_key(&mut fields)?;
        if (tag, wire_type) == (VERSIONS, WireType::LengthDelimited) {
            return Ok(true);
        }
        skip_field(wire_type, tag, &mut fields, DecodeContext::default())?;
    }
    Ok(false)
}

/// What comes after its own length, which is taken off `bytes`.
fn delimited<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(decode_varint(bytes).ok()?).ok()?;
    let (field, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(field)
}

fn entry(mut bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut name, mut version): (&[u8], &[u8]) = (b"", b"");
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes).ok()?;
        match (tag, wire_type) {
            (KEY, WireType::LengthDelimited) => name = delimited(&mut bytes)?,
            (VALUE, WireType::LengthDelimited) => version = delimited(&mut bytes)?,
            _ => skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).ok()?,
        }
    }
    Some((name, version))
}

#[cfg(test)]
mod tests {
    use ambit_api::envoy::pb::envoy::config::core::v3::Node;

    use super::*;

    fn request() -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node: Some(Node { id: "n".to_owned(), ..Node::default() }),
            type_url: "t".to_owned(),
            resource_names_subscribe: vec!["x".to_owned()],
            initial_resource_versions: [("a", "1"), ("b", ""), ("", "3")].map(|(n, v)| (n.to_owned(), v.to_owned())).into(),
            response_nonce: "7".to_owned(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn told(request: &DeltaRequest) -> Vec<(&str, &str)> {
        let mut told: Vec<_> = request.told.iter().collect();
        told.sort_unstable();
        told
    }

    #[test]
    fn what_a_peer_has_is_told_apart_from_what_it_asks() {
        let decoded = DeltaRequest::decode(request().encode_to_vec().into()).unwrap();
        let made = DeltaRequest::from(request());
        let answer = DeltaDiscoveryRequest { initial_resource_versions: [].into(), ..request() };
        let answer = (DeltaRequest::decode(answer.encode_to_vec().into()).unwrap(), answer);
        assert_eq!((&answer.0.message, answer.0.told.is_empty()), (&answer.1, true));
        for request in [&decoded, &made] {
            assert_eq!(told(request), [("", "3"), ("a", "1"), ("b", "")]);
            assert_eq!((request.told.len(), request.told.is_empty()), (3, false));
        }
        assert_eq!(decoded.message, DeltaDiscoveryRequest { initial_resource_versions: [].into(), ..request() });
        assert_eq!(made.message, decoded.message);
    }

    #[test]
    fn what_is_cut_off_or_no_text_is_refused_or_left_out() {
        let whole = request().encode_to_vec();
        for length in 0..whole.len() {
            // A message may end between two fields.
            if let Ok(part) = DeltaRequest::decode(Bytes::copy_from_slice(&whole[..length])) {
                assert!(DeltaDiscoveryRequest::decode(&whole[..length]).is_ok(), "{length}");
                assert!(part.told.len() <= 3);
            }
        }
        // Field 5 with an entry whose name is no text, and one that is cut off within.
        let decoded = DeltaRequest::decode(Bytes::from_static(b"\x2a\x03\x0a\x01\xff\x2a\x02\x0a\x09")).unwrap();
        assert_eq!((decoded.told.len(), decoded.told.iter().count()), (2, 0));
    }
}
