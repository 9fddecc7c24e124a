//! Envoy's messages as JSON, with the names that their fields have in its `.proto` files.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ambit_api::envoy::pb::{
    envoy::config::core::v3::{
        Address, EnvoyInternalAddress, SocketAddress, address, envoy_internal_address::AddressNameSpecifier,
        socket_address::PortSpecifier,
    },
    google::protobuf::{Any, Timestamp},
};
use ambit_runtime::admin::Reply;
use http::StatusCode;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, SerializeOptions, Value};

/// Pages are written one after the other.
static WRITING: Mutex<()> = Mutex::new(());
/// How deep messages may be in one another. An envelope is read only when it is written, so that its depth is bounded by nothing else, and the
/// stack is.
const DEEPEST: usize = 200;
/// What has a message of any type in it.
pub const ENVELOPE: &str = "google.protobuf.Any";

/// What describes the messages. It takes some MB, and is made for each page and dropped with it; there is one at a time.
pub struct Envoy {
    pool: DescriptorPool,
    _turn: MutexGuard<'static, ()>,
}

impl Envoy {
    /// Reads the descriptions, after whoever has them now has dropped them.
    pub fn new() -> Result<Self, String> {
        let turn = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = DescriptorPool::decode(ambit_api::ENVOY_DESCRIPTORS);
        pool.map(|pool| Self { pool, _turn: turn }).map_err(|error| format!("the descriptions of Envoy's messages: {error}"))
    }

    /// A message as JSON, with what is not set if `defaults`.
    ///
    /// # Errors
    /// When it, or something in it, is of a type that is not described, or broken, or nested too deeply.
    pub fn json<M: Message + Name>(&self, message: &M, defaults: bool) -> Result<Vec<u8>, String> {
        let name = M::full_name();
        let Some(description) = self.pool.get_message_by_name(&name) else { return Err(format!("{name} is not described")) };
        let encoded = message.encode_to_vec();
        let message = DynamicMessage::decode(description, encoded.as_slice()).map_err(|error| format!("{name}: {error}"))?;
        self.bound(&message, DEEPEST).map_err(|error| format!("{name}: {error}"))?;
        let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(!defaults);
        let mut body = Vec::new();
        let mut serializer = serde_json::Serializer::pretty(&mut body);
        message.serialize_with_options(&mut serializer, &options).map_err(|error| format!("{name}: {error}"))?;
        body.push(b'\n');
        Ok(body)
    }

    /// The message in an envelope.
    ///
    /// # Errors
    /// When it is of a type that is not described, or broken.
    pub fn opened(&self, envelope: &Any) -> Result<DynamicMessage, String> {
        let name = envelope.type_url.rsplit('/').next().unwrap_or_default();
        let Some(description) = self.pool.get_message_by_name(name) else { return Err(format!("{name} is not described")) };
        DynamicMessage::decode(description, envelope.value.as_slice()).map_err(|error| format!("{name}: {error}"))
    }

    /// That a message has no more than so many within one another, with those in envelopes.
    fn bound(&self, message: &DynamicMessage, left: usize) -> Result<(), String> {
        let Some(left) = left.checked_sub(1) else { return Err("messages are nested too deeply".to_owned()) };
        if message.descriptor().full_name() != ENVELOPE {
            return message.fields().try_for_each(|(_, value)| self.bound_in(value, left));
        }
        let Any { type_url, value } = message.transcode_to::<Any>().map_err(|error| error.to_string())?;
        // That it is not described is said when it is written.
        let Some(description) = self.pool.get_message_by_name(type_url.rsplit('/').next().unwrap_or_default()) else {
            return Ok(());
        };
        let inner = DynamicMessage::decode(description, value.as_slice()).map_err(|error| error.to_string())?;
        self.bound(&inner, left)
    }

    fn bound_in(&self, value: &Value, left: usize) -> Result<(), String> {
        match value {
            Value::Message(message) => self.bound(message, left),
            Value::List(values) => values.iter().try_for_each(|value| self.bound_in(value, left)),
            Value::Map(values) => values.values().try_for_each(|value| self.bound_in(value, left)),
            _ => Ok(()),
        }
    }
}

/// A message as a page.
pub fn page<M: Message + Name>(message: &M, defaults: bool) -> Reply {
    written(Envoy::new().and_then(|envoy| envoy.json(message, defaults)))
}

/// What was written, or why it could not be.
pub fn written(json: Result<Vec<u8>, String>) -> Reply {
    match json {
        Ok(body) => Reply::json_text(body),
        Err(error) => Reply::text(format!("{error}\n")).status(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// A message in an envelope that says its type.
pub fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// A moment.
pub fn timestamp(at: SystemTime) -> Option<Timestamp> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Some(Timestamp { seconds: i64::try_from(since.as_secs()).ok()?, nanos: i32::try_from(since.subsec_nanos()).ok()? })
}

/// The address of a socket.
pub fn socket(at: std::net::SocketAddr) -> Address {
    let port_specifier = Some(PortSpecifier::PortValue(at.port().into()));
    let socket = SocketAddress { address: at.ip().to_string(), port_specifier, ..SocketAddress::default() };
    Address { address: Some(address::Address::SocketAddress(socket)) }
}

/// The address of a listener that only the proxy itself connects to.
pub fn internal(listener: &str, endpoint_id: String) -> Address {
    let address_name_specifier = Some(AddressNameSpecifier::ServerListenerName(listener.to_owned()));
    Address {
        address: Some(address::Address::EnvoyInternalAddress(EnvoyInternalAddress { endpoint_id, address_name_specifier })),
    }
}

/// An address as Envoy writes it in a line.
pub fn line(address: &Address) -> String {
    match &address.address {
        Some(address::Address::SocketAddress(socket)) => {
            let port = match &socket.port_specifier {
                Some(PortSpecifier::PortValue(port)) => *port,
                _ => 0,
            };
            match socket.address.contains(':') {
                true => format!("[{}]:{port}", socket.address),
                false => format!("{}:{port}", socket.address),
            }
        }
        Some(address::Address::EnvoyInternalAddress(EnvoyInternalAddress {
            endpoint_id,
            address_name_specifier: Some(AddressNameSpecifier::ServerListenerName(listener)),
        })) => format!("envoy://{listener}/{endpoint_id}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_in_envelopes_are_written_unless_there_are_too_many() {
        let envoy = Envoy::new().unwrap();
        let in_envelopes = |count: usize| (0..count).fold(any(&socket(([10, 0, 0, 1], 80).into())), |inner, _| any(&inner));
        let json = String::from_utf8(envoy.json(&in_envelopes(20), false).unwrap()).unwrap();
        assert!(json.matches("google.protobuf.Any").count() == 20 && json.contains("10.0.0.1"), "{json}");
        let error = envoy.json(&in_envelopes(2000), false).unwrap_err();
        assert!(error.ends_with("nested too deeply"), "{error}");
    }
}
