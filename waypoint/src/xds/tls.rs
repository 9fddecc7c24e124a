//! TLS contexts. We present and check certificates by the rules of the mesh whatever they say, so a context is taken only when it
//! says the same.

use std::{mem::take, sync::Arc};

use ambit_api::envoy::pb::envoy::{
    config::core::v3::{TransportSocket, transport_socket::ConfigType},
    extensions::transport_sockets::tls::v3::{
        CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext, common_tls_context::ValidationContextType,
        subject_alt_name_matcher::SanType, tls_parameters::TlsProtocol,
    },
};
use ambit_model::route::StringMatch;

use super::{
    hcm,
    read::{Compiled, Problem, Under, boolean, finish, required, unpack},
    text,
};

/// The secret with the waypoint's own certificate.
const OWN: &str = "default";
/// The secret with the roots of the mesh.
const ROOTS: &str = "ROOTCA";

fn typed(socket: TransportSocket) -> Compiled<ambit_api::envoy::pb::google::protobuf::Any> {
    let ConfigType::TypedConfig(any) = required(socket.config_type, "typed_config")?;
    Ok(any)
}

/// The server side of the tunnel: the tests that a peer's SPIFFE id must pass one of.
pub fn downstream(socket: TransportSocket) -> Compiled<Vec<StringMatch>> {
    let mut context: DownstreamTlsContext =
        unpack(&typed(socket)?, "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext")?;
    let peers = common(required(context.common_tls_context.take(), "common_tls_context")?).under("common_tls_context")?;
    if !boolean(context.require_client_certificate.take(), false) {
        return Err(Problem::new("a tunnel without client certificate is not implemented"));
    }
    // Sessions are never resumed here.
    context.disable_stateful_session_resumption = false;
    context.session_ticket_keys_type = None;
    finish(&context)?;
    Ok(peers)
}

/// The client side of the tunnel to endpoints.
pub fn upstream(socket: TransportSocket) -> Compiled<()> {
    let mut context: UpstreamTlsContext =
        unpack(&typed(socket)?, "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext")?;
    common(required(context.common_tls_context.take(), "common_tls_context")?).under("common_tls_context")?;
    context.max_session_keys = None;
    finish(&context)
}

fn common(mut context: CommonTlsContext) -> Compiled<Vec<StringMatch>> {
    if let Some(mut params) = context.tls_params.take() {
        for version in [take(&mut params.tls_minimum_protocol_version), take(&mut params.tls_maximum_protocol_version)] {
            if version != TlsProtocol::TlSv13 as i32 {
                return Err(Problem::new("only TLS 1.3 is implemented").under("tls_params"));
            }
        }
        // Ours are the AES-GCM suites of TLS 1.3 whatever is listed: Envoy's lists do not concern TLS 1.3.
        params.cipher_suites.clear();
        finish(&params).under("tls_params")?;
    }
    let own = take(&mut context.tls_certificate_sds_secret_configs);
    if own.len() != 1 || own.iter().any(|secret| secret.name != OWN) {
        return Err(Problem::new(format!("only the secret {OWN:?} is implemented")).under("tls_certificate_sds_secret_configs"));
    }
    if take(&mut context.alpn_protocols).iter().any(|p| p != "h2") {
        return Err(Problem::new("only h2 is implemented").under("alpn_protocols"));
    }
    let Some(ValidationContextType::CombinedValidationContext(mut combined)) = context.validation_context_type.take() else {
        return Err(Problem::new("only combined_validation_context is implemented"));
    };
    let roots = required(combined.validation_context_sds_secret_config.take(), "validation_context_sds_secret_config")?;
    if roots.name != ROOTS {
        return Err(
            Problem::new(format!("only the secret {ROOTS:?} is implemented")).under("validation_context_sds_secret_config")
        );
    }
    let mut peers = Vec::new();
    if let Some(mut validation) = combined.default_validation_context.take() {
        for mut san in take(&mut validation.match_typed_subject_alt_names) {
            if take(&mut san.san_type) != SanType::Uri as i32 {
                return Err(Problem::new("only URI names are implemented").under("match_typed_subject_alt_names"));
            }
            let matcher = required(san.matcher.take(), "matcher")?;
            finish(&san).under("match_typed_subject_alt_names")?;
            peers.push(text::string(matcher).under("match_typed_subject_alt_names")?);
        }
        finish(&validation).under("default_validation_context")?;
    }
    finish(&combined)?;
    finish(&context)?;
    Ok(peers)
}

/// What clients outside of the mesh are shown.
pub struct Shown {
    /// The names of the secrets with the certificates; never empty.
    pub secrets: Vec<Arc<str>>,
    /// The protocols of ALPN, the dearest first.
    pub alpn: Vec<String>,
}

/// The server side for clients outside of the mesh, who show no certificate.
pub fn shown(socket: TransportSocket) -> Compiled<Shown> {
    let mut context: DownstreamTlsContext =
        unpack(&typed(socket)?, "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext")?;
    let mut common = required(context.common_tls_context.take(), "common_tls_context")?;
    if boolean(context.require_client_certificate.take(), false) {
        return Err(Problem::new("require_client_certificate is not implemented where clients come from outside of the mesh"));
    }
    finish(&context)?;
    let mut params = required(common.tls_params.take(), "tls_params").under("common_tls_context")?;
    let versions = (take(&mut params.tls_minimum_protocol_version), take(&mut params.tls_maximum_protocol_version));
    if versions != (TlsProtocol::TlSv12 as i32, TlsProtocol::TlSv13 as i32) {
        return Err(Problem::new("only TLS 1.2 to TLS 1.3 is implemented").under("common_tls_context.tls_params"));
    }
    finish(&params).under("common_tls_context.tls_params")?;
    let mut secrets: Vec<Arc<str>> = Vec::new();
    for secret in take(&mut common.tls_certificate_sds_secret_configs) {
        hcm::over_ads(secret.sds_config).under("common_tls_context.tls_certificate_sds_secret_configs")?;
        secrets.push(secret.name.into());
    }
    if secrets.is_empty() {
        return Err(
            Problem::new("a context without tls_certificate_sds_secret_configs is not implemented").under("common_tls_context")
        );
    }
    let alpn = take(&mut common.alpn_protocols);
    if let Some(other) = alpn.iter().find(|protocol| !matches!(protocol.as_str(), "h2" | "http/1.1")) {
        return Err(Problem::new(format!("{other} is not implemented")).under("common_tls_context.alpn_protocols"));
    }
    finish(&common).under("common_tls_context")?;
    Ok(Shown { secrets, alpn })
}
