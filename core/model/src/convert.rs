//! From the wire to the types that are reasoned about. What cannot be understood is an error for that resource alone.

mod address;
mod authorization;

use ambit_api::workload as wire;
use ambit_identity::IdentityError;
use ipnet::IpNet;
use prost::Message as _;

use crate::{
    address::Network,
    policy::{self, Policy, PolicyKey, PolicyKeyError},
    service::Service,
    workload::Workload,
};
use address::{ip, prefix};

/// Why a resource was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The bytes are neither an IPv4 nor an IPv6 address.
    #[error("{field} has {length} bytes, which is no IP address")]
    IpAddress {
        /// Which field.
        field: &'static str,
        /// How many bytes it has.
        length: usize,
    },
    /// The prefix is longer than the address.
    #[error("{field} has a prefix of {length} bits, longer than the address")]
    Prefix {
        /// Which field.
        field: &'static str,
        /// The prefix, in bits.
        length: u32,
    },
    /// The number is no port.
    #[error("{field} is {value}, which is no port")]
    Port {
        /// Which field.
        field: &'static str,
        /// The number.
        value: u32,
    },
    /// The number is not one that this version of the contract knows.
    #[error("{field} has the unknown value {value}")]
    Enumeration {
        /// Which field.
        field: &'static str,
        /// The number.
        value: i32,
    },
    /// The text is not of the form `namespace/hostname`.
    #[error("{0:?} is not of the form namespace/hostname")]
    ServiceKey(String),
    /// The text is not of the form `namespace/name`.
    #[error(transparent)]
    PolicyKey(#[from] PolicyKeyError),
    /// A part of an identity is not valid.
    #[error("{field}: {source}")]
    Identity {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// Something that is valid but that this proxy cannot do, so that taking the resource would do something else than was asked.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// The resource is not of the form that its type says.
    #[error("cannot be decoded: {0}")]
    Decode(String),
    /// The resource has another name than what it says of itself.
    #[error("is named {name:?} but says it is {inside:?}")]
    Name {
        /// The resource's name.
        name: String,
        /// What its fields say.
        inside: String,
    },
}

/// One entry of the address table.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// A workload.
    Workload(Box<Workload>),
    /// A service.
    Service(Box<Service>),
}

impl Entry {
    /// The name of the resource: the uid of a workload, `namespace/hostname` of a service.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Workload(workload) => workload.uid.to_string(),
            Self::Service(service) => service.key.to_string(),
        }
    }

    /// Reads the resource called `name` from the bytes of an `istio.workload.Address`.
    ///
    /// # Errors
    /// When the bytes are no such message, or say something that cannot be used, or say they have another name.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self, ConvertError> {
        let address = wire::Address::decode(bytes).map_err(|error| ConvertError::Decode(error.to_string()))?;
        let entry = Self::try_from(address)?;
        let inside = entry.name();
        if inside == name { Ok(entry) } else { Err(ConvertError::Name { name: name.to_owned(), inside }) }
    }
}

/// The addresses that the bytes of an unreadable `istio.workload.Address` speak for, as far as can be told: what goes there must not
/// be taken for traffic to the world outside, which passes through in clear and around every waypoint.
#[must_use]
pub fn claimed_addresses(bytes: &[u8]) -> Vec<(Network, IpNet)> {
    let Ok(wire::Address { r#type: Some(entry) }) = wire::Address::decode(bytes) else { return Vec::new() };
    let net = |network: &str, address: &[u8], length: Option<u32>| {
        let ip = ip("address", address).ok()?;
        // A prefix that is none claims the one address.
        let whole = length.and_then(|length| prefix("address", address, length).ok());
        Some((Network::from(network), whole.unwrap_or_else(|| IpNet::from(ip))))
    };
    match entry {
        wire::address::Type::Workload(it) => it.addresses.iter().filter_map(|ip| net(&it.network, ip, None)).collect(),
        wire::address::Type::Service(it) => it.addresses.iter().filter_map(|a| net(&a.network, &a.address, a.length)).collect(),
    }
}

/// A policy that could not be read, with what is known of it: everything in its scope must be denied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {error}")]
pub struct UnreadablePolicy {
    /// Its key, by its resource name.
    pub key: PolicyKey,
    /// Its scope, as far as it can be told: one of a later version is taken to be within its namespace.
    pub scope: policy::Scope,
    /// What is wrong with it.
    pub error: ConvertError,
}

/// Reads the policy called `name` from the bytes of an `istio.security.Authorization`.
///
/// # Errors
/// When the bytes are no such message, or say something that cannot be enforced, or say they have another name.
pub fn decode_policy(name: &str, bytes: &[u8]) -> Result<Policy, Box<UnreadablePolicy>> {
    let key = PolicyKey::of_resource(name);
    let unreadable = |scope, error| Box::new(UnreadablePolicy { key: key.clone(), scope, error });
    let scope = authorization::scope_of_unreadable(bytes);
    let wire = match ambit_api::security::Authorization::decode(bytes) {
        Ok(wire) => wire,
        Err(error) => return Err(unreadable(scope, ConvertError::Decode(error.to_string()))),
    };
    match authorization::policy(wire, bytes) {
        Ok(policy) if policy.key == key => Ok(policy),
        Ok(policy) => Err(unreadable(scope, ConvertError::Name { name: name.to_owned(), inside: policy.key.to_string() })),
        Err(error) => Err(unreadable(scope, error)),
    }
}

impl TryFrom<wire::Address> for Entry {
    type Error = ConvertError;
    fn try_from(address: wire::Address) -> Result<Self, ConvertError> {
        match address.r#type.ok_or(ConvertError::Missing("type"))? {
            wire::address::Type::Workload(workload) => Ok(Self::Workload(Box::new(workload.try_into()?))),
            wire::address::Type::Service(service) => Ok(Self::Service(Box::new(service.try_into()?))),
        }
    }
}

#[cfg(test)]
mod fields;
#[cfg(test)]
mod tests;
