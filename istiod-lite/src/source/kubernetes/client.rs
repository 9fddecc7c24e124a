//! From flags to a client of the API server.

use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
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
            client_config(file, context).await.map_err(|cause| error(&cause))?
        }
        None => Config::incluster().map_err(|cause| {
            SourceError::Client(format!("not in a cluster ({}); outside of one give --kubeconfig FILE", chain(&cause)))
        })?,
    };
    // The watches and the writers have pauses of their own; a second layer of repeats would hide failures from the metrics.
    config.default_retry = false;
    Client::try_from(config).map_err(|cause| match cause {
        kube::Error::ProxyProtocolDisabled { proxy_url, .. } => SourceError::Client(format!(
            "the API server is to be asked through the proxy {proxy_url}, which is not supported; unset HTTPS_PROXY, or take proxy-url out \
             of the kubeconfig"
        )),
        cause => SourceError::Client(chain(&cause)),
    })
}

/// What a kubeconfig says of one of its contexts (its current one by default). A proxy in the environment counts only for a server that is not
/// on this machine.
///
/// # Errors
/// When there is no such context, or a file that it names cannot be read.
pub async fn client_config(file: Kubeconfig, context: Option<&str>) -> Result<Config, KubeconfigError> {
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let asked = proxies(&file);
    let mut config = Config::from_custom_kubeconfig(file, &options).await?;
    pass_proxy(&mut config, &asked);
    Ok(config)
}

/// The proxies that a kubeconfig asks for by itself.
fn proxies(file: &Kubeconfig) -> Vec<String> {
    file.clusters.iter().filter_map(|named| named.cluster.as_ref()?.proxy_url.clone()).collect()
}

/// Leaves out a proxy that nobody asked for: the client takes that of HTTPS_PROXY for every server, also for one on this machine.
fn pass_proxy(config: &mut Config, asked: &[String]) {
    let host = config.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let wanted = config.proxy_url.as_ref().is_some_and(|proxy| asked.iter().any(|asked| reads_as(asked, proxy)));
    if here && !wanted {
        config.proxy_url = None;
    }
}

fn reads_as<T: FromStr + PartialEq>(text: &str, value: &T) -> bool {
    text.parse::<T>().is_ok_and(|read| read == *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_server_on_this_machine_is_asked_through_a_proxy_only_if_the_kubeconfig_says_so() {
        let proxy = |server: &str, kubeconfig: &str| {
            let file = Kubeconfig::from_yaml(kubeconfig).unwrap();
            let mut config = Config::new(server.parse().unwrap());
            config.proxy_url = Some("http://proxy.example:3128".parse().unwrap());
            pass_proxy(&mut config, &proxies(&file));
            config.proxy_url.is_some()
        };
        let silent = "{clusters: [{name: a, cluster: {server: 'https://x'}}]}";
        let asks = "{clusters: [{name: a, cluster: {server: 'https://x', proxy-url: 'http://proxy.example:3128'}}]}";
        for here in ["https://127.0.0.1:6443", "https://[::1]:6443", "https://localhost:6443"] {
            assert!(!proxy(here, silent) && proxy(here, asks), "{here}");
        }
        assert!(proxy("https://203.0.113.7:6443", silent), "it would not be in reach otherwise");
    }
}
