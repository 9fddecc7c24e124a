//! The unix socket between Envoy and this process.

use std::path::Path;

use ambit_api::envoy::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use ambit_api::envoy::pb::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryServiceServer;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;

use super::relay::Relay;
use super::secrets::Secrets;
use crate::error::{Error, Result};

/// Serves secrets and discovery on a socket that only this user can open, for as long as the future is polled.
///
/// # Errors
/// When the socket cannot be made, or serving fails.
pub fn serve(socket: &Path, secrets: Secrets, relay: Relay) -> Result<impl Future<Output = Result<()>> + use<>> {
    // The directory is readable by its owner alone, and so is the socket in it.
    let listener = UnixListener::bind(socket).map_err(|cause| Error::path("making the socket", socket, cause))?;
    let discovery =
        AggregatedDiscoveryServiceServer::new(relay).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
    let server = tonic::transport::Server::builder()
        .add_service(SecretDiscoveryServiceServer::new(secrets))
        .add_service(discovery)
        .serve_with_incoming(UnixListenerStream::new(listener));
    Ok(async { server.await.map_err(|error| Error::part("serving Envoy", error)) })
}
