//! The client's identity, for the service: the header `x-forwarded-client-cert`.
//!
//! Envoy writes the header from the certificate of the connection that a request comes on, and the connection inside a tunnel has none: what
//! is said of the client was kept when its tunnel was taken (`terminate`). It is put into the request before anything looks at it, in place
//! of what the client may have written itself: routes, rules, authorizers and processors see what the service sees.

use ambit_api::envoy::pb::envoy::config::common::mutation_rules::v3::{
    HeaderMutation as Change, header_mutation::Action as DoesChange,
};
use ambit_api::envoy::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use ambit_api::envoy::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, TypedExtensionConfig};
use ambit_api::envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::ForwardClientCertDetails,
};
use ambit_api::envoy::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation as EarlyChanges;

use super::super::super::names::CLIENT_CERTIFICATE;
use super::super::super::wire::any;

const HEADER: &str = "x-forwarded-client-cert";

/// Has each request say who its client is, and nothing else of it.
pub fn tell(manager: &mut HttpConnectionManager) {
    let header =
        HeaderValue { key: HEADER.into(), value: format!("%FILTER_STATE({CLIENT_CERTIFICATE}:PLAIN)%"), ..Default::default() };
    let said = HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    };
    // Nothing is added where nothing is known, so that what was there has to be taken out in any case.
    let changes = [DoesChange::Remove(HEADER.into()), DoesChange::Append(said)];
    let early = EarlyChanges { mutations: changes.map(|change| Change { action: Some(change) }).into() };
    manager.early_header_mutation_extensions = vec![TypedExtensionConfig {
        name: "envoy.http.early_header_mutation.header_mutation".into(),
        typed_config: Some(any(&early)),
    }];
    // Else Envoy would take it out again, as the connection is none of TLS.
    manager.forward_client_cert_details = ForwardClientCertDetails::AlwaysForwardOnly.into();
}
