//! From flags to a client of the API server.

use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::failure::chain;
use crate::source::SourceError;

/// A client for the cluster that the program runs in, or for a context of a kubeconfig file (its current one by default). Nothing is
/// asked of the API server yet.
///
/// # Errors
/// When there is no such file or context, or the program does not run in a cluster.
pub async fn connect(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Client, SourceError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let error = |error: &dyn std::error::Error| SourceError::Client(format!("{}: {}", path.display(), chain(error)));
            let file = Kubeconfig::read_from(path).map_err(|cause| error(&cause))?;
            let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
            Config::from_custom_kubeconfig(file, &options).await.map_err(|cause| error(&cause))?
        }
        None => Config::incluster().map_err(|cause| {
            SourceError::Client(format!("not in a cluster ({}); outside of one give --kubeconfig FILE", chain(&cause)))
        })?,
    };
    // The watches and the writers have pauses of their own; a second layer of repeats would hide failures from the metrics.
    config.default_retry = false;
    Client::try_from(config).map_err(|cause| SourceError::Client(chain(&cause)))
}
