//! `ambit envoy`: an unmodified Envoy as a waypoint of this mesh.
//!
//! Envoy is started with a bootstrap that names one unix socket. Behind it, this process serves what a waypoint's own
//! code would do by itself: its certificate and the mesh's roots (SDS), renewed at half of their life; and the way to
//! the control plane (`relay`), with the service-account token read anew for each stream. Envoy gets its listeners,
//! routes, clusters and endpoints from the same resources that configure our own waypoint.

mod bootstrap;
mod config;
mod local;
mod locate;
mod process;
mod relay;
mod secrets;

pub use config::{Config, XdsMode};
pub use locate::locate;

use ambit_identity::SpiffeId;
use ambit_tls::control_plane::{ControlPlane, Credentials};
use ambit_tls::{CaClient, CaConfig};

use crate::error::{Error, Result};
use process::Envoy;
use relay::Relay;
use secrets::Secrets;

/// Runs Envoy until it ends or this process is told to stop by SIGTERM or SIGINT.
///
/// # Errors
/// When there is no Envoy, the control plane gives no certificate, or Envoy ends by itself.
pub async fn run(config: Config) -> Result<()> {
    let shutdown = ambit_runtime::signal::shutdown().map_err(|error| Error::part("waiting for signals", error))?;
    run_until(config, async { tracing::info!(signal = %shutdown.await, "stopping Envoy") }).await
}

/// Runs Envoy until it ends or `stop` completes.
///
/// # Errors
/// As [`run`].
pub async fn run_until(config: Config, stop: impl Future<Output = ()>) -> Result<()> {
    tokio::pin!(stop);
    let binary = locate(config.envoy.as_deref()).await?;
    let id = SpiffeId::new(config.trust_domain.clone(), config.namespace.clone(), config.service_account.clone());
    let credentials = Credentials::new(&config.token, &config.cluster_id);
    let control_plane = |address: &str| {
        let mut way = ControlPlane::new(address, &config.ca_root);
        way.server_name.clone_from(&config.server_name);
        way
    };
    let authority = control_plane(config.ca_address.as_deref().unwrap_or(&config.xds_address));
    let client = CaClient::new(CaConfig::new(authority, credentials.clone(), false))
        .map_err(|error| Error::part("reaching the certificate authority", error))?;
    let channel = control_plane(&config.xds_address).channel();
    let channel = channel.map_err(|error| Error::part("reaching the control plane", error))?;

    let secrets = Secrets::new();
    let obtained = tokio::select! {
        obtained = secrets.obtain(&client, &id) => obtained,
        // The authority may take its time.
        () = &mut stop => return Ok(()),
    };
    let valid_until = obtained.map_err(|error| Error::part(format!("obtaining the certificate of {id}"), error))?;
    let directory = process::work_directory(config.work_dir.as_deref())?;
    let socket = directory.path().join("envoy.sock");
    let local = local::serve(&socket, secrets.clone(), Relay::new(channel, credentials))?;
    let bootstrap = directory.path().join("bootstrap.json");
    process::write(&bootstrap, &bootstrap::render(&config, &socket).to_string()).await?;
    let mut envoy = Envoy::start(&binary, &bootstrap, &config)?;
    tracing::info!(binary = %binary.display(), %id, admin = %config.admin, "Envoy runs as a waypoint");

    tokio::select! {
        ended = envoy.ended() => ended,
        failed = local => failed,
        never = secrets.keep_renewed(&client, &id, valid_until) => match never {},
        () = &mut stop => {
            envoy.stop(config.drain).await;
            Ok(())
        }
    }
}
