//! The three listeners of a waypoint, and those at the edge of the mesh.
//!
//! [`terminate`] ends HBONE and hands each tunnel's connection to the internal listener [`inner`], which sees it as
//! coming from the client and going to the service. [`originate`] opens HBONE to an endpoint. What changes often
//! (routes, endpoints, known authorities) is in route configurations and endpoint assignments: a change of a listener
//! makes Envoy drain its connections.

mod access_log;
mod edge;
mod http;
mod inner;
mod matcher;
mod originate;
mod terminate;

use ambit_api::envoy::pb::envoy::config::listener::v3::{
    Filter, Listener, ListenerFilter, filter, listener::InternalListenerConfig, listener::ListenerSpecifier, listener_filter,
};
use ambit_api::envoy::pb::envoy::extensions::filters::common::set_filter_state::v3::FilterStateValue;
use ambit_api::envoy::pb::envoy::extensions::filters::common::set_filter_state::v3::filter_state_value::{
    Key, SharedWithUpstream, Value,
};
use ambit_api::envoy::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use prost::{Message, Name};

use super::wire::{Any, any, text_format};

pub use self::http::http_filter;
pub use edge::{Carried, Secure, carrying, edge, secure};
pub use inner::{Chains, ServicePortChains, inner};
pub use originate::originate;
pub use terminate::{KnownAuthority, routes as terminate_routes, terminate};

/// A network filter.
fn network_filter<T: Message + Name>(name: &str, config: &T) -> Filter {
    network_filter_any(name, any(config))
}

fn network_filter_any(name: &str, config: Any) -> Filter {
    Filter { name: name.into(), config_type: Some(filter::ConfigType::TypedConfig(config)) }
}

fn listener_filter<T: Message + Name>(name: &str, config: &T) -> ListenerFilter {
    let config_type = Some(listener_filter::ConfigType::TypedConfig(any(config)));
    ListenerFilter { name: name.into(), config_type, ..Default::default() }
}

/// Takes source and destination of an internal connection from its filter state or metadata.
fn original_destination() -> ListenerFilter {
    listener_filter("envoy.filters.listener.original_dst", &OriginalDst::default())
}

fn internal_listener(name: &str) -> Listener {
    Listener {
        name: name.into(),
        listener_specifier: Some(ListenerSpecifier::InternalListener(InternalListenerConfig {})),
        ..Default::default()
    }
}

/// Sets a filter state object from a format; `factory` names its type when that is not the key itself.
fn filter_state(key: &str, factory: &str, format: &str, shared: SharedWithUpstream) -> FilterStateValue {
    FilterStateValue {
        factory_key: factory.into(),
        shared_with_upstream: shared.into(),
        key: Some(Key::ObjectKey(key.into())),
        value: Some(Value::FormatString(text_format(format))),
        ..Default::default()
    }
}
