//! TLS as HBONE has it: version 1.3, both ends with certificates, no session resumption. And as clients outside of the mesh have it.

use ambit_api::envoy::pb::envoy::config::core::v3::{DataSource, TransportSocket, data_source::Specifier};
use ambit_api::envoy::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use ambit_api::envoy::pb::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::SessionTicketKeysType;
use ambit_api::envoy::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use ambit_api::envoy::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use ambit_api::envoy::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, Secret, SubjectAltNameMatcher,
    TlsCertificate, TlsParameters, UpstreamTlsContext, secret::Type,
};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use super::wire::{ads, bool_value, local_sds, matches, transport_socket};
use crate::source::crd::secret::Pair;

/// Name of the secret with the waypoint's own certificate and key.
pub const OWN_CERTIFICATE: &str = "default";
/// Name of the secret with the roots of the mesh.
pub const ROOTS: &str = "ROOTCA";

const TLS: &str = "envoy.transport_sockets.tls";

/// The server end: clients show a certificate of the mesh, in its trust domain.
pub fn downstream(trust_domain: &str) -> Option<TransportSocket> {
    let context = DownstreamTlsContext {
        common_tls_context: Some(common(trust_domain)),
        require_client_certificate: bool_value(true),
        disable_stateful_session_resumption: true,
        session_ticket_keys_type: Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)),
        ..Default::default()
    };
    transport_socket(TLS, &context)
}

/// The client end. The exact identity is added per connection; see [`super::names::UPSTREAM_SANS`].
pub fn upstream(trust_domain: &str) -> Option<TransportSocket> {
    let context = UpstreamTlsContext { common_tls_context: Some(common(trust_domain)), ..Default::default() };
    transport_socket(TLS, &context)
}

/// The server end for clients outside of the mesh, who show no certificate: the secrets, of which the one for their server name is shown, and
/// what is said to be spoken in it.
pub fn at_edge(secrets: &[String], alpn: &[&str]) -> Option<TransportSocket> {
    let secret = |name: &String| SdsSecretConfig { name: name.clone(), sds_config: ads() };
    let common = CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..Default::default()
        }),
        alpn_protocols: alpn.iter().copied().map(Into::into).collect(),
        tls_certificate_sds_secret_configs: secrets.iter().map(secret).collect(),
        ..Default::default()
    };
    transport_socket(TLS, &DownstreamTlsContext { common_tls_context: Some(common), ..Default::default() })
}

/// A secret with a certificate and its key.
pub fn certificate(name: &str, pair: &Pair) -> Secret {
    let source =
        |bytes: &[u8]| Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes.to_vec())), ..Default::default() });
    let pair =
        TlsCertificate { certificate_chain: source(&pair.certificate), private_key: source(&pair.key), ..Default::default() };
    Secret { name: name.into(), r#type: Some(Type::TlsCertificate(pair)) }
}

fn common(trust_domain: &str) -> CommonTlsContext {
    let secret = |name: &str| SdsSecretConfig { name: name.into(), sds_config: local_sds() };
    let domain = SubjectAltNameMatcher {
        san_type: SanType::Uri.into(),
        matcher: Some(matches(MatchPattern::Prefix(format!("spiffe://{trust_domain}/")))),
        ..Default::default()
    };
    #[allow(deprecated)]
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: vec![domain],
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(secret(ROOTS)),
        ..Default::default()
    };
    CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv13.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..Default::default()
        }),
        alpn_protocols: vec!["h2".into()],
        tls_certificate_sds_secret_configs: vec![secret(OWN_CERTIFICATE)],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
        ..Default::default()
    }
}
