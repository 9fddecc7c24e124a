//! Envoy's messages as JSON, with the names that their fields have in its `.proto` files.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

/// What describes the messages. It takes some MB, and is made for each page and dropped with it.
pub struct Envoy(DescriptorPool);

impl Envoy {
    /// Reads the descriptions.
    pub fn new() -> Result<Self, String> {
        let pool = DescriptorPool::decode(ambit_api::ENVOY_DESCRIPTORS);
        pool.map(Self).map_err(|error| format!("the descriptions of Envoy's messages: {error}"))
    }

    /// A message as JSON, with what is not set if `defaults`.
    ///
    /// # Errors
    /// When it, or something in it, is of a type that is not described, or broken.
    pub fn json<M: Message + Name>(&self, message: &M, defaults: bool) -> Result<Vec<u8>, String> {
        let name = M::full_name();
        let Some(description) = self.0.get_message_by_name(&name) else { return Err(format!("{name} is not described")) };
        let encoded = message.encode_to_vec();
        let message = DynamicMessage::decode(description, encoded.as_slice()).map_err(|error| format!("{name}: {error}"))?;
        let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(!defaults);
        let mut body = Vec::new();
        let mut serializer = serde_json::Serializer::pretty(&mut body);
        message.serialize_with_options(&mut serializer, &options).map_err(|error| format!("{name}: {error}"))?;
        body.push(b'\n');
        Ok(body)
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
