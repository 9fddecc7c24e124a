//! Connection facts that filters keep (`set_filter_state`). Only the ones the waypoint's own design needs are known, each with the one
//! source it may have.

use std::mem::take;

use ambit_api::envoy::pb::envoy::{
    config::core::v3::substitution_format_string::Format,
    extensions::filters::common::set_filter_state::v3::{FilterStateValue, filter_state_value},
};

use super::{
    read::{Compiled, Problem, finish, required},
    route::inline,
};

/// The address the client asked for.
pub const LOCAL_ADDRESS: &str = "envoy.filters.listener.original_dst.local_ip";
/// The client's address.
pub const REMOTE_ADDRESS: &str = "envoy.filters.listener.original_dst.remote_ip";
/// What `x-forwarded-client-cert` says of the client.
pub const CLIENT_CERTIFICATE: &str = "io.ambit.forwarded_client_cert";
/// The identity that the upstream must prove.
pub const UPSTREAM_IDENTITY: &str = "io.ambit.upstream_identity";
/// The same under the name it had first.
pub const UPSTREAM_IDENTITY_OLD: &str = "ambit.upstream_identity";
/// The names of which Envoy wants one in the upstream's certificate.
pub const UPSTREAM_NAMES: &str = "envoy.network.upstream_subject_alt_names";

/// A fact's key and the text it is made from.
pub fn value(mut value: FilterStateValue) -> Compiled<(String, String)> {
    let filter_state_value::Key::ObjectKey(key) = required(value.key.take(), "object_key")?;
    let filter_state_value::Value::FormatString(mut format) = required(value.value.take(), "format_string")?;
    format.omit_empty_values = false;
    #[allow(deprecated)]
    let text = match required(format.format.take(), "format")? {
        Format::TextFormatSource(source) => inline(source)?,
        Format::TextFormat(text) => text,
        Format::JsonFormat(_) => return Err(Problem::new("json_format is not implemented")),
    };
    finish(&format)?;
    // How long a fact lives and what it is called inside Envoy do not matter here: it is known for the whole connection.
    take(&mut value.factory_key);
    value.shared_with_upstream = 0;
    value.skip_if_empty = false;
    #[allow(deprecated)]
    {
        value.read_only = false;
    }
    finish(&value)?;
    Ok((key, text))
}
